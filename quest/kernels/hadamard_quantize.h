// Fused quantizer of rows: RMS, Hadamard transform, decision, codes, unit and mask bits in one pass;
// its backward (mask, inverse transform); the transform alone; codes back to values.
//
// M rows, K columns, row-major and dense. T is float or bfloat16 (converted to float exactly on load;
// outputs of type T are rounded to nearest even). Codes, units and masks equal quantize_row<float> bit
// for bit at every level. Single-threaded over the rows given: callers split rows. Grids with integer
// or table codes only (not kNone, kMask4of8).
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/base/cpu_features.h"
#include "quest/quant/quant_spec.h"

namespace quest::kernels {

// codes (M,K) int8, units (M) f32, mask (M, ceil(K/8)) bits or null (weights at inference).
// Returns -1, or the first row whose rms is not finite (rows after it are still processed; outputs of
// a non-finite row are unspecified).
template <class T>
int64_t hadamard_quantize(const QuantSpec& spec, const T* x, int64_t m, int64_t k, int8_t* codes,
                          float* units, uint8_t* mask, IsaLevel level = isa_level());

// grad_x (M,K) = H (mask * grad_values), or mask * grad_values without the transform. In place allowed.
// mask null means all ones.
template <class T>
void mask_hadamard(const QuantSpec& spec, const T* grad_values, const uint8_t* mask, int64_t m,
                   int64_t k, T* grad_x, IsaLevel level = isa_level());

// y (M,K) = x H. In place allowed.
template <class T>
void hadamard_rows(const T* x, int64_t m, int64_t k, T* y, IsaLevel level = isa_level());

// values (M,K) = units[m] * number(codes), one rounding to T. units null: the numbers themselves.
template <class T>
void dequantize_rows(const QuantSpec& spec, const int8_t* codes, const float* units, int64_t m,
                     int64_t k, T* values, IsaLevel level = isa_level());

// "avx512", ...: the level whose code runs when `level` is asked for.
const char* hadamard_quantize_plan(IsaLevel level = isa_level());

}  // namespace quest::kernels
