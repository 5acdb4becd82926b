// swiglu.h: 8 values per thread.
#include "quest/kernels/cuda/quantize_row.cuh"
#include "quest/kernels/cuda/sources.cuh"
#include "quest/kernels/cuda/swiglu.h"

namespace quest::kernels::cuda {
namespace {

// Thread -> 8 columns of a row; rows of threads are padded to whole groups of 8 columns.
struct Place {
  int64_t row;
  int64_t column;
  int count;  // values that exist, 0 to 8
};
__device__ Place place(int64_t m, int64_t f) {
  const uint32_t per_row = static_cast<uint32_t>((f + kLane - 1) / kLane);
  const uint32_t group = blockIdx.x * static_cast<uint32_t>(kFlatThreads) + threadIdx.x;
  const int64_t row = group / per_row, column = group % per_row * kLane;
  const int64_t left = row < m ? f - column : 0;
  return {row, column, static_cast<int>(left < kLane ? left : kLane)};
}
unsigned blocks_of(int64_t m, int64_t f) { return blocks_for(m * ((f + kLane - 1) / kLane)); }

template <class D>
__global__ void forward(const D* gate_up, int64_t m, int64_t f, D* y) {
  const Place at = place(m, f);
  if (at.count == 0) return;
  const bool vector = f % kLane == 0;
  float gate[kLane], up[kLane];
  load_part(gate_up + at.row * 2 * f + at.column, at.count, vector, gate);
  load_part(gate_up + at.row * 2 * f + f + at.column, at.count, vector, up);
#pragma unroll
  for (int i = 0; i < kLane; ++i) gate[i] = gate[i] * sigmoid(gate[i]) * up[i];
  store_part(y + at.row * f + at.column, at.count, vector, gate);
}

// silu'(g) = s * (1 + g * (1 - s)) with s = sigmoid(g).
template <class D>
__global__ void backward(const uint8_t* mask, int block, float norm, const D* grad_y,
                         const D* gate_up, int64_t m, int64_t f, D* grad_gate_up) {
  const Place at = place(m, f);
  const bool vector = f % kLane == 0 && at.count > 0;
  float grad[kLane] = {};
  load_part(grad_y + at.row * f + at.column, at.count, vector, grad);
  if (mask != nullptr) {
    const unsigned bits = at.count > 0 ? mask[at.row * ((f + 7) / 8) + at.column / kLane] : 0u;
#pragma unroll
    for (int i = 0; i < kLane; ++i) grad[i] = (bits >> i & 1u) != 0 ? grad[i] : 0.0f;
  }
  if (block > 1) {
    butterfly(grad, block, norm);
    round8(grad, D{});
  }
  if (at.count == 0) return;
  float gate[kLane], up[kLane];
  const int64_t from = at.row * 2 * f + at.column;
  load_part(gate_up + from, at.count, vector, gate);
  load_part(gate_up + from + f, at.count, vector, up);
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    const float s = sigmoid(gate[i]);
    const float g = gate[i];
    gate[i] = grad[i] * up[i] * (s * (1.0f + g * (1.0f - s)));
    up[i] = grad[i] * (g * s);
  }
  store_part(grad_gate_up + from, at.count, vector, gate);
  store_part(grad_gate_up + from + f, at.count, vector, up);
}

}  // namespace

template <class T>
void swiglu(const T* gate_up, int64_t m, int64_t f, T* y, Stream stream) {
  if (m == 0) return;
  forward<<<blocks_of(m, f), kFlatThreads, 0, stream>>>(dev(gate_up), m, f, dev(y));
  check_launch("swiglu");
}

template <class T>
void swiglu_backward(const QuantSpec* spec, const uint8_t* mask, const T* grad_y, const T* gate_up,
                     int64_t m, int64_t f, T* grad_gate_up, Stream stream) {
  if (m == 0) return;
  const RowRule rule = make_row_rule(spec == nullptr ? QuantSpec{} : *spec, f);
  backward<<<blocks_of(m, f), kFlatThreads, 0, stream>>>(mask, rule.block, rule.norm, dev(grad_y),
                                                         dev(gate_up), m, f, dev(grad_gate_up));
  check_launch("swiglu_backward");
}

#define QUEST_INSTANTIATE(T)                                                                      \
  template void swiglu<T>(const T*, int64_t, int64_t, T*, Stream);                                \
  template void swiglu_backward<T>(const QuantSpec*, const uint8_t*, const T*, const T*, int64_t, \
                                   int64_t, T*, Stream);
QUEST_INSTANTIATE(float)
QUEST_INSTANTIATE(bfloat16)

}  // namespace quest::kernels::cuda
