// quest-run doctor: what this machine has and which code will run on it.
#include <fstream>
#include <memory>
#include <sstream>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/cpu_features.h"
#include "quest/base/memory_info.h"
#include "quest/base/progress.h"
#include "quest/base/speed_of_light.h"
#include "quest/base/thread_pool.h"
#include "quest/base/version.h"
#include "quest/cli_run/commands.h"
#include "quest/cli_run/machine_report.h"
#include "quest/kernels/deploy.h"
#include "quest/kernels/hadamard_quantize.h"
#include "quest/kernels/packed_gemm.h"

namespace quest::cli {
namespace {

std::string system_text(const char* path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

MachineFacts collect_facts() {
  MachineFacts facts;
  facts.cpu = cpu_features();
  facts.highest = highest_isa_level();
  facts.chosen = isa_level();
  facts.memory = system_memory();
  facts.threads = facts.cpu.usable_cores;  // what --threads says is no lack
  facts.has_gnuplot = true;                // not used here
  facts.has_amx_without_os =
      !facts.cpu.amx_tile && system_text("/proc/cpuinfo").find(" amx_tile") != std::string::npos;
  return facts;
}

ReportSection kernels_section() {
  ReportSection section{"Which code runs", {}};
  section.facts.emplace_back("norms, SwiGLU, attention", kernels::deploy::deploy_plan());
  section.facts.emplace_back("activations", kernels::hadamard_quantize_plan());
  constexpr int64_t kWidth = 2048, kRows = 512;  // of the examples
  for (const char* name : {"w1a1", "w2a2", "w3a3", "w4a4", "w8a8", "w4a16", "fp4", "int4_4of8"}) {
    const QuantRecipe recipe = recipe_from_name(name);
    const auto plan = [&](int64_t rows) {
      return kernels::packed_plan_text(
          kernels::choose_packed_plan(recipe.weight, recipe.activation, rows, kWidth));
    };
    section.facts.emplace_back(fmt::format("product, {}", name),
                               fmt::format("decode: {}; prefill: {}", plan(1), plan(kRows)));
  }
  return section;
}

void run_doctor(const RunOptions& options, bool measure) {
  const MachineFacts facts = collect_facts();
  ReportSection machine = machine_section(facts);
  machine.facts.emplace_back(
      "threads",
      fmt::format("{}", options.threads == 0 ? default_thread_count() : options.threads));
  if (measure) machine.facts.emplace_back("measured", describe(cpu_ceilings()));
  fmt::print("{}\n\n{}", version_text(), format_report({machine, kernels_section()}));
  const std::vector<std::string> advice = advise(facts);
  fmt::print("\n{}\n", advice.empty() ? "Nothing is missing." : "Missing or slow");
  for (const std::string& line : advice) fmt::print("  {}\n", line);
}

}  // namespace

void add_run_doctor_command(CLI::App& app, SharedOptions options) {
  CLI::App* command =
      app.add_subcommand("doctor", "what this machine has and which code will run on it");
  auto measure = std::make_shared<bool>(false);
  command->add_flag("--measure", *measure, "also measure the CPU's ceilings (takes a second)");
  command->callback([options, measure] { run_doctor(*options, *measure); });
}

}  // namespace quest::cli
