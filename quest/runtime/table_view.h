// A packed model's tables, and its unquantized BF16 weights, as the kernels take them
// (quest/kernels/table_gemm.h).
#pragma once

#include "quest/kernels/table_gemm.h"
#include "quest/packed/packed_model.h"

namespace quest {

inline kernels::TableWeight table_view(const PackedTable& table) {
  kernels::TableWeight view;
  switch (table.format) {
    case TableFormat::kBf16:
      view.form = kernels::TableForm::kBf16;
      break;
    case TableFormat::kInt8:
      view.form = kernels::TableForm::kInt8;
      break;
    case TableFormat::kInt4:
      view.form = kernels::TableForm::kInt4;
      break;
  }
  view.rows = table.rows;
  view.columns = table.columns;
  view.weight = table.weight.data();
  view.codes = table.codes.data();
  view.row_units = table.row_units.data();
  view.group_units = table.group_units.data();
  return view;
}

inline kernels::TableWeight table_view(const PackedTensor& tensor) {
  kernels::TableWeight view;
  view.rows = tensor.n;
  view.columns = tensor.k;
  view.weight = tensor.weight.data();
  return view;
}

}  // namespace quest
