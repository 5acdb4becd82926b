// What `quest doctor` and `quest-run doctor` say about the machine: facts in sections, and what is
// missing with the way to get it. Collecting reads the system; format_report and advise are
// functions of what was collected.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "quest/base/cpu_features.h"
#include "quest/base/memory_info.h"

namespace quest::cli {

struct ReportSection {
  std::string title;
  std::vector<std::pair<std::string, std::string>> facts;  // name, value
};

// "Title\n  name   value\n...", values of a section in one column.
std::string format_report(const std::vector<ReportSection>& sections);

// The most memory that the process has held until now, with the pages of files that it mapped;
// from the text of /proc/self/status. 0: not known.
int64_t parse_peak_memory(const std::string& text);

// What advise() looks at.
struct MachineFacts {
  CpuFeatures cpu;
  IsaLevel highest = IsaLevel::kScalar;
  IsaLevel chosen = IsaLevel::kScalar;  // lower than highest if QUEST_ISA says so
  MemoryInfo memory;
  int threads = 1;  // that torch computes with
  bool has_gnuplot = false;
  bool has_gpu_driver = false;      // an NVIDIA driver is loaded
  bool is_built_for_gpu = false;    // the build has a GPU side
  std::string no_gpu_reason;        // why that side can use no GPU here; empty: it can
  bool has_amx_without_os = false;  // the CPU lists AMX, the system does not let programs use it
};

// CPU, cores, instruction sets, level, memory.
ReportSection machine_section(const MachineFacts& facts);

// One sentence for each thing that is missing or slows this program down, with the remedy.
std::vector<std::string> advise(const MachineFacts& facts);

// "AVX2, FMA, F16C, AVX-512 (F BW DQ VL VNNI ...), AMX (TILE INT8 BF16)"; "none known" if so.
std::string instruction_sets(const CpuFeatures& cpu);

}  // namespace quest::cli
