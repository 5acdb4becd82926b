// Product of FP32 matrices, or of an FP32 matrix and integer codes, in 24-bit fixed point on AMX's
// int8 tiles: the products of training in FP32 (backward pass, LM head, unquantized models).
//
//   out[i][j] (+)= sum_k a[i][k] * b[k][j]     a (M,K), b (K,N), out (M,N), all FP32
//
// Each row of a and each column of an FP32 b is taken as unit * q, q = rint(x / unit) an integer of
// at most 8355584 with unit = max |x| / 8355584, and q as three signed bytes: q = 65536 high +
// 256 middle + low. Products of bytes are summed exactly in int32, by their weight: high by high
// (2^32); high by middle (2^24); high by low and middle by middle (2^16). Middle by low and low by
// low are left out: per term less than 2^-22.9 of max |row of a| max |column of b|, and 2^-25 of
// it in the mean. Codes are one byte, so that nothing is left out. The error of an element beyond
// the rounding of its three sums is therefore relative to the largest values of its row and column,
// not to each term: as exact as an FP32 product unless a few values of a row are so much larger
// than the rest that these hardly count in its sums (gemm_fixed_point_test.cpp has both).
//
// A row or column whose largest value is below 2^-100 is taken as if that were 2^-100. One that
// holds an infinite value or a NaN gives NaN throughout.
//
// Where there is no AMX the callers use LibTorch's product: gemm_fixed_point_supports says which.
// The definition is gemm_fixed_point_reference (scalar/gemm_fixed_point.cpp); AMX gives its bits,
// for any split into tasks.
//
// The smaller operand, or the codes, is packed into tiles once (shared by all threads), the other
// panel by panel by the thread that needs it. Each call is single-threaded; calls on different
// panels or tasks may run at once:
//
//   const GemmFixedPointPlan plan = plan_gemm_fixed_point(product, threads);
//   std::vector<int8_t> shared(plan.shared_panels * plan.shared_panel_bytes);
//   gemm_fixed_point_pack(product, plan, 0, plan.shared_panels, shared.data());  // deal out panels
//   gemm_fixed_point_run(product, plan, shared.data(), 0, plan.tasks);       // then deal out tasks
#pragma once

#include <cstdint>

#include "quest/base/cpu_features.h"

namespace quest::kernels {

// Element (i, j) is data[i * row_stride + j * column_stride]; one of the strides must be 1.
struct FixedPointOperand {
  const float* data = nullptr;
  int64_t row_stride = 0, column_stride = 0;
  // Element k of the sum counts times k_scales[k] (rounded to FP32 first), if there are any: (K).
  const float* k_scales = nullptr;
};

struct GemmFixedPoint {
  FixedPointOperand a, b;
  // Instead of b: codes (K,N) from -128 to 127, contiguous rows, codes_stride from one to the next.
  const int8_t* codes = nullptr;
  int64_t codes_stride = 0;
  int64_t m = 0, n = 0, k = 0;  // k at most kMaxFixedPointDepth: longer sums are several products
  float* out = nullptr;         // (M,N), row stride ldo
  int64_t ldo = 0;
  bool accumulate = false;  // out += instead of out =
};

// Panels of this depth stay in the L2 cache, and no int32 sum can overflow.
constexpr int64_t kMaxFixedPointDepth = 1344;

struct GemmFixedPointPlan {
  bool shares_a = false;                                // a is packed whole, else b or the codes
  int64_t shared_panel_bytes = 0, own_panel_bytes = 0;  // of one packed panel; multiples of 64
  int64_t shared_panels = 0;
  int64_t task_panels = 0;  // panels of the other operand in one task
  int64_t tasks = 0;
};

bool gemm_fixed_point_supports(IsaLevel level = isa_level());

// Throws kUsage for strides or a depth that the product does not have.
GemmFixedPointPlan plan_gemm_fixed_point(const GemmFixedPoint& product, int threads);

// Packs panels [begin, end) of the shared operand; `shared` (64-byte aligned) is its whole memory.
void gemm_fixed_point_pack(const GemmFixedPoint& product, const GemmFixedPointPlan& plan,
                           int64_t begin, int64_t end, int8_t* shared);
void gemm_fixed_point_run(const GemmFixedPoint& product, const GemmFixedPointPlan& plan,
                          const int8_t* shared, int64_t begin, int64_t end);

// The definitions. How a vector whose largest magnitude is `largest` (>= 0; infinite or NaN: unit
// is NaN) becomes integers: q = rint(x * inverse), x ~ q * unit.
struct FixedPointScale {
  float unit = 0, inverse = 0;
};
FixedPointScale fixed_point_scale_reference(float largest);
// |q| at most 8355584 = 65536 * 127 + 256 * 127, and a little room for the rounding of x * inverse.
struct FixedPointDigits {
  int8_t high = 0, middle = 0, low = 0;
};
FixedPointDigits fixed_point_digits_reference(int32_t q);
void gemm_fixed_point_reference(const GemmFixedPoint& product);

}  // namespace quest::kernels
