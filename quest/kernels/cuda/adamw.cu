// adamw.h
#include <algorithm>

#include "quest/kernels/cuda/adamw.h"
#include "quest/kernels/cuda/device.cuh"

namespace quest::kernels::cuda {
namespace {

constexpr int kThreads = kFlatThreads;

// Sum over a block of kThreads in a fixed tree; in thread 0.
__device__ double block_total(double value) {
  __shared__ double shared[kThreads / 32];
#pragma unroll
  for (int step = 16; step >= 1; step /= 2) value += __shfl_down_sync(0xffffffffu, value, step);
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int i = 1; i < kThreads / 32; ++i) value += shared[i];
  }
  return value;
}

__global__ void square_parts(const float* g, int64_t n, double* partials) {
  const int64_t groups = n / 4, stride = static_cast<int64_t>(gridDim.x) * kThreads;
  int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  double sum = 0;
  // Groups of 8 squares in float, then double: an error below 2^-21 of each group.
  for (; i + stride < groups; i += 2 * stride) {
    const float4 a = reinterpret_cast<const float4*>(g)[i];
    const float4 b = reinterpret_cast<const float4*>(g)[i + stride];
    sum += ((a.x * a.x + a.y * a.y) + (a.z * a.z + a.w * a.w)) +
           ((b.x * b.x + b.y * b.y) + (b.z * b.z + b.w * b.w));
  }
  for (; i < groups; i += stride) {
    const float4 a = reinterpret_cast<const float4*>(g)[i];
    sum += (a.x * a.x + a.y * a.y) + (a.z * a.z + a.w * a.w);
  }
  if (blockIdx.x == 0 && threadIdx.x < n - 4 * groups) {
    const float last = g[4 * groups + threadIdx.x];
    sum += last * last;
  }
  sum = block_total(sum);
  if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

__global__ void begin(const double* partials, int64_t count, double max_norm, double beta1,
                      double beta2, float* control) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += partials[i];
  sum = block_total(sum);
  if (threadIdx.x != 0) return;
  const double norm = sqrt(sum);
  control[kGradientNorm] = static_cast<float>(norm);
  const bool skipped = !isfinite(norm) || !isfinite(control[kLoss]);
  control[kSkipped] = skipped ? 1.0f : 0.0f;
  const double factor = max_norm > 0 ? max_norm / (norm + 1e-6) : 1.0;
  control[kClipFactor] = static_cast<float>(factor < 1 ? factor : 1.0);
  if (skipped) return;
  const double t = static_cast<double>(control[kUpdates]) + 1;
  control[kUpdates] = static_cast<float>(t);
  control[kStepSize] = static_cast<float>(control[kLearningRate] / (1 - pow(beta1, t)));
  control[kRootBias2] = static_cast<float>(sqrt(1 - pow(beta2, t)));
}

struct Constants {
  float beta1, beta2, eps, decay;
  float one_minus_beta1, one_minus_beta2;
};

__device__ void update(float& w, float g, float& m, float& v, const Constants& c, float keep,
                       float step_size, float root_bias2) {
  m = c.beta1 * m + c.one_minus_beta1 * g;
  v = c.beta2 * v + c.one_minus_beta2 * (g * g);
  w = w * keep - step_size * (m / (sqrtf(v) / root_bias2 + c.eps));
}

__global__ void adamw_values(float* w, const float* g, float* m, float* v, int64_t n, Constants c,
                             const float* control) {
  if (control[kSkipped] != 0.0f) return;
  const float clip = control[kClipFactor], step_size = control[kStepSize];
  const float root_bias2 = control[kRootBias2];
  const float keep = 1.0f - control[kLearningRate] * c.decay;
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i * 4 + 4 <= n) {
    float4 w4 = reinterpret_cast<float4*>(w)[i], m4 = reinterpret_cast<float4*>(m)[i];
    float4 v4 = reinterpret_cast<float4*>(v)[i];
    const float4 g4 = reinterpret_cast<const float4*>(g)[i];
    update(w4.x, g4.x * clip, m4.x, v4.x, c, keep, step_size, root_bias2);
    update(w4.y, g4.y * clip, m4.y, v4.y, c, keep, step_size, root_bias2);
    update(w4.z, g4.z * clip, m4.z, v4.z, c, keep, step_size, root_bias2);
    update(w4.w, g4.w * clip, m4.w, v4.w, c, keep, step_size, root_bias2);
    reinterpret_cast<float4*>(w)[i] = w4;
    reinterpret_cast<float4*>(m)[i] = m4;
    reinterpret_cast<float4*>(v)[i] = v4;
    return;
  }
  for (int64_t k = i * 4; k < n; ++k) {
    update(w[k], g[k] * clip, m[k], v[k], c, keep, step_size, root_bias2);
  }
}

}  // namespace

void gradient_squares(const float* g, int64_t n, double* partials, Stream stream) {
  square_parts<<<static_cast<unsigned>(kSquareBlocks), kThreads, 0, stream>>>(g, n, partials);
  check_launch("gradient_squares");
}

void begin_step(const double* partials, int64_t count, double max_norm, double beta1, double beta2,
                float* control, Stream stream) {
  begin<<<1, kThreads, 0, stream>>>(partials, count, max_norm, beta1, beta2, control);
  check_launch("begin_step");
}

void adamw(float* w, const float* g, float* m, float* v, int64_t n, const AdamWSettings& settings,
           const float* control, Stream stream) {
  if (n == 0) return;
  const Constants c{
      static_cast<float>(settings.beta1),     static_cast<float>(settings.beta2),
      static_cast<float>(settings.eps),       static_cast<float>(settings.weight_decay),
      static_cast<float>(1 - settings.beta1), static_cast<float>(1 - settings.beta2)};
  const int64_t threads = (n + 3) / 4;
  adamw_values<<<blocks_for(threads), kThreads, 0, stream>>>(w, g, m, v, n, c, control);
  check_launch("adamw");
}

}  // namespace quest::kernels::cuda
