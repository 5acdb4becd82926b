#include "quest/train/allocator.h"

#include <cstdlib>
#include <features.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace quest::train {

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
#endif
}

}  // namespace quest::train
