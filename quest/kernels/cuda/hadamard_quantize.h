// The operations of kernels/hadamard_quantize.h on a GPU: fused quantizer of rows, its backward,
// and codes back to values.
//
// All pointers are device memory, 16-byte aligned, dense row-major; T is float or bfloat16. Codes,
// units and masks have the bits of the scalar definition (quest/quant/quantizer.h, in float). A row
// whose rms is not finite gets the unit NaN, so that everything computed from it is NaN: nothing is
// thrown, since that would need the host to wait. Calls are asynchronous in `stream`.
//
//   hadamard_quantize<bfloat16>(spec, x, m, k, {codes, units, mask}, stream);
//
// Errors: kUsage for a K that the spec refuses or beyond kMaxRow; kEnvironment for CUDA's.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/kernels/cuda/stream.h"
#include "quest/quant/quant_spec.h"

namespace quest::kernels::cuda {

// What is wanted of quantized rows; null is not written.
struct QuantizedRows {
  int8_t* codes = nullptr;  // (M,K), for grids with codes
  float* units = nullptr;   // (M); 1 for grids without codes; NaN where the rms is not finite
  uint8_t* mask = nullptr;  // (M, ceil(K/8)) bits
  void* values = nullptr;   // (M,K) in the rotated basis, unit * number
  bool values_are_bfloat16 = true;
};

// x (M,K). Grids without codes (kNone, kMask4of8) give values.
template <class T>
void hadamard_quantize(const QuantSpec& spec, const T* x, int64_t m, int64_t k,
                       const QuantizedRows& out, Stream stream);

// h = x + delta (delta null: h = x, not written), y = rms_norm(h) rounded to T, then y quantized.
// h, inverse_rms (null: not written) as rms_norm.h has them.
template <class T>
void add_rms_norm_hadamard_quantize(const QuantSpec& spec, const T* x, const T* delta,
                                    const float* weight, float eps, int64_t m, int64_t k, T* h,
                                    float* inverse_rms, const QuantizedRows& out, Stream stream);

// swiglu of gate_up (M,2F) rounded to T, then quantized as rows of F.
template <class T>
void swiglu_hadamard_quantize(const QuantSpec& spec, const T* gate_up, int64_t m, int64_t f,
                              const QuantizedRows& out, Stream stream);

// grad_x (M,K) = H (mask * grad_values), or mask * grad_values where the spec has no transform.
// In place allowed where both are of one type. mask null: all ones. Out: T, or float from bfloat16.
template <class T, class Out = T>
void mask_hadamard(const QuantSpec& spec, const T* grad_values, const uint8_t* mask, int64_t m,
                   int64_t k, Out* grad_x, Stream stream);

// values (M,K) = units[m] * number(codes), rounded to T; units null: the numbers themselves.
template <class T>
void dequantize_rows(const QuantSpec& spec, const int8_t* codes, const float* units, int64_t m,
                     int64_t k, T* values, Stream stream);

}  // namespace quest::kernels::cuda
