// Where the rows of quantize_rows come from: load() fills v[r][i] with value
// (r * blockDim.x + threadIdx.x) * 8 + i of the row as float, zero beyond the row. Every thread
// calls it, and it calls wait_for_previous() before it reads what an earlier kernel may have
// written.
#pragma once

#include "quest/kernels/cuda/dependent_launch.cuh"
#include "quest/kernels/cuda/device.cuh"

namespace quest::kernels::cuda {

template <class D>
struct PlainRows {
  static constexpr int kRounds =
      2;  // at least, in rows of 1024 values and more: measured on an H100
  const D* x;

  template <int kCount>
  __device__ void load(int64_t row, int k, bool vector, float (&v)[kCount][kLane], float*) const {
    wait_for_previous();
#pragma unroll
    for (int r = 0; r < kCount; ++r) {
      const int column = (r * blockDim.x + threadIdx.x) * kLane;
      load_part(x + row * k + column, column < k ? min(kLane, k - column) : 0, vector && column < k,
                v[r]);
    }
  }
};

// RMSNorm of x + delta, rounded to D.
template <class D>
struct NormalizedRows {
  static constexpr int kRounds = 1;
  const D* x;
  const D* delta;       // or null
  const float* weight;  // (K)
  float eps;
  D* h;                // or null
  D* y;                // or null
  float* inverse_rms;  // or null

  template <int kCount>
  __device__ void load(int64_t row, int k, bool vector, float (&v)[kCount][kLane],
                       float* scratch) const {
    wait_for_previous();
    float squares = 0.0f;
#pragma unroll
    for (int r = 0; r < kCount; ++r) {
      const int column = (r * blockDim.x + threadIdx.x) * kLane;
      const int count = column < k ? min(kLane, k - column) : 0;
      const bool whole = vector && column < k;
      const int64_t at = row * k + column;
      load_part(x + at, count, whole, v[r]);
      if (delta != nullptr) {
        float d[kLane];
        load_part(delta + at, count, whole, d);
#pragma unroll
        for (int i = 0; i < kLane; ++i) v[r][i] += d[i];
        round8(v[r], D{});
        if (count > 0) store_part(h + at, count, whole, v[r]);
      }
#pragma unroll
      for (int i = 0; i < kLane; ++i) squares += v[r][i] * v[r][i];
    }
    const float mean = block_sum(squares, scratch) / static_cast<float>(k);
    const float inverse = 1.0f / sqrtf(mean + eps);
    if (inverse_rms != nullptr && threadIdx.x == 0) inverse_rms[row] = inverse;
#pragma unroll
    for (int r = 0; r < kCount; ++r) {
      const int column = (r * blockDim.x + threadIdx.x) * kLane;
      const int count = column < k ? min(kLane, k - column) : 0;
      const bool whole = vector && column < k;
      float w[kLane];
      load_part(weight + column, count, whole, w);
#pragma unroll
      for (int i = 0; i < kLane; ++i) v[r][i] = v[r][i] * inverse * w[i];
      round8(v[r], D{});
      if (y != nullptr && count > 0) store_part(y + row * k + column, count, whole, v[r]);
    }
  }
};

__device__ inline float sigmoid(float x) { return __frcp_rn(1.0f + __expf(-x)); }

// silu(gate) * up, rounded to D; rows of gate_up hold gate, then up.
template <class D>
struct SwigluRows {
  static constexpr int kRounds = 2;
  const D* gate_up;

  template <int kCount>
  __device__ void load(int64_t row, int k, bool vector, float (&v)[kCount][kLane], float*) const {
    wait_for_previous();
#pragma unroll
    for (int r = 0; r < kCount; ++r) {
      const int column = (r * blockDim.x + threadIdx.x) * kLane;
      const int count = column < k ? min(kLane, k - column) : 0;
      const bool whole = vector && column < k;
      float up[kLane];
      load_part(gate_up + row * 2 * k + column, count, whole, v[r]);
      load_part(gate_up + row * 2 * k + k + column, count, whole, up);
#pragma unroll
      for (int i = 0; i < kLane; ++i) v[r][i] = v[r][i] * sigmoid(v[r][i]) * up[i];
      round8(v[r], D{});
    }
  }
};

}  // namespace quest::kernels::cuda
