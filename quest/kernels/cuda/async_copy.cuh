// Copies from global into shared memory that a thread does not wait for (cp.async). It sees what it
// copied itself once it has awaited the copies; others see it behind a barrier after that.
#pragma once

#include <cstdint>

namespace quest::kernels::cuda {

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
// 16 bytes, both aligned to as many, past the first-level cache.
__device__ inline void copy_async(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(to), "l"(from)
               : "memory");
}
__device__ inline void copy_async(void* to, const void* from) {
  copy_async(shared_address(to), from);
}
// 4, 8 or 16 bytes, aligned to as many.
template <int kBytes>
__device__ inline void copy_async(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(to)), "l"(from),
               "n"(kBytes)
               : "memory");
}
// The copies since the last end_copies() are a group.
__device__ inline void end_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// All groups but the last kPending.
template <int kPending>
__device__ inline void await_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
__device__ inline void await_all_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

}  // namespace quest::kernels::cuda
