// cross_entropy.h: one block per row. First pass: the largest logit and the sum of exponentials
// relative to it, kept up together; second pass, the row being in the cache: the gradient.
#include "quest/kernels/cuda/cross_entropy.h"
#include "quest/kernels/cuda/device.cuh"

namespace quest::kernels::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int64_t kIgnored = -100;

struct Running {
  float largest;
  float sum;  // of exp(x - largest)
};

__device__ Running join(Running a, Running b) {
  const float largest = fmaxf(a.largest, b.largest);
  if (largest == -INFINITY) return {largest, 0.0f};
  return {largest, a.sum * __expf(a.largest - largest) + b.sum * __expf(b.largest - largest)};
}

__device__ Running join_warp(Running own) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const Running other{__shfl_xor_sync(0xffffffffu, own.largest, step),
                        __shfl_xor_sync(0xffffffffu, own.sum, step)};
    // Lanes of a pair must do the same sum in the same order.
    own = (threadIdx.x & step) != 0 ? join(other, own) : join(own, other);
  }
  return own;
}

template <class D>
__global__ void cross_entropy_rows(D* logits, const int64_t* targets, int64_t v, bool vector,
                                   const float* grad_scale, float* losses) {
  __shared__ Running joined[32];
  const int64_t row = blockIdx.x;
  D* x = logits + row * v;
  const int64_t target = targets[row];
  const bool counts = target != kIgnored;
  const int64_t groups = (v + kLane - 1) / kLane;
  float values[kLane];

  Running own{-INFINITY, 0.0f};
  for (int64_t g = threadIdx.x; g < groups && counts; g += kThreads) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kLane), v - g * kLane));
    load_part(x + g * kLane, count, vector, values);
    Running part{-INFINITY, 0.0f};
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      if (i < count) part.largest = fmaxf(part.largest, values[i]);
    }
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      if (i < count && part.largest != -INFINITY) part.sum += __expf(values[i] - part.largest);
    }
    // A +inf logit makes the sum NaN (inf - inf), and so the loss; so does a NaN beside numbers.
    own = join(own, part);
  }
  own = join_warp(own);
  if ((threadIdx.x & 31) == 0) joined[threadIdx.x / 32] = own;
  __syncthreads();
  const int lane = threadIdx.x & 31;
  own = lane < kThreads / 32 ? joined[lane] : Running{-INFINITY, 0.0f};
  own = join_warp(own);

  if (threadIdx.x == 0) {
    float loss = 0.0f;
    if (counts) {
      const bool inside = target >= 0 && target < v;
      loss =
          inside ? own.largest + logf(own.sum) - to_float(x[target]) : __int_as_float(0x7fffffff);
    }
    losses[row] = loss;
  }
  if (grad_scale == nullptr) return;
  __syncthreads();  // the target's logit is read before it is written
  const float scale = counts ? *grad_scale : 0.0f;
  const float inverse = counts ? scale / own.sum : 0.0f;
  for (int64_t g = threadIdx.x; g < groups; g += kThreads) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kLane), v - g * kLane));
    if (counts) {
      load_part(x + g * kLane, count, vector, values);
#pragma unroll
      for (int i = 0; i < kLane; ++i) {
        values[i] = __expf(values[i] - own.largest) * inverse;
        if (g * kLane + i == target) values[i] -= scale;
      }
    } else {
#pragma unroll
      for (int i = 0; i < kLane; ++i) values[i] = 0.0f;
    }
    store_part(x + g * kLane, count, vector, values);
  }
}

}  // namespace

template <class T>
void cross_entropy(T* logits, const int64_t* targets, int64_t m, int64_t v, const float* grad_scale,
                   float* losses, Stream stream) {
  if (m == 0) return;
  cross_entropy_rows<<<static_cast<unsigned>(m), kThreads, 0, stream>>>(
      dev(logits), targets, v, v % kLane == 0, grad_scale, losses);
  check_launch("cross_entropy");
}

template void cross_entropy<float>(float*, const int64_t*, int64_t, int64_t, const float*, float*,
                                   Stream);
template void cross_entropy<bfloat16>(bfloat16*, const int64_t*, int64_t, int64_t, const float*,
                                      float*, Stream);

}  // namespace quest::kernels::cuda
