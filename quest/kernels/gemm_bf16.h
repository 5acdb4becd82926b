// Product of matrices with FP32 sums, on AMX's bfloat16 tiles: the training products of which an
// operand is not codes (backward pass, LM head, unquantized models).
//
//   out[i][j] (+)= T(sum_k a[i][k] * b[k][j])     a (M,K), b (K,N), out (M,N) T float or bfloat16
//
// Either operand may be stored either way round (a transposed view costs nothing extra) and is
// bfloat16 or FP32. An FP32 operand is taken as three bfloat16 pieces (split_bf16), so that a
// product with bfloat16 is three products of pieces, one of two FP32 operands six: high by high,
// middle and low, middle by high and middle, low by high; what is left out is below 2^-25 of
// |a| |b|, less than one rounding of an FP32 product. Where there is no AMX the callers use
// LibTorch's product: gemm_bf16_supports says which. The definition is gemm_bf16_reference
// (scalar/gemm_bf16.cpp, sums in double); AMX agrees with it within the rounding of FP32 sums,
// takes denormals (of pieces, too) as zero, and gives the same bits for any split into tasks. An
// infinite FP32 value gives NaN.
//
// The smaller operand is packed into tiles once (shared by all threads), the larger one panel by
// panel by the thread that needs it. Each call is single-threaded; calls on different panels or
// tasks may run at once:
//
//   const GemmBf16Plan plan = plan_gemm_bf16(product, threads);
//   std::vector<bfloat16> shared(plan.shared_panels * plan.shared_panel_elements);
//   gemm_bf16_pack(product, plan, 0, plan.shared_panels, shared.data());   // deal out panels
//   gemm_bf16_run(product, plan, shared.data(), 0, plan.tasks);            // then deal out tasks
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/base/cpu_features.h"

namespace quest::kernels {

// A bfloat16 or FP32 operand. Element (i, j) is data[i * row_stride + j * column_stride]; one of
// the strides must be 1.
struct GemmOperand {
  GemmOperand() = default;
  GemmOperand(const bfloat16* values, int64_t to_next_row, int64_t to_next_column)
      : data(values), row_stride(to_next_row), column_stride(to_next_column) {}
  // Element k of the sum counts times scales[k] (rounded to FP32 first), if there are any: (K).
  GemmOperand(const float* values, int64_t to_next_row, int64_t to_next_column,
              const float* scales = nullptr)
      : data(values),
        row_stride(to_next_row),
        column_stride(to_next_column),
        is_float(true),
        k_scales(scales) {}

  // Bfloat16 values that one value is multiplied as.
  int pieces() const { return is_float ? 3 : 1; }

  const void* data = nullptr;
  int64_t row_stride = 0, column_stride = 0;
  bool is_float = false;
  const float* k_scales = nullptr;
};

struct GemmBf16 {
  GemmOperand a, b;
  int64_t m = 0, n = 0, k = 0;  // k at most max_gemm_bf16_depth: longer sums are several products
  void* out = nullptr;          // (M,N), row stride ldo
  int64_t ldo = 0;
  bool out_is_bfloat16 = false;
  bool accumulate = false;  // out += instead of out =; FP32 only
};

// A panel of the larger operand and its sums stay in the L2 cache up to here: of operands of so
// many pieces at most, 1 or 3. A multiple of 32.
constexpr int64_t max_gemm_bf16_depth(int pieces) { return pieces == 1 ? 4096 : 1344; }

struct GemmBf16Plan {
  bool shares_a = false;  // a is packed whole, else b
  // bfloat16 values of one packed panel, 32 rows or columns, of the shared and the larger operand
  int64_t shared_panel_elements = 0, own_panel_elements = 0;
  int64_t shared_panels = 0;
  int64_t task_panels = 0;  // panels of the larger operand in one task
  int64_t tasks = 0;
};

// AMX, and AVX-512-BF16, which all CPUs with AMX have.
bool gemm_bf16_supports(IsaLevel level = isa_level());

// Throws kUsage for strides, depth or types that the product does not have.
GemmBf16Plan plan_gemm_bf16(const GemmBf16& product, int threads);

// Packs panels [begin, end) of the shared operand; `shared` (64-byte aligned) is its whole memory.
void gemm_bf16_pack(const GemmBf16& product, const GemmBf16Plan& plan, int64_t begin, int64_t end,
                    bfloat16* shared);
void gemm_bf16_run(const GemmBf16& product, const GemmBf16Plan& plan, const bfloat16* shared,
                   int64_t begin, int64_t end);

// The definitions. An FP32 value as three bfloat16 ones: high + middle + low = x, where high is x
// rounded to the nearest (ties away from zero), middle what is left of it, rounded, and low the
// rest, which 8 bits hold if it is not subnormal; so middle is at most 2^-8 of x and low 2^-17. Of
// an infinite value or one that rounds to infinity a piece is NaN.
struct Bf16Pieces {
  bfloat16 high, middle, low;
};
Bf16Pieces split_bf16_reference(float x);
void gemm_bf16_reference(const GemmBf16& product);

}  // namespace quest::kernels
