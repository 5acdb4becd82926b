// The scalar definition of the method: one row in, codes, unit and mask out.
//
// Source: QuEST (arXiv 2502.05003), sections 3.1-3.3; exact rules in docs/method.md. Every kernel
// (x86, CUDA) equals this bit for bit in float. Order of operations, all in Real without contraction:
//   xh   = hadamard_transform(x)                        (if spec.hadamard)
//   sum  = sum_of_squares(xh)                           (fixed tree, sum_of_squares.h)
//   rms  = sqrt(sum / K)
//   unit, inverse step, limits: from rms                (row_constants)
//   code = decision on xh * inverse step; mask bit from code, xh and the limits
// Values are unit * decode(code): for integer grids decode is an integer (an odd one for kUniform).
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "quest/quant/quant_spec.h"

namespace quest {

// The clipping point, in standard deviations, of the b-bit uniform grid with the least squared error
// on N(0,1) (method.md section 1). bits 1..8; throws kUsage otherwise.
double optimal_gaussian_scale(int bits);
double optimal_gaussian_scale_ternary();

// Levels of the grids that are tables, ascending, in units of rms (Gaussian) or of unit (FP4).
std::span<const float> gaussian_levels(int bits, bool converged);

// How stored int8 codes of a grid become numbers: value = unit * number.
struct CodeFormat {
  bool is_integer = true;   // number = multiplier * code + offset
  int multiplier = 1;       // 2 for 8-bit uniform (code u, number 2u + 1), else 1
  int offset = 0;           // 1 for 8-bit uniform, else 0
  int max_number = 0;       // largest |number|: bounds the integer sums of a product
  std::span<const float> levels;  // if !is_integer: number = levels[code], code >= 0
};
// Throws kUsage for grids without codes (kNone, kMask4of8).
CodeFormat code_format(const QuantSpec& spec);

// Where quantize_row writes; an empty span is skipped. K = x.size().
template <class Real>
struct RowOutput {
  std::span<int8_t> codes;      // (K), undefined for kNone and kMask4of8
  std::span<uint8_t> mask;      // (ceil(K/8)), bit k%8 of byte k/8; bits past K are 0
  std::span<Real> values;       // (K), quantized values in the rotated basis
  std::span<Real> transformed;  // (K), xh
};

// Quantizes one row. Returns unit (the row's scale: value = unit * number; 1 for kNone, kMask4of8).
// A non-finite rms returns NaN and leaves outputs unspecified: callers throw kNumeric with the names.
// Real is float or double. Errors: kUsage if K is impossible for the spec (hadamard_block_size, 4:8
// needs K % 8 == 0).
template <class Real>
Real quantize_row(const QuantSpec& spec, std::span<const Real> x, const RowOutput<Real>& out);

// Gradient through one row: grad_x = H (mask * grad_values). grad_values is in the rotated basis.
template <class Real>
void quantize_row_backward(const QuantSpec& spec, std::span<const uint8_t> mask,
                           std::span<const Real> grad_values, std::span<Real> grad_x);

// Everything about a row that follows from its rms; shared by all kernels so that they agree.
template <class Real>
struct RowConstants {
  Real unit;          // value = unit * number
  Real inverse_step;  // z = xh * inverse_step is what decisions are made on
  Real trust_limit;   // mask = |value - xh| <= trust_limit
  Real clip_limit;    // mask = |xh| <= clip_limit
};
template <class Real>
RowConstants<Real> row_constants(const QuantSpec& spec, Real rms);

}  // namespace quest
