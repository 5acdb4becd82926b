// table_gemm.h: argmax_rows. A block reads a row.
#include "quest/kernels/cuda/dependent_launch.cuh"
#include "quest/kernels/cuda/table_gemm.h"

namespace quest::kernels::cuda {
namespace {

constexpr int kThreads = 1024;

// Larger for a larger value, and for the earlier of equal ones (-0 equals 0). Not for NaN.
__device__ uint64_t rank_of(float value, int column) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  const uint32_t ordered = bits ^ ((bits >> 31) != 0 ? 0xffffffffu : 0x80000000u);
  return static_cast<uint64_t>(ordered) << 32 | ~static_cast<uint32_t>(column);
}

__device__ uint64_t warp_largest(uint64_t rank) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffffu, rank, step);
    rank = other > rank ? other : rank;
  }
  return rank;
}

__global__ void __launch_bounds__(kThreads)
    largest_of_rows(const float* logits, int v, int64_t ld, int32_t* out) {
  let_next_start();
  wait_for_previous();
  __shared__ uint64_t warps[32];
  const float* row = logits + blockIdx.x * ld;
  uint64_t rank = 0;  // below every value's
  int has_nan = 0;
#pragma unroll 8
  for (int i = static_cast<int>(threadIdx.x); i < v; i += kThreads) {
    const float value = row[i];
    has_nan |= value != value;
    const uint64_t other = rank_of(value, i);
    rank = other > rank ? other : rank;
  }
  rank = warp_largest(rank);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = rank;
  has_nan = __syncthreads_or(has_nan);
  if (threadIdx.x >= 32) return;
  rank = warp_largest(warps[threadIdx.x]);
  if (threadIdx.x == 0) {
    out[blockIdx.x] = has_nan != 0 ? -1 : static_cast<int32_t>(~static_cast<uint32_t>(rank));
  }
}

}  // namespace

void argmax_rows(const float* logits, int64_t m, int64_t v, int64_t ld, int32_t* out,
                 Stream stream) {
  if (m == 0) return;
  launch_dependent("argmax_rows", largest_of_rows, dim3(static_cast<unsigned>(m)), dim3(kThreads),
                   0, stream, logits, static_cast<int>(v), ld, out);
}

}  // namespace quest::kernels::cuda
