// The scalar definition of the method: one row in, codes, unit and mask out.
//
// Source: QuEST (arXiv 2502.05003), sections 3.1-3.3; exact rules in docs/method.md. Every kernel
// (x86, CUDA) equals this bit for bit in float. Order of operations, all in Real without
// contraction:
//   xh   = hadamard_transform(x)                        (if spec.hadamard)
//   sum  = sum_of_squares(xh)                           (fixed tree, sum_of_squares.h)
//   rms  = sqrt(sum / K)
//   unit, inverse step, limits: from rms                (row_constants)
//   code = decision on xh * inverse step; mask bit from code, xh and the limits  (decision.h)
// Values are unit * decode(code): for integer grids decode is an integer (an odd one for kUniform).
// In Real-valued steps, with z = xh * inverse_step and round half to even:
//   uniform, b bits   n = round(clamp(z, -(2^b-1)/2, (2^b-1)/2) + 0.5), number = 2n - 1
//   ternary           number = round(clamp(z, -1, 1))
//   tables            number = level[count of midpoints below z], so a tie takes the lower level
//   4:8               as uniform with 4 bits, 0 where the pair is dropped (kept_pairs)
//
//   const QuantSpec spec = recipe_from_name("w4a4").weight;
//   std::vector<int8_t> codes(row.size());
//   const float unit = quantize_row<float>(spec, row, {.codes = codes});   // value = unit * code
//
// Thread rules: everything here is pure.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>

#include "quest/quant/quant_spec.h"

namespace quest {

// The clipping point, in standard deviations, of the b-bit uniform grid with the least squared
// error on N(0,1), as published (to 1e-4 the exact optimum up to 5 bits, to 1 % up to 8; see
// levels_test.cpp). bits 1..8; throws kUsage otherwise.
double optimal_gaussian_scale(int bits);
double optimal_gaussian_scale_ternary();

// FP4 values are level * kFp4Scale * rms, levels 0, .5, 1, 1.5, 2, 3, 4, 6 and their negatives.
inline constexpr double kFp4Scale = 0.48707976;
// The trust limit of FP4 over rms: half the top gap of the authors' 4-bit Gaussian levels.
inline constexpr double kFp4TrustLimit = 0.3185765743;
// Added to a row's scale, so that a row of zeros has one.
inline constexpr double kScaleEpsilon = 1e-8;

// Lloyd-Max levels of N(0,1), ascending, in units of rms. bits 1..4; throws kUsage otherwise. Not
// converged: what 20 Lloyd iterations from 2^bits points evenly spaced on [-3, 3] give.
std::span<const float> gaussian_levels(int bits, bool converged);

// How stored int8 codes of a grid become numbers: value = unit * number.
struct CodeFormat {
  bool is_integer = true;         // number = multiplier * code + offset
  int multiplier = 1;             // 2 for 8-bit uniform (code u, number 2u + 1), else 1
  int offset = 0;                 // 1 for 8-bit uniform, else 0
  int max_number = 0;             // largest |number| of integer grids: bounds the sums of a product
  std::span<const float> levels;  // if !is_integer: number = levels[code], code >= 0
};
// Integer grids: uniform, ternary and 4:8 (numbers |c| <= 2^b - 1, 1, 15) and FP4 (twice the E2M1
// value, |c| <= 12). Throws kUsage for grids without codes (kNone, kMask4of8).
CodeFormat code_format(const QuantSpec& spec);

// A grid that is a table (FP4, Gaussian): numbers ascending, and the midpoints between neighbours.
// Unused entries are infinite, so that a search of fixed depth ends before them.
template <class Real>
struct LevelTable {
  int count = 0;
  std::array<Real, 16> numbers;
  std::array<Real, 16> midpoints;  // count - 1 of them: 0.5 * (numbers[i] + numbers[i + 1])
};
// Throws kUsage for other grids.
template <class Real>
const LevelTable<Real>& level_table(const QuantSpec& spec);

// Where quantize_row writes; an empty span is skipped. K = x.size().
template <class Real>
struct RowOutput {
  std::span<int8_t> codes = {};      // (K), not written for kNone and kMask4of8
  std::span<uint8_t> mask = {};      // (ceil(K/8)), bit k%8 of byte k/8; bits past K are 0
  std::span<Real> values = {};       // (K), quantized values in the rotated basis
  std::span<Real> transformed = {};  // (K), xh
};

// Throws kUsage if rows of K values cannot be quantized: K < 1, a K that hadamard_block_size
// refuses, or K % 8 != 0 with 4:8.
void check_row_size(const QuantSpec& spec, int64_t k);

// Quantizes one row. Returns unit (the row's scale: value = unit * number; 1 for kNone, kMask4of8).
// A non-finite rms returns NaN and leaves outputs unspecified: callers throw kNumeric with the
// names. (kNone decides nothing and never returns NaN.) Outputs may be x itself. Real is float or
// double. Throws what check_row_size throws.
template <class Real>
Real quantize_row(const QuantSpec& spec, std::span<const Real> x, const RowOutput<Real>& out);

// Gradient through one row: grad_x = H (mask * grad_values). grad_values is in the rotated basis;
// an empty mask means all ones. grad_x may be grad_values.
template <class Real>
void quantize_row_backward(const QuantSpec& spec, std::span<const uint8_t> mask,
                           std::span<const Real> grad_values, std::span<Real> grad_x);

// Everything about a row that follows from its rms; shared by all kernels so that they agree.
// With e = 1e-8, s = trust_scale, alpha the grid's clipping point (rounded to Real), b bits:
//   uniform        scale = alpha*rms + e, step = 2*scale/(2^b-1), unit = step/2,
//                  trust = s*(alpha/(2^b-1))*rms, clip = clip_scale*scale
//   4:8, Hadamard  the same with rms + e for rms, and no e added to scale
//   ternary        scale = alpha*rms + e, step = unit = scale, trust = s*(alpha/2)*rms
//   Gaussian       r = rms + e, unit = step = r,
//                  trust = s*(half the top gap)*r, clip = clip_scale*top*r
//   FP4            r = rms + e, unit = step = (kFp4Scale/2)*r,
//                  trust = s*kFp4TrustLimit*r (half gap: s*kFp4Scale*r),
//                  clip = clip_scale*(kFp4Scale*6)*r
// inverse_step = 1/step, one IEEE division; of two levels (uniform, 1 bit) kSignStep, so that the
// sign of a value decides, however small it is: z + 0.5 would round to 0.5 where z <= 2^-25.
template <class Real>
inline constexpr Real kSignStep = 1 / std::numeric_limits<Real>::min();
template <class Real>
struct RowConstants {
  Real unit;          // value = unit * number
  Real inverse_step;  // z = xh * inverse_step is what decisions are made on
  Real trust_limit;   // mask = |value - xh| <= trust_limit
  Real clip_limit;    // mask = |xh| <= clip_limit
};
template <class Real>
RowConstants<Real> row_constants(const QuantSpec& spec, Real rms);

// Of 8 values seen as 4 pairs: bit j is set if pair j is one of the 2 of largest squared norm
// x[2j]^2 + x[2j+1]^2; of equal pairs the earlier is kept.
template <class Real>
unsigned kept_pairs(const Real* group);

}  // namespace quest
