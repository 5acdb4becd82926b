#include "quest/runtime/packed_linear.h"

#include <algorithm>
#include <cstring>

#include "quest/base/error.h"
#include "quest/base/integer_math.h"
#include "quest/kernels/deploy.h"
#include "quest/kernels/hadamard_quantize.h"
#include "quest/runtime/table_view.h"

namespace quest {

ColumnTasks column_tasks(int64_t n, int64_t k, int64_t rows, int threads) {
  // Several tasks for each thread, so that one that is held up by another program costs little; but
  // of a million multiplications, below which dealing them out costs more than that. Where a
  // product waits for the memory, two: each begins its streams anew, which costs more than it
  // gains.
  constexpr int64_t kMinMultiplications = int64_t{1} << 20, kFewRows = 8;
  const int64_t tiles = divide_up(n, kTileRows);
  if (threads == 1) return {n, 1};
  const int64_t most = rows <= kFewRows ? 2 : 8;
  const int64_t parts = std::clamp<int64_t>(n * k * rows / threads / kMinMultiplications, 1, most);
  return {n, std::min(tiles, parts * threads)};
}

PackedLinear::PackedLinear(std::string name, const PackedTensor& tensor,
                           const QuantSpec& activation, IsaLevel level)
    : name_(std::move(name)), weight_(weight_view(tensor)), activation_(activation), level_(level) {
  if (!tensor.spec.is_quantized()) {
    bf16_ = table_view(tensor);
    way_ = Way::kBf16;
    return;
  }
  row_plan_ = kernels::choose_packed_plan(weight_.spec, activation_, 1, weight_.k, level_);
  way_ = row_plan_.method == kernels::PackedMethod::kFloat ? Way::kFloats : Way::kCodes;
}

kernels::PackedPlan PackedLinear::plan(int64_t rows) const {
  if (rows == 1) return row_plan_;
  return kernels::choose_packed_plan(weight_.spec, activation_, rows, weight_.k, level_);
}

std::string PackedLinear::plan_text(int64_t rows) const {
  if (way_ == Way::kBf16) return kernels::table_plan_text(bf16_, rows, level_);
  return kernels::packed_plan_text(plan(rows));
}

void PackedLinear::begin(Activations& a, int64_t rows) const {
  a.rows = rows;
  a.bad_row.store(-1, std::memory_order_relaxed);
  a.units.grow(rows);
  if (activation_.is_quantized()) a.codes.grow(rows * k());
  if (way_ == Way::kCodes) {
    a.prepared.grow(kernels::activation_bytes(plan(rows), rows, k()));
  } else {
    a.values.grow(rows * k());
    if (way_ == Way::kBf16) a.prepared.grow(kernels::table_activation_bytes(bf16_, rows, level_));
  }
}

void PackedLinear::set_row(Activations& a, int64_t row, const float* x) const {
  if (activation_.is_quantized()) return quantize(a, row, x, 1.0f);
  float* values = a.values.data() + row * k();
  if (weight_.spec.hadamard) {
    kernels::hadamard_rows<float>(x, 1, k(), values, level_);
  } else {
    std::memcpy(values, x, sizeof(float) * static_cast<size_t>(k()));
  }
}

void PackedLinear::set_normed_row(Activations& a, int64_t row, const float* x,
                                  std::span<const float> weight, double eps, float* normed) const {
  const float e = static_cast<float>(eps);
  if (activation_.is_quantized()) {
    const float factor =
        kernels::deploy::rms_norm_by_unit(x, weight.data(), k(), e, normed, level_);
    return quantize(a, row, normed, factor);
  }
  kernels::deploy::rms_norm(x, weight.data(), 1, k(), e, normed, level_);
  set_row(a, row, normed);
}

void PackedLinear::quantize(Activations& a, int64_t row, const float* x, float factor) const {
  int8_t* codes = a.codes.data() + row * k();
  float* unit = a.units.data() + row;
  const int64_t bad =
      kernels::hadamard_quantize<float>(activation_, x, 1, k(), codes, unit, nullptr, level_);
  if (bad >= 0) a.bad_row.store(row, std::memory_order_relaxed);
  *unit *= factor;
  if (way_ == Way::kCodes) return;
  kernels::dequantize_rows<float>(activation_, codes, unit, 1, k(), a.values.data() + row * k(),
                                  level_);
}

void PackedLinear::multiply(Activations& a, ThreadTeam& team, float* out,
                            int64_t out_stride) const {
  const int64_t bad = a.bad_row.load(std::memory_order_relaxed);
  QUEST_CHECK(bad < 0, ErrorKind::kNumeric,
              "{}: the activations of row {} of this call are not finite: the model is damaged or "
              "its training diverged",
              name_, bad);
  const int64_t rows = a.rows;
  kernels::PackedPlan chosen;
  if (way_ == Way::kCodes) chosen = plan(rows);
  if (way_ != Way::kFloats) {
    constexpr int64_t kPart = kernels::kPreparedRows;
    team.for_each(divide_up(rows, kPart), [&](int64_t i, int) {
      const int64_t first = i * kPart, end = std::min(rows, first + kPart);
      if (way_ == Way::kCodes) {
        kernels::prepare_activation_rows(chosen, a.codes.data(), rows, k(), first, end,
                                         a.prepared.data());
      } else {
        kernels::prepare_table_activation_rows(bf16_, a.values.data(), k(), rows, first, end,
                                               a.prepared.data(), level_);
      }
    });
  }
  const kernels::PreparedActivations prepared{a.prepared.data(), a.units.data(), rows};
  const ColumnTasks tasks = column_tasks(n(), k(), rows, team.size());
  team.for_each(tasks.count, [&](int64_t i, int) {
    const auto [n0, n1] = tasks.columns(i);
    switch (way_) {
      case Way::kCodes:
        return kernels::packed_gemm(chosen, weight_, prepared, 0, rows, n0, n1, out, out_stride);
      case Way::kFloats:
        return kernels::packed_gemm_float(weight_, a.values.data(), k(), 0, rows, n0, n1, out,
                                          out_stride, level_);
      case Way::kBf16:
        return kernels::table_gemm(bf16_, a.prepared.data(), rows, 0, rows, n0, n1, out, out_stride,
                                   level_);
    }
  });
}

}  // namespace quest
