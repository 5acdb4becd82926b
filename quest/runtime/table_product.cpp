#include "quest/runtime/table_product.h"

#include <vector>

#include "quest/packed/table_codes.h"

namespace quest {

void table_product(const PackedTable& table, const float* x, int64_t m, int64_t n0, int64_t n1,
                   float* out, int64_t ldo, IsaLevel) {
  std::vector<float> row(static_cast<size_t>(table.columns));
  for (int64_t n = n0; n < n1; ++n) {
    dequantize_table_row(table, n, row);
    for (int64_t i = 0; i < m; ++i) {
      float sum = 0;
      for (int64_t k = 0; k < table.columns; ++k) {
        sum += x[i * table.columns + k] * row[static_cast<size_t>(k)];
      }
      out[i * ldo + n] = sum;
    }
  }
}

std::string table_product_plan(const PackedTable& table, int64_t, IsaLevel) {
  return std::string(table_format_name(table.format)) + ", scalar";
}

PackedTable bf16_table(const PackedTensor& tensor) {
  PackedTable table;
  table.format = TableFormat::kBf16;
  table.rows = tensor.n;
  table.columns = tensor.k;
  table.weight = tensor.weight;
  return table;
}

}  // namespace quest
