// hadamard_quantize.h: one block per row, or blocks that take many rows in turn; the backward
// transform needs no sum over the row and takes 8 values per thread wherever they lie.
#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/kernels/cuda/quantize_row.cuh"
#include "quest/kernels/cuda/quantize_spans.cuh"
#include "quest/kernels/cuda/sources.cuh"

namespace quest::kernels::cuda {
namespace {

// Rows of a length that is a multiple of 8 (every row with a transform): 8 values are one byte of
// the mask, rows need no telling apart.
template <class D, class Out>
__global__ void mask_hadamard8(const D* values, const uint8_t* mask, int64_t groups, int block,
                               float norm, Out* out) {
  const int64_t group = blockIdx.x * static_cast<int64_t>(kFlatThreads) + threadIdx.x;
  float v[kLane] = {};
  if (group < groups) {
    load8(values + group * kLane, v);
    const unsigned bits = mask == nullptr ? 0xffu : mask[group];
#pragma unroll
    for (int i = 0; i < kLane; ++i) v[i] = (bits >> i & 1u) != 0 ? v[i] : 0.0f;
  }
  if (block > 1) butterfly(v, block, norm);
  if (group < groups) store8(out + group * kLane, v);
}

// Any row length, no transform.
template <class D, class Out>
__global__ void mask_values(const D* values, const uint8_t* mask, int64_t m, int64_t k, Out* out) {
  const int64_t at = blockIdx.x * static_cast<int64_t>(kFlatThreads) + threadIdx.x;
  if (at >= m * k) return;
  const int64_t row = at / k, column = at % k;
  const bool passes =
      mask == nullptr || (mask[row * ((k + 7) / 8) + column / 8] >> (column % 8) & 1) != 0;
  out[at] = from_float<Out>(passes ? to_float(values[at]) : 0.0f);
}

// Plain table of numbers by code: the codes of a table grid are indices, of others themselves.
template <class D>
__global__ void dequantize8(const int8_t* codes, const float* units, RowRule rule, int64_t m,
                            int64_t k, D* values) {
  __shared__ float numbers[16];
  if (threadIdx.x < 16) numbers[threadIdx.x] = rule.numbers[threadIdx.x];
  __syncthreads();
  const uint32_t per_row = static_cast<uint32_t>((k + kLane - 1) / kLane);
  const uint32_t group = blockIdx.x * static_cast<uint32_t>(kFlatThreads) + threadIdx.x;
  if (group >= m * per_row) return;
  const int64_t row = group / per_row, column = group % per_row * kLane;
  const int count = static_cast<int>(min(static_cast<int64_t>(kLane), k - column));
  const bool vector = k % kLane == 0;
  const float unit = units == nullptr ? 1.0f : units[row];
  const int64_t at = row * k + column;
  int8_t code[kLane] = {};
  if (vector) {
    *reinterpret_cast<uint2*>(code) = *reinterpret_cast<const uint2*>(codes + at);
  } else {
    for (int i = 0; i < count; ++i) code[i] = codes[at + i];
  }
  const bool table = rule.code == CodeKind::kTable && !rule.number_is_code;
  float v[kLane];
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    const float number = table ? numbers[code[i] & 15]
                               : float_of((code[i] << rule.number_shift) + rule.number_offset);
    v[i] = number * unit;
  }
  store_part(values + at, count, vector, v);
}

// By spans, if these rows have them and they take it.
template <class Rows>
void quantize(const char* operation, const Rows& rows, const QuantSpec& spec, int64_t m, int64_t k,
              const QuantizedRows& out, cudaStream_t stream) {
  const RowRule rule = make_row_rule(spec, k);
  if constexpr (requires { spans_of(rows); }) {
    const auto spans = spans_of(rows);
    if (takes_spans<decltype(spans_of(rows))>(rule, m, k, out)) {
      return launch_quantize_spans(operation, spans, rule, m, k, out, stream);
    }
  }
  launch_quantize_rows(operation, rows, rule, m, k, out, stream);
}

}  // namespace

template <class T>
void hadamard_quantize(const QuantSpec& spec, const T* x, int64_t m, int64_t k,
                       const QuantizedRows& out, Stream stream) {
  quantize("hadamard_quantize", PlainRows<device_t<T>>{dev(x)}, spec, m, k, out, stream);
}

template <class T>
void add_rms_norm_hadamard_quantize(const QuantSpec& spec, const T* x, const T* delta,
                                    const float* weight, float eps, int64_t m, int64_t k, T* h,
                                    float* inverse_rms, const QuantizedRows& out, Stream stream) {
  const NormalizedRows<device_t<T>> rows{dev(x), dev(delta), weight,     eps,
                                         dev(h), nullptr,    inverse_rms};
  quantize("add_rms_norm_hadamard_quantize", rows, spec, m, k, out, stream);
}

template <class T>
void swiglu_hadamard_quantize(const QuantSpec& spec, const T* gate_up, int64_t m, int64_t f,
                              const QuantizedRows& out, Stream stream) {
  const SwigluRows<device_t<T>> rows{dev(gate_up)};
  quantize("swiglu_hadamard_quantize", rows, spec, m, f, out, stream);
}

template <class T, class Out>
void mask_hadamard(const QuantSpec& spec, const T* grad_values, const uint8_t* mask, int64_t m,
                   int64_t k, Out* grad_x, Stream stream) {
  const RowRule rule = make_row_rule(spec, k);
  if (m == 0) return;
  if (k % kLane == 0) {
    const int64_t groups = m * k / kLane;
    mask_hadamard8<<<blocks_for(groups), kFlatThreads, 0, stream>>>(
        dev(grad_values), mask, groups, rule.block, rule.norm, dev(grad_x));
  } else {
    mask_values<<<blocks_for(m * k), kFlatThreads, 0, stream>>>(dev(grad_values), mask, m, k,
                                                                dev(grad_x));
  }
  check_launch("mask_hadamard");
}

template <class T>
void dequantize_rows(const QuantSpec& spec, const int8_t* codes, const float* units, int64_t m,
                     int64_t k, T* values, Stream stream) {
  const RowRule rule = make_row_rule(spec, k);
  if (m == 0) return;
  dequantize8<<<blocks_for(m * ((k + kLane - 1) / kLane)), kFlatThreads, 0, stream>>>(
      codes, units, rule, m, k, dev(values));
  check_launch("dequantize_rows");
}

#define QUEST_INSTANTIATE(T)                                                                      \
  template void hadamard_quantize<T>(const QuantSpec&, const T*, int64_t, int64_t,                \
                                     const QuantizedRows&, Stream);                               \
  template void add_rms_norm_hadamard_quantize<T>(const QuantSpec&, const T*, const T*,           \
                                                  const float*, float, int64_t, int64_t, T*,      \
                                                  float*, const QuantizedRows&, Stream);          \
  template void swiglu_hadamard_quantize<T>(const QuantSpec&, const T*, int64_t, int64_t,         \
                                            const QuantizedRows&, Stream);                        \
  template void mask_hadamard<T, T>(const QuantSpec&, const T*, const uint8_t*, int64_t, int64_t, \
                                    T*, Stream);                                                  \
  template void dequantize_rows<T>(const QuantSpec&, const int8_t*, const float*, int64_t,        \
                                   int64_t, T*, Stream);
template void mask_hadamard<bfloat16, float>(const QuantSpec&, const bfloat16*, const uint8_t*,
                                             int64_t, int64_t, float*, Stream);
QUEST_INSTANTIATE(float)
QUEST_INSTANTIATE(bfloat16)

}  // namespace quest::kernels::cuda
