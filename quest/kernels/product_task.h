// What the products with packed weights (gemm_lowbit.cpp, packed_gemm.cpp, table_gemm.cpp) share.
// Not for callers.
#pragma once

#include <cstdint>

#include "quest/base/cpu_features.h"

namespace quest::kernels::detail {

// The level whose code runs: on x86 each has a version of its own, elsewhere only the definition.
constexpr IsaLevel effective_level([[maybe_unused]] IsaLevel level) {
#ifdef __x86_64__
  return level;
#else
  return IsaLevel::kScalar;
#endif
}

// Rows [m0, m1) and columns [n0, n1) of an output with row stride ldo.
struct OutputRange {
  int64_t m0 = 0, m1 = 0, n0 = 0, n1 = 0;
  float* out = nullptr;
  int64_t ldo = 0;

  bool is_empty() const { return m0 >= m1 || n0 >= n1; }
};

// Throws kUsage, with the operation's name, unless the range lies inside (rows, columns) and its
// columns start at a multiple of 16.
void check_range(const char* operation, const OutputRange& range, int64_t rows, int64_t columns);

}  // namespace quest::kernels::detail
