// Inside of gemm_bf16: constants of the tile order, the functions of its one level. Not for
// callers.
//
// A panel is 32 rows of a, or 32 columns of b, over the whole depth K, in steps of 32 along K; a
// step is two tiles of 16 rows of 64 bytes:
//   of a: tile t, row r: a[16 t + r][k .. k + 31]
//   of b: tile t, row p: pairs b[k + 2 p][j], b[k + 2 p + 1][j] for the 16 columns j of the tile
// Rows, columns and depth past the end are zero. A step of FP32 values (attention) is three such
// steps: the high, the middle and the low pieces.
#pragma once

#include "quest/kernels/gemm_bf16.h"

namespace quest::kernels::detail {

inline constexpr int64_t kBf16Panel = 32;      // rows or columns
inline constexpr int64_t kBf16StepDepth = 32;  // along K
// bfloat16 values of a panel's step, of one piece.
inline constexpr int64_t kStepElements = kBf16Panel * kBf16StepDepth;

void gemm_bf16_pack_amx(const GemmBf16& product, const GemmBf16Plan& plan, int64_t begin,
                        int64_t end, bfloat16* shared);
void gemm_bf16_run_amx(const GemmBf16& product, const GemmBf16Plan& plan, const bfloat16* shared,
                       int64_t begin, int64_t end);

}  // namespace quest::kernels::detail
