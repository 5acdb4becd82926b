#include "quest/base/memory_info.h"

#include <fstream>
#include <iterator>
#include <sstream>

namespace quest {

MemoryInfo parse_meminfo(const std::string& text) {
  MemoryInfo info;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    std::string name;
    int64_t kibibytes = 0;
    if (!(words >> name >> kibibytes)) continue;
    if (name == "MemTotal:") info.total_bytes = kibibytes * 1024;
    if (name == "MemAvailable:") info.available_bytes = kibibytes * 1024;
  }
  return info;
}

MemoryInfo system_memory() {
  std::ifstream file("/proc/meminfo");
  return parse_meminfo({std::istreambuf_iterator<char>(file), {}});
}

}  // namespace quest
