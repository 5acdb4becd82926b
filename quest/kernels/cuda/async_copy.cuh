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

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
// Bells (compute capability 9.0 and up): one rings when all arrivals and bytes that it expects have
// come, by copies of many bytes, of one instruction, or from other blocks (cluster.cuh).
__device__ inline void init_bell(uint64_t& bell, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&bell)), "r"(arrivals)
               : "memory");
}
// Before others of the cluster, or copies, ring what was made.
__device__ inline void fence_bells() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Before bulk copies of this thread use shared memory that it wrote.
__device__ inline void fence_copies() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ inline void expect_bytes(uint64_t& bell, int bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&bell)),
      "r"(bytes)
      : "memory");
}
__device__ inline void ring_bell(uint64_t& bell) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&bell)) : "memory");
}
__device__ inline void await_bell(uint64_t& bell, int parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}" ::"r"(shared_address(&bell)),
      "r"(parity)
      : "memory");
}
// Multiples of 16 bytes, 16-byte aligned.
__device__ inline void bulk_copy(void* to, const void* from, int bytes, uint64_t& bell) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(&bell))
      : "memory");
}
// The same into the second-level cache, if `does`; in no order with other accesses.
__device__ inline void prefetch_bulk(const void* from, int bytes, bool does) {
  asm volatile(
      "{\n.reg .pred does;\n"
      "setp.ne.b32 does, %2, 0;\n"
      "@does cp.async.bulk.prefetch.L2.global [%0], %1;\n}" ::"l"(from),
      "r"(bytes), "r"(static_cast<int>(does)));
}
#endif

}  // namespace quest::kernels::cuda
