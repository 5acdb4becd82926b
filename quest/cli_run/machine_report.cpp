#include "quest/cli_run/machine_report.h"

#include <algorithm>
#include <sstream>
#include <string_view>

#include <fmt/format.h>

#include "quest/base/progress.h"

namespace quest::cli {
namespace {

// "A B": the names of those that are there.
std::string listed(const std::vector<std::pair<const char*, bool>>& flags) {
  std::string text;
  for (const auto& [name, present] : flags) {
    if (!present) continue;
    if (!text.empty()) text += ' ';
    text += name;
  }
  return text;
}

}  // namespace

std::string format_report(const std::vector<ReportSection>& sections) {
  std::string text;
  for (const ReportSection& section : sections) {
    size_t width = 0;
    for (const auto& fact : section.facts) width = std::max(width, fact.first.size());
    text += (text.empty() ? "" : "\n") + section.title + "\n";
    for (const auto& [name, value] : section.facts) {
      text += fmt::format("  {:<{}}  {}\n", name, width, value);
    }
  }
  return text;
}

int64_t parse_peak_memory(const std::string& text) {
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string name;
    int64_t kibibytes = 0;
    if (words >> name >> kibibytes && name == "VmHWM:") return kibibytes * 1024;
  }
  return 0;
}

std::string instruction_sets(const CpuFeatures& cpu) {
  std::string text = listed({{"AVX2", cpu.avx2}, {"FMA", cpu.fma}, {"F16C", cpu.f16c}});
  const std::string avx512 = listed({{"F", cpu.avx512f},
                                     {"BW", cpu.avx512bw},
                                     {"DQ", cpu.avx512dq},
                                     {"VL", cpu.avx512vl},
                                     {"VNNI", cpu.avx512vnni},
                                     {"VBMI", cpu.avx512vbmi},
                                     {"BITALG", cpu.avx512bitalg},
                                     {"VPOPCNTDQ", cpu.avx512vpopcntdq},
                                     {"BF16", cpu.avx512bf16}});
  const std::string amx =
      listed({{"TILE", cpu.amx_tile}, {"INT8", cpu.amx_int8}, {"BF16", cpu.amx_bf16}});
  if (!avx512.empty()) text += (text.empty() ? "" : ", ") + fmt::format("AVX-512 ({})", avx512);
  if (!amx.empty()) text += (text.empty() ? "" : ", ") + fmt::format("AMX ({})", amx);
  return text.empty() ? "none known" : text;
}

ReportSection machine_section(const MachineFacts& facts) {
  ReportSection section{"Machine", {}};
  section.facts.emplace_back("CPU", facts.cpu.model_name);
  section.facts.emplace_back("usable cores", fmt::format("{}", facts.cpu.usable_cores));
  section.facts.emplace_back("instruction sets", instruction_sets(facts.cpu));
  section.facts.emplace_back(
      "kernel level",
      fmt::format("{} ({})", isa_level_name(facts.chosen),
                  facts.chosen == facts.highest ? "the highest of this CPU" : "set by QUEST_ISA"));
  section.facts.emplace_back(
      "memory",
      facts.memory.total_bytes == 0
          ? "unknown"
          : fmt::format("{}, {} available", format_quantity(double(facts.memory.total_bytes), "B"),
                        format_quantity(double(facts.memory.available_bytes), "B")));
  return section;
}

std::vector<std::string> advise(const MachineFacts& facts) {
  std::vector<std::string> advice;
  const auto add = [&advice](std::string_view text) { advice.emplace_back(text); };
  if (facts.chosen < facts.highest) {
    add(fmt::format(
        "QUEST_ISA holds the kernels at {} although this CPU can run {}: unset it for full speed.",
        isa_level_name(facts.chosen), isa_level_name(facts.highest)));
  }
  if (facts.highest == IsaLevel::kScalar) {
    add("This CPU has no vector level that the kernels know (AVX2 or better): everything works, "
        "slowly.");
  }
  if (facts.has_amx_without_os) {
    add("The CPU has AMX, but the system does not let programs use it: Linux 5.16 or newer is "
        "needed, and in a virtual machine a host that passes AMX on.");
  }
  if (facts.threads < facts.cpu.usable_cores) {
    add(fmt::format(
        "Torch computes with {} threads on {} usable cores: unset OMP_NUM_THREADS or raise it.",
        facts.threads, facts.cpu.usable_cores));
  }
  constexpr int64_t kLittleMemory = int64_t{2} << 30;
  if (facts.memory.total_bytes > 0 && facts.memory.available_bytes < kLittleMemory) {
    add(fmt::format(
        "Only {} of memory are free: training a 30M model takes about 2 GB at batch 4 x 512.",
        format_quantity(static_cast<double>(facts.memory.available_bytes), "B")));
  }
  if (!facts.has_gnuplot) {
    add("gnuplot is missing, so `quest plot` cannot draw: apt-get install gnuplot-nox.");
  }
  if (facts.has_gpu_driver && !facts.is_built_for_gpu) {
    add("An NVIDIA driver is loaded, but this build is for the CPU: make build PRESET=cuda builds "
        "the GPU side.");
  }
  if (facts.is_built_for_gpu && !facts.no_gpu_reason.empty()) {
    add(fmt::format("This build has a GPU side, but {}.", facts.no_gpu_reason));
  }
  return advice;
}

}  // namespace quest::cli
