// Product of bfloat16 matrices with FP32 sums, on AMX: the training products whose operands are not
// codes (backward pass, LM head, unquantized models).
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
struct Bf16View {
  const bfloat16* data = nullptr;
  int64_t row_stride = 0, column_stride = 0;
};

struct GemmBf16 {
  Bf16View a, b;
  int64_t m = 0, n = 0, k = 0;  // k at most kMaxGemmBf16Depth: longer sums are several products
  void* out = nullptr;          // (M,N), row stride ldo
  int64_t ldo = 0;
  bool out_is_bfloat16 = false;
  bool accumulate = false;  // out += instead of out =; FP32 only
};

// A panel of the larger operand and its sums stay in the L2 cache up to here.
inline constexpr int64_t kMaxGemmBf16Depth = 4096;

struct GemmBf16Plan {
  bool shares_a = false;       // a is packed whole, else b
  int64_t panel_elements = 0;  // bfloat16 values of one packed panel: 32 rows or columns
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

// FP32 operands as three bfloat16 ones: high + middle + low = x * scale up to 2^-24 of it
// (subnormal pieces are zero). Values [0, count) of a row; scale i is scales[i * scale_stride],
// stride 0 or 1. A product with integers up to 256, which bfloat16 holds exactly, is then three
// products as exact as one in FP32.
void split_bf16(const float* x, const float* scales, int64_t scale_stride, int64_t count,
                bfloat16* high, bfloat16* middle, bfloat16* low);

// The definitions.
void split_bf16_reference(const float* x, const float* scales, int64_t scale_stride, int64_t count,
                          bfloat16* high, bfloat16* middle, bfloat16* low);
void gemm_bf16_reference(const GemmBf16& product);

}  // namespace quest::kernels
