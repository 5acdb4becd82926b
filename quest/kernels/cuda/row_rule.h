// What a GPU kernel must know of a QuantSpec to decide the values of one row: plain data, passed to
// kernels by value. The device's twin of row_constants() and RowDecision (quest/quant).
#pragma once

#include <cstdint>

#include "quest/quant/quant_spec.h"

namespace quest::kernels::cuda {

// How values are decided; a template argument of kernels.
enum class CodeKind {
  kLinear,  // uniform grids and ternary: codes by arithmetic
  kTable,   // FP4 and Gaussian levels
  kSparse,  // the 4:8 grids
  kValues,  // no codes: values alone (kNone)
};

struct RowRule {
  CodeKind code = CodeKind::kValues;
  int block = 1;   // of the Hadamard transform, 1 for none
  float norm = 1;  // hadamard_norm(block)

  // scale = alpha * (rms + epsilon) or alpha * rms + epsilon; tables: r = rms + epsilon
  float alpha = 0;
  float half_steps = 0;
  float epsilon = 0;
  bool epsilon_in_rms = false;
  bool whole_steps = false;  // ternary: a number is a whole step
  float unit_over_r = 0;     // tables

  // A value passes its gradient where |xh - error_of * value| <= limit. trust: error_of 1, limit
  // trust_factor * rms; clip: error_of 0, limit clip_factor * scale (tables: both times r); ste:
  // limit infinite.
  float error_of = 0;
  float trust_factor = 0, clip_factor = 0, ste_limit = 0;

  // Linear grids: n = rint(clamp(z, +-half_levels) + shift), number = slope * n - intercept, code =
  // the low byte of code_slope * (bits of n + 1.5 * 2^23) + code_offset. Back: number =
  // (code << number_shift) + number_offset.
  bool by_sign = false;  // two levels: z is +-half_levels, or 0 where the value is
  float half_levels = 0, shift = 0;
  float slope = 1, intercept = 0;
  int code_slope = 1, code_offset = 0;
  int number_shift = 0, number_offset = 0;

  bool rounds = true;           // sparse: false for kMask4of8, which keeps values as they are
  bool number_is_code = false;  // tables: FP4 stores numbers, Gaussian grids indices
  int levels = 0;               // of the table
  float numbers[16] = {};       // ascending
  float midpoints[16] = {};     // levels - 1 of them
};

// Throws kUsage for a K that the spec refuses and for rows longer than the kernels take.
RowRule make_row_rule(const QuantSpec& spec, int64_t k);

// The longest row of the row-wise kernels.
inline constexpr int64_t kMaxRow = 32768;

}  // namespace quest::kernels::cuda
