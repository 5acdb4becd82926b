// rms_norm.h. Backward: blocks take rows in turn and keep the weight's gradient of their columns in
// registers; the blocks' sums are added up by a second kernel in a fixed order.
#include <algorithm>

#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/kernels/cuda/quantize_row.cuh"
#include "quest/kernels/cuda/rms_norm.h"
#include "quest/kernels/cuda/sources.cuh"

namespace quest::kernels::cuda {
namespace {

// Blocks of the backward kernel: enough to fill a GPU of any size, few enough to sum up quickly.
constexpr int64_t kBackwardBlocks = 1024;

int64_t backward_blocks(int64_t m) { return std::min(m, kBackwardBlocks); }

template <class D, int kRounds>
__global__ void __launch_bounds__(kRowThreads)
    backward_rows(const uint8_t* mask, int block, float norm, const D* grad_y, const D* h,
                  const float* weight, const float* inverse_rms, const D* residual_grad, int64_t m,
                  int c, D* grad_h, float* partial) {
  __shared__ float scratch[2][32];
  const bool vector = c % kLane == 0;
  const int64_t mask_stride = (c + 7) / 8;
  float w[kRounds][kLane], weight_grad[kRounds][kLane];
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const int column = (r * blockDim.x + threadIdx.x) * kLane;
    load_part(weight + column, column < c ? min(kLane, c - column) : 0, vector && column < c, w[r]);
#pragma unroll
    for (int i = 0; i < kLane; ++i) weight_grad[r][i] = 0.0f;
  }
  int turn = 0;
  for (int64_t row = blockIdx.x; row < m; row += gridDim.x) {
    float grad[kRounds][kLane], xhat[kRounds][kLane];
    const float inverse = inverse_rms[row];
    float dot = 0.0f;
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const int column = (r * blockDim.x + threadIdx.x) * kLane;
      const int count = column < c ? min(kLane, c - column) : 0;
      const bool whole = vector && column < c;
      const int64_t at = row * c + column;
      load_part(grad_y + at, count, whole, grad[r]);
      load_part(h + at, count, whole, xhat[r]);
      if (mask != nullptr) {
        const unsigned bits = count > 0 ? mask[row * mask_stride + column / kLane] : 0u;
#pragma unroll
        for (int i = 0; i < kLane; ++i) grad[r][i] = (bits >> i & 1u) != 0 ? grad[r][i] : 0.0f;
      }
      if (block > 1) {
        butterfly(grad[r], block, norm);
        round8(grad[r], D{});
      }
#pragma unroll
      for (int i = 0; i < kLane; ++i) {
        xhat[r][i] *= inverse;
        weight_grad[r][i] += grad[r][i] * xhat[r][i];
        grad[r][i] *= w[r][i];
        dot += grad[r][i] * xhat[r][i];
      }
    }
    const float mean = block_sum(dot, scratch[turn]) / static_cast<float>(c);
    turn ^= 1;  // the next row's sum may begin while a slow warp still reads this one's
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const int column = (r * blockDim.x + threadIdx.x) * kLane;
      const int count = column < c ? min(kLane, c - column) : 0;
      const bool whole = vector && column < c;
      const int64_t at = row * c + column;
      float residual[kLane] = {};
      if (residual_grad != nullptr) load_part(residual_grad + at, count, whole, residual);
#pragma unroll
      for (int i = 0; i < kLane; ++i) {
        grad[r][i] = inverse * (grad[r][i] - xhat[r][i] * mean) + residual[i];
      }
      if (count > 0) store_part(grad_h + at, count, whole, grad[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const int column = (r * blockDim.x + threadIdx.x) * kLane;
    const int count = column < c ? min(kLane, c - column) : 0;
    if (count > 0) {
      store_part(partial + blockIdx.x * static_cast<int64_t>(c) + column, count, vector,
                 weight_grad[r]);
    }
  }
}

// 32 rows of threads share the blocks' sums of 32 columns, then add up in order.
__global__ void sum_partials(const float* partial, int64_t blocks, int c, float* grad_weight) {
  __shared__ float sums[32][33];
  const int column = blockIdx.x * 32 + threadIdx.x;
  float sum = 0.0f;
  if (column < c) {
    for (int64_t b = threadIdx.y; b < blocks; b += 32) sum += partial[b * c + column];
  }
  sums[threadIdx.y][threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.y == 0 && column < c) {
    sum = 0.0f;
    for (int i = 0; i < 32; ++i) sum += sums[i][threadIdx.x];
    grad_weight[column] = sum;
  }
}

// What the plain forward kernel does with rows: nothing more than the source does.
template <class Source, int kRounds>
__global__ void __launch_bounds__(kRowThreads) load_rows(Source source, int k) {
  __shared__ float scratch[32];
  float v[kRounds][kLane];
  source.load(blockIdx.x, k, k % kLane == 0, v, scratch);
}

}  // namespace

template <class T>
void add_rms_norm(const T* x, const T* delta, const float* weight, float eps, int64_t m, int64_t c,
                  T* h, T* y, float* inverse_rms, Stream stream) {
  if (m == 0) return;
  make_row_rule(QuantSpec{}, c);  // the length's limits
  const NormalizedRows<device_t<T>> source{dev(x), dev(delta), weight,     eps,
                                           dev(h), dev(y),     inverse_rms};
  const int rounds = row_rounds(c, NormalizedRows<device_t<T>>::kRounds);
  const int threads = row_threads(c, rounds);
  with_rounds(rounds, [&](auto count) {
    load_rows<NormalizedRows<device_t<T>>, decltype(count)::value>
        <<<static_cast<unsigned>(m), threads, 0, stream>>>(source, static_cast<int>(c));
  });
  check_launch("add_rms_norm");
}

int64_t rms_norm_backward_workspace(int64_t m, int64_t c) { return backward_blocks(m) * c; }

template <class T>
void rms_norm_backward(const QuantSpec* spec, const uint8_t* mask, const T* grad_y, const T* h,
                       const float* weight, const float* inverse_rms, const T* residual_grad,
                       int64_t m, int64_t c, T* grad_h, float* grad_weight, float* workspace,
                       Stream stream) {
  const RowRule rule = make_row_rule(spec == nullptr ? QuantSpec{} : *spec, c);
  const int64_t blocks = backward_blocks(m);
  const int rounds = row_rounds(c, 1), threads = row_threads(c, rounds);
  if (m > 0) {
    with_rounds(rounds, [&](auto count) {
      backward_rows<device_t<T>, decltype(count)::value>
          <<<static_cast<unsigned>(blocks), threads, 0, stream>>>(
              mask, rule.block, rule.norm, dev(grad_y), dev(h), weight, inverse_rms,
              dev(residual_grad), m, static_cast<int>(c), dev(grad_h), workspace);
    });
    check_launch("rms_norm_backward");
  }
  sum_partials<<<static_cast<unsigned>((c + 31) / 32), dim3(32, 32), 0, stream>>>(
      workspace, blocks, static_cast<int>(c), grad_weight);
  check_launch("rms_norm_backward");
}

#define QUEST_INSTANTIATE(T)                                                                       \
  template void add_rms_norm<T>(const T*, const T*, const float*, float, int64_t, int64_t, T*, T*, \
                                float*, Stream);                                                   \
  template void rms_norm_backward<T>(const QuantSpec*, const uint8_t*, const T*, const T*,         \
                                     const float*, const float*, const T*, int64_t, int64_t, T*,   \
                                     float*, float*, Stream);
QUEST_INSTANTIATE(float)
QUEST_INSTANTIATE(bfloat16)

}  // namespace quest::kernels::cuda
