// A packed model's tables and weights as the kernels take them
// (quest/kernels/table_gemm.h, packed_gemm.h).
#pragma once

#include "quest/kernels/packed_gemm.h"
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

// What packed_gemm multiplies by: views of the tensor.
inline kernels::PackedWeight weight_view(const PackedTensor& tensor) {
  kernels::PackedWeight w;
  w.spec = tensor.spec;
  w.tiles = tensor.tiles;
  w.bytes = tensor.codes.data();
  w.pairs = tensor.pairs.empty() ? nullptr : tensor.pairs.data();
  w.units = tensor.units.data();
  w.value_sums = tensor.value_sums.empty() ? nullptr : tensor.value_sums.data();
  w.n = tensor.n;
  w.k = tensor.k;
  return w;
}

}  // namespace quest
