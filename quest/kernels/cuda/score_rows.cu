// score_rows.h: one block per row of logits.
#include <cmath>

#include "quest/kernels/cuda/dependent_launch.cuh"
#include "quest/kernels/cuda/deploy_math.cuh"
#include "quest/kernels/cuda/score_rows.h"

namespace quest::kernels::cuda::deploy {
namespace {

constexpr int kThreads = 512;
constexpr int kChunk = 1024;  // of sum_exp_lanes (quest/kernels/deploy_body.h)

__device__ float largest_of_block(float value, float* shared) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
  }
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  value = shared[threadIdx.x % (kThreads / 32)];
#pragma unroll
  for (int step = 1; step < kThreads / 32; step *= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, step));
  }
  return value;
}

// Dynamic shared memory: a float for each chunk.
__global__ void __launch_bounds__(kThreads)
    score(const float* logits, const int32_t* targets, int v, float* logprob, uint8_t* is_greedy) {
  extern __shared__ float chunk_sums[];
  __shared__ float maxima[32];
  let_next_start();
  wait_for_previous();
  const int64_t row = blockIdx.x;
  const float* x = logits + row * v;
  const int target = targets[row];
  float largest = -INFINITY;
  for (int i = threadIdx.x; i < v; i += kThreads) largest = fmaxf(largest, x[i]);
  largest = largest_of_block(largest, maxima);
  bool earlier = false;
  for (int i = threadIdx.x; i < target; i += kThreads) earlier |= x[i] == largest;
  // 16 lanes take a chunk: in order, then as a tree.
  const int lane = threadIdx.x % 16, chunks = (v + kChunk - 1) / kChunk;
  for (int first = 0; first < chunks; first += kThreads / 16) {
    const int chunk = first + threadIdx.x / 16;
    const int end = min(v, (chunk + 1) * kChunk);
    float sum = 0.0f;
    for (int i = chunk * kChunk + lane; i < end; i += 16) sum += exp_as_cpu(x[i] - largest);
#pragma unroll
    for (int step = 8; step >= 1; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0 && chunk < chunks) chunk_sums[chunk] = sum;
  }
  const bool first_of_largest = __syncthreads_or(earlier) == 0;
  if (threadIdx.x != 0) return;
  double sum = 0;
  for (int i = 0; i < chunks; ++i) sum += static_cast<double>(chunk_sums[i]);
  const float own = x[target];
  float result = __int_as_float(0x7fffffff);
  if (sum >= 1 && isfinite(sum) && isfinite(largest)) {
    const double value = static_cast<double>(largest) + log_as_cpu(sum);
    const double difference = static_cast<double>(own) - value;
    result = static_cast<float>(0.0 < difference ? 0.0 : difference);
  }
  logprob[row] = result;
  if (is_greedy != nullptr) is_greedy[row] = own == largest && first_of_largest ? 1 : 0;
}

}  // namespace

void score_rows(const float* logits, const int32_t* targets, int64_t m, int64_t v, float* logprob,
                uint8_t* is_greedy, Stream stream) {
  if (m == 0) return;
  const auto shared = static_cast<size_t>((v + kChunk - 1) / kChunk) * sizeof(float);
  launch_dependent("score_rows", &score, dim3(static_cast<unsigned>(m)), dim3(kThreads), shared,
                   stream, logits, targets, static_cast<int>(v), logprob, is_greedy);
}

}  // namespace quest::kernels::cuda::deploy
