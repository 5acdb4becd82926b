// How much memory the machine has.
#pragma once

#include <cstdint>
#include <string>

namespace quest {

struct MemoryInfo {
  int64_t total_bytes = 0;      // 0: not known
  int64_t available_bytes = 0;  // what programs can still get without swapping
};

// From the text of /proc/meminfo; lines that it does not know are passed over.
MemoryInfo parse_meminfo(const std::string& text);

// Of this machine, now. Zeros where the system has no /proc/meminfo.
MemoryInfo system_memory();

}  // namespace quest
