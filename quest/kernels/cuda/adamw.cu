// adamw.h
#include "quest/kernels/cuda/adamw.h"
#include "quest/kernels/cuda/device.cuh"
#include "quest/kernels/cuda/tensor_table.h"

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

__device__ bool is_aligned(const float* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// 4 values of group i of a tensor.
template <bool kAligned>
__device__ float4 load4(const float* p, int64_t i) {
  if constexpr (kAligned) return reinterpret_cast<const float4*>(p)[i];
  return make_float4(p[4 * i], p[4 * i + 1], p[4 * i + 2], p[4 * i + 3]);
}

// This thread's squares of part `part` of a gradient.
template <bool kAligned>
__device__ double squares_of_part(const float* g, int64_t n, int64_t part) {
  const int64_t groups = n / 4, stride = kSquareBlocks * kThreads;
  int64_t i = part * kThreads + threadIdx.x;
  double sum = 0;
  // Groups of 8 squares in float, then double: an error below 2^-21 of each group.
  for (; i + stride < groups; i += 2 * stride) {
    const float4 a = load4<kAligned>(g, i), b = load4<kAligned>(g, i + stride);
    sum += ((a.x * a.x + a.y * a.y) + (a.z * a.z + a.w * a.w)) +
           ((b.x * b.x + b.y * b.y) + (b.z * b.z + b.w * b.w));
  }
  for (; i < groups; i += stride) {
    const float4 a = load4<kAligned>(g, i);
    sum += (a.x * a.x + a.y * a.y) + (a.z * a.z + a.w * a.w);
  }
  if (part == 0 && threadIdx.x < n - 4 * groups) {
    const float last = g[4 * groups + threadIdx.x];
    sum += last * last;
  }
  return sum;
}

using GradientTable = TensorTable<GradientValues>;
static_assert(GradientTable::kCapacity == 199, "as adamw.h says");

__global__ void square_parts(const __grid_constant__ GradientTable table, double* partials) {
  const TablePlace place = table.place_of(blockIdx.x);
  const float* g = table.tensors[place.tensor].g;
  const int64_t n = table.tensors[place.tensor].n;
  const double sum = block_total(is_aligned(g) ? squares_of_part<true>(g, n, place.block)
                                               : squares_of_part<false>(g, n, place.block));
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
  float beta1, beta2, eps;
  float one_minus_beta1, one_minus_beta2;
};

__device__ void update(float& w, float g, float& m, float& v, const Constants& c, float keep,
                       float step_size, float root_bias2) {
  m = c.beta1 * m + c.one_minus_beta1 * g;
  v = c.beta2 * v + c.one_minus_beta2 * (g * g);
  w = w * keep - step_size * (m / (sqrtf(v) / root_bias2 + c.eps));
}

// What all values of a tensor share.
struct StepFactors {
  float clip, keep, step_size, root_bias2;
};

// A block's values; the first `count` of them exist.
constexpr int kChunkValues = 16 * kThreads;
template <bool kAligned>
__device__ void update_chunk(float* w, const float* g, float* m, float* v, int count,
                             const Constants& c, const StepFactors& f) {
  for (int i = 4 * static_cast<int>(threadIdx.x); i < count; i += 4 * kThreads) {
    if (kAligned && i + 4 <= count) {
      float4& w_at = *reinterpret_cast<float4*>(w + i);
      float4& m_at = *reinterpret_cast<float4*>(m + i);
      float4& v_at = *reinterpret_cast<float4*>(v + i);
      const float4 g4 = *reinterpret_cast<const float4*>(g + i);
      float4 w4 = w_at, m4 = m_at, v4 = v_at;
      update(w4.x, g4.x * f.clip, m4.x, v4.x, c, f.keep, f.step_size, f.root_bias2);
      update(w4.y, g4.y * f.clip, m4.y, v4.y, c, f.keep, f.step_size, f.root_bias2);
      update(w4.z, g4.z * f.clip, m4.z, v4.z, c, f.keep, f.step_size, f.root_bias2);
      update(w4.w, g4.w * f.clip, m4.w, v4.w, c, f.keep, f.step_size, f.root_bias2);
      w_at = w4, m_at = m4, v_at = v4;
      continue;
    }
    for (int k = i; k < min(i + 4, count); ++k) {
      update(w[k], g[k] * f.clip, m[k], v[k], c, f.keep, f.step_size, f.root_bias2);
    }
  }
}

using AdamWTable = TensorTable<AdamWTensor>;
static_assert(AdamWTable::kCapacity == 76, "as adamw.h says");
static_assert(sizeof(Constants) + sizeof(const float*) + 8 <= kOtherParameterBytes);

// 6 blocks at once: 96 KB on their way to each multiprocessor.
__global__ void __launch_bounds__(kThreads, 6)
    adamw_chunks(const __grid_constant__ AdamWTable table, Constants c, const float* control) {
  if (control[kSkipped] != 0.0f) return;
  const TablePlace place = table.place_of(blockIdx.x);
  const AdamWTensor& t = table.tensors[place.tensor];
  const StepFactors factors{control[kClipFactor], 1.0f - control[kLearningRate] * t.weight_decay,
                            control[kStepSize], control[kRootBias2]};
  const int64_t first = static_cast<int64_t>(place.block) * kChunkValues;
  const int count = static_cast<int>(min(t.n - first, int64_t{kChunkValues}));
  float *w = t.w + first, *m = t.m + first, *v = t.v + first;
  const float* g = t.g + first;
  if (is_aligned(w) && is_aligned(g) && is_aligned(m) && is_aligned(v)) {
    update_chunk<true>(w, g, m, v, count, c, factors);
  } else {
    update_chunk<false>(w, g, m, v, count, c, factors);
  }
}

}  // namespace

void gradient_squares(const GradientValues* gradients, int64_t count, double* partials,
                      Stream stream) {
  for_each_table<GradientTable>(
      gradients, count, [](const GradientValues&) { return kSquareBlocks; },
      [&](const GradientTable& table, int64_t first) {
        square_parts<<<table.blocks(), kThreads, 0, stream>>>(table,
                                                              partials + first * kSquareBlocks);
        check_launch("gradient_squares");
      });
}

void begin_step(const double* partials, int64_t count, double max_norm, double beta1, double beta2,
                float* control, Stream stream) {
  begin<<<1, kThreads, 0, stream>>>(partials, count, max_norm, beta1, beta2, control);
  check_launch("begin_step");
}

void adamw(const AdamWTensor* tensors, int64_t count, const AdamWSettings& settings,
           const float* control, Stream stream) {
  const Constants c{static_cast<float>(settings.beta1), static_cast<float>(settings.beta2),
                    static_cast<float>(settings.eps), static_cast<float>(1 - settings.beta1),
                    static_cast<float>(1 - settings.beta2)};
  for_each_table<AdamWTable>(
      tensors, count, [](const AdamWTensor& t) { return (t.n + kChunkValues - 1) / kChunkValues; },
      [&](const AdamWTable& table, int64_t) {
        adamw_chunks<<<table.blocks(), kThreads, 0, stream>>>(table, c, control);
        check_launch("adamw");
      });
}

}  // namespace quest::kernels::cuda
