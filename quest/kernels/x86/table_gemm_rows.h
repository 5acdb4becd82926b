// table_gemm with bfloat16 rows: several rows of weights by several of x, 16 partial sums each.
// Included by x86/table_gemm_avx2.cpp and x86/table_gemm_avx512.cpp (internal linkage: see
// gemm_lowbit_driver.h).
#pragma once

#include "quest/kernels/table_gemm_task.h"
#include "quest/kernels/x86/packed_gemm_driver.h"
#include "quest/kernels/x86/packed_gemm_float_vector.h"

namespace quest::kernels::detail {
namespace {

// Rows v to v + kTableRows of the table, rows m to m + kRows of x.
template <int kTableRows, int kRows>
__attribute__((noinline)) void product_of_rows(const TableRowsTask& task, int64_t m, int64_t v) {
  Float acc[kTableRows][kRows][kFloatVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kTableRows; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
      for (int j = 0; j < kFloatVectors; ++j) acc[i][r][j] = FloatVector::zero();
    }
  }
  const bfloat16* w = task.weight + v * task.columns;
  const float* x = task.x + m * task.ldx;
  const auto step = [&](const bfloat16* row, int64_t stride, int64_t c) QUEST_INLINE_LAMBDA {
#pragma GCC unroll 2
    for (int j = 0; j < kFloatVectors; ++j) {
#pragma GCC unroll 4
      for (int i = 0; i < kTableRows; ++i) {
        const Float weights = FloatVector::load_bf16(row + i * stride + j * kLanes);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          const Float values = FloatVector::load(x + r * task.ldx + c + j * kLanes);
          acc[i][r][j] = FloatVector::fma(values, weights, acc[i][r][j]);
        }
      }
    }
  };
  int64_t c = 0;
  for (; c + 16 <= task.columns; c += 16) {
    if (c % 32 == 0) {
#pragma GCC unroll 4
      for (int i = 0; i < kTableRows; ++i) {
        // The same place of the rows after these: a row is as short as a page.
        __builtin_prefetch(w + c + (i + kTableRows) * task.columns, 0, 2);
      }
    }
    step(w + c, task.columns, c);
  }
  if (c < task.columns) {
    bfloat16 last[kTableRows * 16];  // with zeros past the end, where x has zeros too
    for (int i = 0; i < kTableRows; ++i) {
      for (int64_t k = 0; k < 16; ++k) {
        last[16 * i + k].bits =
            c + k < task.columns ? w[i * task.columns + c + k].bits : uint16_t{0};
      }
    }
    step(last, 16, c);
  }
#pragma GCC unroll 4
  for (int i = 0; i < kTableRows; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      task.out[(m + r) * task.ldo + v + i] = FloatVector::halves_sum(acc[i][r]);
    }
  }
}

template <int kTableRows>
void table_rows_of(const TableRowsTask& task, int64_t v) {
  int64_t m = task.m0;
#ifdef __AVX512BW__
  for (; m + 4 <= task.m1; m += 4) product_of_rows<kTableRows, 4>(task, m, v);
  for (; m + 2 <= task.m1; m += 2) product_of_rows<kTableRows, 2>(task, m, v);
  for (; m < task.m1; ++m) product_of_rows<kTableRows, 1>(task, m, v);
#else
  // 16 registers: 2 x 2 outputs of two vectors, or 4 x 1.
  constexpr int kHalf = kTableRows > 1 ? kTableRows / 2 : 1;
  for (; m + 2 <= task.m1; m += 2) {
    for (int i = 0; i < kTableRows; i += kHalf) product_of_rows<kHalf, 2>(task, m, v + i);
  }
  for (; m < task.m1; ++m) product_of_rows<kTableRows, 1>(task, m, v);
#endif
}

inline void run_table_rows(const TableRowsTask& task) {
  int64_t v = task.n0;
  for (; v + 4 <= task.n1; v += 4) table_rows_of<4>(task, v);
  for (; v < task.n1; ++v) table_rows_of<1>(task, v);
}

}  // namespace
}  // namespace quest::kernels::detail
