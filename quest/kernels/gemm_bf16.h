// Product of bfloat16 matrices with FP32 sums, on AMX's tiles: the training products of which an
// operand is not codes (backward pass, LM head, unquantized models). FP32 has gemm_fixed_point.h.
//
//   out[i][j] (+)= T(sum_k a[i][k] * b[k][j])     a (M,K), b (K,N), out (M,N) T float or bfloat16
//
// Either operand may be stored either way round (a transposed view costs nothing extra). Where
// there is no AMX the callers use LibTorch's product: gemm_bf16_supports says which. The definition
// is gemm_bf16_reference (scalar/gemm_bf16.cpp, sums in double); AMX agrees with it within the
// rounding of FP32 sums, takes denormals as zero, and gives the same bits for any split into tasks.
//
// The smaller operand is packed into tiles once (shared by all threads), the larger one panel by
// panel by the thread that needs it. Each call is single-threaded; calls on different panels or
// tasks may run at once:
//
//   const GemmBf16Plan plan = plan_gemm_bf16(product, threads);
//   std::vector<bfloat16> shared(plan.shared_panels * plan.panel_elements);
//   gemm_bf16_pack(product, plan, 0, plan.shared_panels, shared.data());   // deal out panels
//   gemm_bf16_run(product, plan, shared.data(), 0, plan.tasks);            // then deal out tasks
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/base/cpu_features.h"

namespace quest::kernels {

// Element (i, j) is data[i * row_stride + j * column_stride]; one of the strides must be 1.
struct GemmOperand {
  const bfloat16* data = nullptr;
  int64_t row_stride = 0, column_stride = 0;
};

struct GemmBf16 {
  GemmOperand a, b;
  int64_t m = 0, n = 0, k = 0;  // k at most kMaxGemmBf16Depth: longer sums are several products
  void* out = nullptr;          // (M,N), row stride ldo
  int64_t ldo = 0;
  bool out_is_bfloat16 = false;
  bool accumulate = false;  // out += instead of out =; FP32 only
};

// A panel of the larger operand and its sums stay in the L2 cache up to here. A multiple of 32.
constexpr int64_t kMaxGemmBf16Depth = 4096;

struct GemmBf16Plan {
  bool shares_a = false;       // a is packed whole, else b
  int64_t panel_elements = 0;  // of one packed panel, 32 rows or columns
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

// The definition.
void gemm_bf16_reference(const GemmBf16& product);

// What FP32 attention is made of: an FP32 value as three bfloat16 ones, so that a product of two is
// six products of pieces: high by high, middle and low, middle by high and middle, low by high;
// what is left out is below 2^-25 of |a| |b|. high + middle + low = x, where high is x rounded to
// the nearest (ties away from zero), middle what is left of it, rounded, and low the rest, which 8
// bits hold if it is not subnormal; so middle is at most 2^-8 of x and low 2^-17. Of an infinite
// value or one that rounds to infinity a piece is NaN.
struct Bf16Pieces {
  bfloat16 high, middle, low;
};
Bf16Pieces split_bf16_reference(float x);

}  // namespace quest::kernels
