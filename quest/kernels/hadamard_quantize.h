// Fused quantizer of rows: RMS, Hadamard transform, decision, codes, unit and mask bits in one pass
// over memory; its backward (mask, inverse transform); the transform alone; codes back to values.
//
// M rows, K columns, row-major and dense. T is float or bfloat16 (converted to float exactly on
// load; outputs of type T are rounded to nearest even). Codes, units, masks and values equal the
// scalar definition (quest/quant/quantizer.h, in float) bit for bit at every level, on any split of
// the rows. Single-threaded over the rows given; callers split rows over threads. `level` must be
// one that the CPU has.
//
//   std::vector<int8_t> codes(m * k);
//   std::vector<float> units(m);
//   const int64_t bad_row =
//       kernels::hadamard_quantize(spec, x, m, k, codes.data(), units.data(), nullptr);
//   if (bad_row >= 0) throw kNumeric with the names of the tensor and the row
//
// Source: QuEST (arXiv 2502.05003), sections 3.1-3.3.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/base/cpu_features.h"
#include "quest/quant/quant_spec.h"

namespace quest::kernels {

// codes (M,K) int8, units (M) f32, mask (M, ceil(K/8)) bits or null (weights at inference).
// Returns -1, or the first row whose rms is not finite (rows after it are still processed; outputs
// of a non-finite row are unspecified). Throws kUsage for grids without codes (kNone, kMask4of8)
// and for a K that the spec refuses (check_row_size).
template <class T>
int64_t hadamard_quantize(const QuantSpec& spec, const T* x, int64_t m, int64_t k, int8_t* codes,
                          float* units, uint8_t* mask, IsaLevel level = isa_level());

// grad_x (M,K) = H (mask * grad_values), or mask * grad_values without the transform, of which
// alone the spec tells (any grid). In place allowed. mask null means all ones. Throws kUsage as
// above for K.
template <class T>
void mask_hadamard(const QuantSpec& spec, const T* grad_values, const uint8_t* mask, int64_t m,
                   int64_t k, T* grad_x, IsaLevel level = isa_level());

// y (M,K) = x H. In place allowed. Throws kUsage if K has no Hadamard block.
template <class T>
void hadamard_rows(const T* x, int64_t m, int64_t k, T* y, IsaLevel level = isa_level());

// values (M,K) = units[m] * number(codes): the product in float, then rounded to T. units null: the
// numbers themselves. Codes must be ones of the grid. Throws kUsage for grids without codes.
template <class T>
void dequantize_rows(const QuantSpec& spec, const int8_t* codes, const float* units, int64_t m,
                     int64_t k, T* values, IsaLevel level = isa_level());

// "avx512", ...: the level whose code runs when `level` is asked for.
const char* hadamard_quantize_plan(IsaLevel level = isa_level());

}  // namespace quest::kernels
