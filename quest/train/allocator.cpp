#include "quest/train/allocator.h"

#include <algorithm>
#include <cstdlib>
#include <features.h>

#ifdef __GLIBC__
#include <cstdint>
#include <fstream>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace quest::train {
namespace {

#ifdef __GLIBC__
// Asks for huge pages (2 MB) for the addresses that the heap will take next, before they are used:
// products walk through matrices with large strides, a page each, and look-ups of small pages cost
// some percent of a step, most in virtual machines. Only addresses are reserved here, no memory.
void advise_huge_pages() {
  int overcommit = 2;
  std::ifstream("/proc/sys/vm/overcommit_memory") >> overcommit;
  if (overcommit == 2) return;  // reserved addresses would count as used memory
  constexpr uintptr_t kHugePage = uintptr_t{2} << 20;
  const auto pages = static_cast<uintptr_t>(std::max(0L, sysconf(_SC_PHYS_PAGES)));
  const uintptr_t bytes = pages * static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)) / 2;
  void* block = std::malloc(bytes);
  if (block == nullptr) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(block) + kHugePage - 1) & ~(kHugePage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(block) + bytes) & ~(kHugePage - 1);
  if (end > begin) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  std::free(block);
}
#endif

}  // namespace

void keep_freed_memory() {
#ifdef __GLIBC__
  // Without mmap every block is on the heap; a threshold of -1 means never trim it.
  constexpr int kGrowth = 256 << 20;  // bytes by which the heap grows at least
  const auto set = [](const char* variable, int parameter, int value) {
    if (std::getenv(variable) == nullptr) mallopt(parameter, value);
  };
  set("MALLOC_MMAP_MAX_", M_MMAP_MAX, 0);
  set("MALLOC_TRIM_THRESHOLD_", M_TRIM_THRESHOLD, -1);
  set("MALLOC_TOP_PAD_", M_TOP_PAD, kGrowth);
  advise_huge_pages();
#endif
}

}  // namespace quest::train
