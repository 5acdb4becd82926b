// Embedding and head of a deployed model on a GPU: kernels/table_gemm.h's three forms with its
// bits, and the largest logit of each row.
//
//   table_rows<float>(table, tokens, m, rows, stream);                      // embedding
//   table_gemm(table, x, ldx, m, workspace, logits, table.rows, stream);    // head
//   argmax_rows(logits, m, table.rows, table.rows, next, stream);
//
// kInt8: rows of x are split into halves of 16 bits (table_gemm.h) and go through the product of
// packed weights. kInt4: a product of 32 columns of the tensor core is one group, added in FP32 in
// order of groups by the warp that owns the rows. kBf16: two lanes have a row's 16 partial sums.
// A row's result does not depend on M.
//
// Asynchronous in `stream`, overlapping its predecessor (dependent_launch.cuh), no allocations.
// Errors: kUsage for a C that the integer forms' sums do not allow.
#pragma once

#include <cstdint>
#include <string>

#include "quest/base/bfloat16.h"
#include "quest/kernels/cuda/stream.h"
#include "quest/kernels/table_gemm.h"

namespace quest::kernels::cuda {

// A table (V,C) in device memory, aligned to 16 bytes.
struct DeviceTable {
  TableForm form = TableForm::kBf16;
  int64_t rows = 0, columns = 0;  // (V,C)
  // kBf16: bfloat16 (V,C). kInt8: lane order kRows of the 8-bit tiles; kInt4: kGroups of 4 bits
  // (kernels/lane_order.h).
  const void* weight = nullptr;
  const float* row_units = nullptr;       // kInt8: (V)
  const bfloat16* group_units = nullptr;  // kInt4: lane units order (to_lane_units)
};

// Bytes of device memory that table_gemm of m rows needs beside.
int64_t table_workspace_bytes(const DeviceTable& table, int64_t m);
// x (M,C) FP32, row stride ldx; out (M,V), row stride ldo. workspace aligned to 16 bytes. Reads the
// table once for each 32 rows (kBf16: 8).
void table_gemm(const DeviceTable& table, const float* x, int64_t ldx, int64_t m, void* workspace,
                float* out, int64_t ldo, Stream stream);
// out (M,C) = T(table(tokens[m], c)); tokens (M) int32 in device memory. A token that the table
// does not have gives a row of NaN. The kernels behind it begin when all that was written before it
// is visible to them, also before they wait: it is the first kernel of a step of decode.
template <class T>
void table_rows(const DeviceTable& table, const int32_t* tokens, int64_t m, T* out, Stream stream);
// "int8, mma s8 of halves, lane order": for plans.
std::string table_gemm_plan(const DeviceTable& table);

// out (M) = the column of each row's largest value, the first of equal ones; -1 if the row has a
// NaN. logits (M,V), row stride ld; V at least 1.
void argmax_rows(const float* logits, int64_t m, int64_t v, int64_t ld, int32_t* out,
                 Stream stream);

}  // namespace quest::kernels::cuda
