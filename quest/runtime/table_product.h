// Products with the model's tables and with unquantized BF16 weights: FP32 rows in, FP32 out.
#pragma once

#include <cstdint>
#include <string>

#include "quest/base/cpu_features.h"
#include "quest/packed/packed_model.h"

namespace quest {

// Rows [0, m), columns [n0, n1) of out (M,N) = x (M,K) table^T, row stride ldo. n0 is a multiple of
// 16. The same bits at every level and for any split.
void table_product(const PackedTable& table, const float* x, int64_t m, int64_t n0, int64_t n1,
                   float* out, int64_t ldo, IsaLevel level);
std::string table_product_plan(const PackedTable& table, int64_t m, IsaLevel level);

// (N,K) BF16 weights as a table.
PackedTable bf16_table(const PackedTensor& tensor);

}  // namespace quest
