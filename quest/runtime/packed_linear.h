// One linear layer of a packed model on the rows of a call: activations quantized (or rotated, or
// left alone) as the recipe says, then the product with the packed weights.
//
//   PackedLinear layer("o_proj", model.block(0).o, model.recipe().activation, level);
//   layer.begin(activations, rows);
//   for each row: layer.set_row(activations, row, x);     // any thread, rows in any order
//   layer.multiply(activations, team, out, stride);       // out (rows, N)
//
// What runs, by recipe:
//   integer codes on both sides   hadamard_quantize, packed_gemm
//   weights alone                 rows rotated as the weights are, packed_gemm_float
//   Gaussian levels               values of the codes, packed_gemm_float
//   BF16 weights                  rows, or values of their codes (rotated as the weights are),
//                                 table_gemm
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <span>
#include <string>

#include "quest/base/cpu_features.h"
#include "quest/base/integer_math.h"
#include "quest/kernels/packed_gemm.h"
#include "quest/kernels/table_gemm.h"
#include "quest/packed/packed_model.h"
#include "quest/runtime/aligned_buffer.h"
#include "quest/runtime/thread_team.h"

namespace quest {

// The rows of one call in the form that its product wants. Shared by all layers of an engine.
struct Activations {
  AlignedBuffer<int8_t> codes;
  AlignedBuffer<float> units;
  AlignedBuffer<uint8_t> prepared;
  AlignedBuffer<float> values;
  int64_t rows = 0;
  std::atomic<int64_t> bad_row{-1};  // a row whose rms is not finite, if there is one
};

class PackedLinear {
 public:
  // Keeps views of the tensor. Throws kUsage where sums could leave int32.
  PackedLinear(std::string name, const PackedTensor& tensor, const QuantSpec& activation,
               IsaLevel level);

  // Makes room for `rows` rows.
  void begin(Activations& a, int64_t rows) const;
  void set_row(Activations& a, int64_t row, const float* x) const;
  // Row x behind an RMSNorm; `normed` is room for K values. Where rows are quantized, the norm's
  // factor goes into the row's unit (kernels/deploy.h rms_norm_by_unit).
  void set_normed_row(Activations& a, int64_t row, const float* x, std::span<const float> weight,
                      double eps, float* normed) const;
  // Throws kNumeric, with the layer's name, if a row was not finite.
  void multiply(Activations& a, ThreadTeam& team, float* out, int64_t out_stride) const;

  const std::string& name() const { return name_; }
  int64_t n() const { return weight_.n; }
  int64_t k() const { return weight_.k; }
  std::string plan_text(int64_t rows) const;

 private:
  enum class Way { kCodes, kFloats, kBf16 };
  kernels::PackedPlan plan(int64_t rows) const;
  // factor: of the unit.
  void quantize(Activations& a, int64_t row, const float* x, float factor) const;

  std::string name_;
  kernels::PackedWeight weight_;
  kernels::TableWeight bf16_;
  QuantSpec activation_;
  IsaLevel level_;
  kernels::PackedPlan row_plan_;  // of one row
  Way way_;
};

// How the columns of a product of `rows` rows with (N,K) are dealt out: in `count` tasks of whole
// row tiles (16 columns), in order, so that what a thread's share of them reads is contiguous.
struct ColumnTasks {
  int64_t n = 0, count = 1;

  Share columns(int64_t task) const {
    const Share tiles = share_of(divide_up(n, kTileRows), task, count);
    return {tiles.begin * kTileRows, std::min(n, tiles.end * kTileRows)};
  }
};
ColumnTasks column_tasks(int64_t n, int64_t k, int64_t rows, int threads);

}  // namespace quest
