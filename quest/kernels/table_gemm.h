// Products with the embedding or head of a deployed model, a table (V,C) in one of three forms:
//
//   kInt8  table(v, c) = row_units[v] * (u - 128), u in 8-bit code tiles (quest/quant/code_tiles.h)
//   kInt4  table(v, c) = group_units[v][c / 32] * (u - 8), u in 4-bit code tiles
//   kBf16  table(v, c) = weight[v][c]
//
//   out[m][v] = sum_c x[m][c] * table(v, c)
//
// Activations are FP32. The integer forms round a row of them to 16 bits,
//   unit16 = max|x| / 32639, q = round_half_even(x * (32639 / max|x|))     (0 where that quotient
//   is infinite) q = 256 hi + lo, both int8 (which is why it is 32639 = 127 * 257),
// and multiply q exactly:
//   kInt8  out = float(sum_c q (u - 128)) * (unit16 * row_units[v])       sum exact, rounded once
//   kInt4  out = s * unit16, s = fma(float(sum of a group), group_units, s) over the groups in
//   order,
//          the sum of a group exact (below 2^24)
//   kBf16  16 partial sums, one for each c % 16, each in order of c with fma(x, w, s); then s[i] +
//          s[i + 8] for i < 8, the same with 4, 2 and 1
// The definition is scalar/table_gemm.cpp; every level gives the same bits, for any split of rows
// and columns. A row of x that is not finite gives NaN (integer forms).
//
//   AlignedBytes prepared(table_activation_bytes(t, m, level));
//   prepare_table_activations(t, x, ldx, m, prepared, level);
//   table_gemm(t, prepared, m, 0, m, v0, v1, out, ldo, level);   // columns dealt out to threads
//   table_row(t, token, row);                                    // embedding
//
// Single-threaded on what is given; calls on different columns may run at once. Pointers are
// trusted; codes and prepared are aligned to 64 bytes. Errors: kUsage for columns outside the table
// and for a C above 2^17 (kInt8), whose sums could leave 32 bits.
#pragma once

#include <cstdint>
#include <string>

#include "quest/base/bfloat16.h"
#include "quest/base/cpu_features.h"
#include "quest/quant/code_tiles.h"

namespace quest::kernels {

enum class TableForm { kBf16, kInt8, kInt4 };

struct TableWeight {
  TableForm form = TableForm::kBf16;
  int64_t rows = 0, columns = 0;          // (V,C)
  const bfloat16* weight = nullptr;       // kBf16: (V,C)
  const uint8_t* codes = nullptr;         // else: code tiles of 8 or 4 bits
  const float* row_units = nullptr;       // kInt8: (V)
  const bfloat16* group_units = nullptr;  // kInt4: (V, ceil(C/32))
};

// x (M,C), row stride ldx. The same level must be given to table_gemm.
int64_t table_activation_bytes(const TableWeight& table, int64_t m, IsaLevel level = isa_level());
// The part that rows [m0, m1) need, so that threads can share the work: m0 a multiple of
// kPreparedRows (packed_gemm.h), m1 one too or m.
void prepare_table_activation_rows(const TableWeight& table, const float* x, int64_t ldx, int64_t m,
                                   int64_t m0, int64_t m1, uint8_t* prepared,
                                   IsaLevel level = isa_level());
void prepare_table_activations(const TableWeight& table, const float* x, int64_t ldx, int64_t m,
                               uint8_t* prepared, IsaLevel level = isa_level());

// Rows [m0, m1) and columns [v0, v1) of out (M,V), row stride ldo; v0 a multiple of 16. m: of
// prepare_table_activations.
void table_gemm(const TableWeight& table, const uint8_t* prepared, int64_t m, int64_t m0,
                int64_t m1, int64_t v0, int64_t v1, float* out, int64_t ldo,
                IsaLevel level = isa_level());

// out (C) = table(v, c). Its integer forms are products rounded once.
void table_row(const TableWeight& table, int64_t v, float* out);

// "int8 dot, avx512vnni": for --print-plans.
std::string table_plan_text(const TableWeight& table, int64_t m, IsaLevel level = isa_level());

}  // namespace quest::kernels
