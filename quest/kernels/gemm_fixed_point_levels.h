// Inside of gemm_fixed_point: constants of the tile order, the functions of its one level. Not for
// callers.
//
// A panel of an FP32 operand is 16 vectors (rows of a, columns of b) over the whole depth: their 16
// units, then steps of 64 along K. A step is three tiles of 16 rows of 64 bytes, of the high, the
// middle and the low digits:
//   of a: row r: a[r][k .. k + 63]
//   of b: row g: b[k + 4 g .. k + 4 g + 3][j] for each of the 16 columns j
// A panel of codes is 32 columns; a step is two tiles like those of b, 16 columns each, and there
// are no units. Vectors and depth past the end are zero.
#pragma once

#include "quest/kernels/gemm_fixed_point.h"

namespace quest::kernels::detail {

inline constexpr float kFixedPointLargest = 8355584.0f;
inline constexpr float kFixedPointSmallestRow = 0x1p-100f;  // keeps both factors finite and normal

inline constexpr int64_t kFixedPointPanel = 16;       // vectors of an FP32 operand
inline constexpr int64_t kFixedPointCodesPanel = 32;  // columns of codes
inline constexpr int64_t kFixedPointStepDepth = 64;   // along K
inline constexpr int64_t kFixedPointTileBytes = 1024;
inline constexpr int64_t kFixedPointStepBytes = 3 * kFixedPointTileBytes;
inline constexpr int64_t kFixedPointCodesStepBytes = 2 * kFixedPointTileBytes;
inline constexpr int64_t kFixedPointUnitsBytes = 64;
inline constexpr int64_t kMaxFixedPointTaskPanels = 32;

void gemm_fixed_point_pack_amx(const GemmFixedPoint& product, const GemmFixedPointPlan& plan,
                               int64_t begin, int64_t end, int8_t* shared);
void gemm_fixed_point_run_amx(const GemmFixedPoint& product, const GemmFixedPointPlan& plan,
                              const int8_t* shared, int64_t begin, int64_t end);

}  // namespace quest::kernels::detail
