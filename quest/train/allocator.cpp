#include "quest/train/allocator.h"

#include <algorithm>
#include <cstdlib>
#include <features.h>

#ifdef __GLIBC__
#include <cstdint>
#include <cstring>
#include <fstream>
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include "quest/base/error.h"
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

// Memory of CPU tensors by malloc, aligned here. LibTorch's own allocator asks posix_memalign,
// which needs a free block that is larger than the one it makes, so that the hole of a freed tensor
// never fits the next one of the same size: the heap kept growing by holes.
class TensorMemory final : public at::Allocator {
 public:
  at::DataPtr allocate(size_t bytes) override {
    void* aligned = nullptr;
    if (bytes > 0) {
      void* block = std::malloc(bytes + kAlignment);
      QUEST_CHECK(block != nullptr, ErrorKind::kEnvironment,
                  "no memory for a tensor of {} bytes; a smaller batch or model needs less", bytes);
      // Malloc's blocks lie on multiples of 16: there are at least 16 bytes before the tensor's.
      const uintptr_t place = (reinterpret_cast<uintptr_t>(block) + kAlignment) & ~(kAlignment - 1);
      aligned = reinterpret_cast<void*>(place);
      std::memcpy(reinterpret_cast<void*>(place - sizeof(block)), &block, sizeof(block));
      c10::profiledCPUMemoryReporter().New(aligned, bytes);
    }
    return {aligned, aligned, &release, at::Device(at::kCPU)};
  }
  at::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static constexpr uintptr_t kAlignment = 64;

  static void release(void* aligned) {
    if (aligned == nullptr) return;
    c10::profiledCPUMemoryReporter().Delete(aligned);
    void* block = nullptr;
    std::memcpy(&block, static_cast<char*>(aligned) - sizeof(block), sizeof(block));
    std::free(block);
  }
};
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
  static TensorMemory tensor_memory;
  c10::SetCPUAllocator(&tensor_memory);
#endif
}

}  // namespace quest::train
