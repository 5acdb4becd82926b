// quest doctor: what this machine has, which code will run on it, and what is missing.
#include <dlfcn.h>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/Version.h>
#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/cpu_features.h"
#include "quest/base/memory_info.h"
#include "quest/base/progress.h"
#include "quest/base/speed_of_light.h"
#include "quest/base/version.h"
#include "quest/cli/commands.h"
#include "quest/cli_run/machine_report.h"
#include "quest/kernels/cuda/stream.h"
#include "quest/kernels/gemm_lowbit.h"
#include "quest/kernels/hadamard_quantize.h"
#include "quest/ops/attention.h"
#include "quest/ops/gpu.h"
#include "quest/ops/gpu_path.h"
#include "quest/ops/quant_linear.h"
#include "quest/plot/gnuplot.h"

namespace quest::cli {
namespace {

namespace fs = std::filesystem;

// Of the examples of plans: the 30M model.
constexpr int64_t kWidth = 640;
constexpr ops::AttentionShape kAttention{5, 5, 128};

// The content of a file of the system, or nothing where it does not exist.
std::string system_text(const fs::path& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// The folder that the loaded libtorch came from.
std::string torch_folder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&at::show_config), &info) == 0) return "unknown folder";
  return fs::path(info.dli_fname).parent_path().parent_path().string();
}

// The value of "KEY=value" in torch's description of its build.
std::string torch_build_setting(const std::string& key) {
  const std::string config = at::show_config();
  const size_t start = config.find(key + "=");
  if (start == std::string::npos) return "unknown";
  const size_t value = start + key.size() + 1;
  return config.substr(value, config.find_first_of(", \n", value) - value);
}

MachineFacts collect_facts() {
  MachineFacts facts;
  facts.cpu = cpu_features();
  facts.highest = highest_isa_level();
  facts.chosen = isa_level();
  facts.memory = system_memory();
  facts.threads = at::get_num_threads();
  facts.has_gnuplot = !plot::find_gnuplot().empty();
  facts.has_gpu_driver = fs::exists("/proc/driver/nvidia/version");
  facts.is_built_for_gpu = kernels::cuda::compiled_with_cuda();
  facts.no_gpu_reason = ops::gpu_unusable_reason();
  facts.has_amx_without_os =
      !facts.cpu.amx_tile && system_text("/proc/cpuinfo").find(" amx_tile") != std::string::npos;
  return facts;
}

ReportSection torch_section(const MachineFacts& facts) {
  ReportSection section{"Torch", {}};
  section.facts.emplace_back(
      "version", fmt::format("{} in {}", torch_build_setting("TORCH_VERSION"), torch_folder()));
  section.facts.emplace_back(
      "threads", fmt::format("{}, {}", facts.threads, at::hasOpenMP() ? "OpenMP" : "no OpenMP"));
  section.facts.emplace_back("BLAS", torch_build_setting("BLAS_INFO"));
  section.facts.emplace_back(
      "oneDNN", at::globalContext().hasMKLDNN() ? at::get_mkldnn_version() : "not in this torch");
  section.facts.emplace_back("vector level", at::get_cpu_capability());
  return section;
}

ReportSection gpu_section(const MachineFacts& facts) {
  ReportSection section{"GPU", {}};
  const std::string driver = system_text("/proc/driver/nvidia/version");
  section.facts.emplace_back("driver", !driver.empty() ? driver.substr(0, driver.find('\n'))
                                       : facts.no_gpu_reason.empty() ? "unknown"
                                                                     : "none");
  section.facts.emplace_back(
      "this build", facts.is_built_for_gpu
                        ? fmt::format("GPU kernels for {}", kernels::cuda::compiled_architectures())
                        : "for the CPU only");
  if (!facts.no_gpu_reason.empty()) {
    section.facts.emplace_back("GPU", facts.no_gpu_reason);
    return section;
  }
  section.facts.emplace_back("GPU", ops::gpu_description());
  section.facts.emplace_back("path", ops::gpu_path_text(kernels::cuda::device_facts()));
  for (const char* name : {"w4a4", "bf16"}) {
    const QuantRecipe recipe = recipe_from_name(name);
    section.facts.emplace_back(
        fmt::format("product, {}", name),
        ops::product_plan_text(recipe, kWidth, kWidth, at::kBFloat16, at::kCUDA));
  }
  section.facts.emplace_back("attention of training",
                             ops::attention_plan(at::kBFloat16, kAttention, at::kCUDA));
  return section;
}

ReportSection kernels_section() {
  ReportSection section{"Which code runs", {}};
  section.facts.emplace_back("hadamard_quantize", kernels::hadamard_quantize_plan());
  section.facts.emplace_back("gemm_lowbit", kernels::gemm_lowbit_plan());
  for (const char* name : {"w1a1", "w2a2", "w4a4", "w8a8", "w4a16", "fp4", "int4_4of8"}) {
    const QuantRecipe recipe = recipe_from_name(name);
    section.facts.emplace_back(
        fmt::format("product, {}", name),
        fmt::format("bf16: {}; fp32: {}",
                    ops::product_plan_text(recipe, kWidth, kWidth, at::kBFloat16),
                    ops::product_plan_text(recipe, kWidth, kWidth, at::kFloat)));
  }
  section.facts.emplace_back(
      "attention of training",
      fmt::format("bf16: {}; fp32: {}", ops::attention_plan(at::kBFloat16, kAttention),
                  ops::attention_plan(at::kFloat, kAttention)));
  return section;
}

ReportSection tools_section() {
  const fs::path gnuplot = plot::find_gnuplot();
  return {"Tools", {{"gnuplot", gnuplot.empty() ? "not found" : gnuplot.string()}}};
}

void run_doctor(bool measure) {
  const MachineFacts facts = collect_facts();
  std::vector<ReportSection> sections = {machine_section(facts), torch_section(facts),
                                         gpu_section(facts), kernels_section(), tools_section()};
  if (measure) sections[0].facts.emplace_back("measured", describe(cpu_ceilings()));
  fmt::print("{}\n\n{}", version_text(), format_report(sections));
  const std::vector<std::string> advice = advise(facts);
  fmt::print("\n{}\n", advice.empty() ? "Nothing is missing." : "Missing or slow");
  for (const std::string& line : advice) fmt::print("  {}\n", line);
}

}  // namespace

void add_doctor_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "doctor", "what this machine has, which code will run on it, and what is missing");
  auto measure = std::make_shared<bool>(false);
  command->add_flag("--measure", *measure, "also measure the CPU's ceilings (takes a second)");
  command->callback([measure] { run_doctor(*measure); });
}

}  // namespace quest::cli
