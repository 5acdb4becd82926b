// What the products on AMX tiles that pack one operand whole and deal out the other's panels
// (gemm_bf16.cpp, gemm_fixed_point.cpp) share. Not for callers, nor for files of one
// instruction-set level.
#pragma once

#include <algorithm>
#include <cstdint>

#include "quest/base/error.h"
#include "quest/base/integer_math.h"

namespace quest::kernels::detail {

inline void check_unit_stride(const char* operation, const char* operand, int64_t row_stride,
                              int64_t column_stride) {
  QUEST_CHECK(row_stride == 1 || column_stride == 1, ErrorKind::kUsage,
              "{}: operand {} has strides {} and {}; one of them must be 1", operation, operand,
              row_stride, column_stride);
}

// Panels in one task, at most `most`. Large tasks read the shared operand, which may come from far,
// less often; their own panels must stay in the L2 cache, and all threads want work.
inline int64_t task_panels(int64_t panels, int64_t panel_bytes, int64_t most, int threads) {
  constexpr int64_t kTaskBytes = 1152 << 10;  // of the 2 MB of an L2 cache
  const int64_t fits = std::clamp<int64_t>(kTaskBytes / panel_bytes, 1, most);
  const int64_t rounds = divide_up(panels, fits * threads);
  return std::min(fits, divide_up(panels, rounds * threads));
}

}  // namespace quest::kernels::detail
