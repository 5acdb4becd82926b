// Inside of table_gemm: one call, checked and reduced to what the levels need. Not for callers.
#pragma once

#include <cstdint>

#include "quest/kernels/packed_gemm_task.h"
#include "quest/kernels/table_gemm.h"

namespace quest::kernels::detail {

// Activations of the integer forms, between x and what kernels want: q = 256 hi + lo.
struct SplitActivations {
  float* units;          // (M): unit16
  int8_t* codes;         // (2 M, C): row 2 m holds hi of row m, row 2 m + 1 lo
  int32_t* group_terms;  // (M, groups of 32), M rounded up to 4: -8 sum of q; 0 past the end
};
void split_row(const float* x, int64_t columns, float* unit, int8_t* high, int8_t* low,
               int32_t* group_terms);

// kInt4. Strips as those of packed_gemm_task.h for the 2 M rows of codes.
struct TableGroupTask : OutputRange {
  const uint8_t* codes = nullptr;
  int64_t rows = 0, groups = 0;
  const bfloat16* group_units = nullptr;
  const uint8_t* strips = nullptr;
  int64_t strip = 2, strip_bytes = 0;
  const int32_t* group_terms = nullptr;  // as above
  const float* units = nullptr;          // (M)
};
void table_groups_avx2(const TableGroupTask& task);
void table_groups_avx512(const TableGroupTask& task);
void table_groups_avx512vnni(const TableGroupTask& task);

// kBf16. x (M, ldx), ldx a multiple of 16, zeros past C.
struct TableRowsTask : OutputRange {
  const bfloat16* weight = nullptr;
  int64_t columns = 0;
  const float* x = nullptr;
  int64_t ldx = 0;
};
void table_rows_avx2(const TableRowsTask& task);
void table_rows_avx512(const TableRowsTask& task);

// The definition. units and codes as SplitActivations has them; x (M, ldx) for kBf16.
void table_gemm_scalar(const TableWeight& table, const float* units, const int8_t* codes,
                       const float* x, int64_t ldx, const OutputRange& range);

}  // namespace quest::kernels::detail
