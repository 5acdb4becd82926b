// Blocks of a cluster that write into each other's shared memory (compute capability 9.0 and up).
//
// A block that receives has a Mailbox: it knows how many bytes it will get and waits for them,
// which is cheaper than a barrier of the cluster, whose release waits for all memory.
//
//   __shared__ Mailbox box;
//   open(box); start_cluster();               // all threads, first of all
//   if (threadIdx.x == 0) expect(box, bytes);
//   await_cluster();                          // before the first send: all blocks run now
//   send(value, &place, box, rank);           // into `place` of block `rank`
//   receive(box);                             // all bytes are there
#pragma once

#include <cstdint>

#include "quest/kernels/cuda/async_copy.cuh"

namespace quest::kernels::cuda {

struct Mailbox {
  uint64_t state;
};

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
__device__ inline void open(Mailbox& box) {
  if (threadIdx.x != 0) return;
  init_bell(box.state, 1);
  fence_bells();
}
__device__ inline void expect(Mailbox& box, int bytes) { expect_bytes(box.state, bytes); }
__device__ inline void start_cluster() {
  asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
}
__device__ inline void await_cluster() {
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}
__device__ inline void send(float value, const float* place, const Mailbox& box, int rank) {
  asm volatile(
      "{\n.reg .b32 to, bell;\n"
      "mapa.shared::cluster.u32 to, %0, %2;\n"
      "mapa.shared::cluster.u32 bell, %1, %2;\n"
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [to], %3, [bell];\n}" ::"r"(
          shared_address(place)),
      "r"(shared_address(&box)), "r"(rank), "r"(__float_as_uint(value))
      : "memory");
}
__device__ inline void receive(Mailbox& box) { await_bell(box.state, 0); }
#endif

}  // namespace quest::kernels::cuda
