// The linear layers of a checkpoint as deployment sees them: fused, quantized exactly as training
// does in every forward pass (kernels::hadamard_quantize on the FP32 master weights).
//
//   const CheckpointLayers checkpoint(find_model_folder("runs/w4a4"));
//   const QuantizedLayer layer = checkpoint.quantize(0, 2, pool);     // gate_up_proj of block 0
//
// Thread rules: const after construction.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "quest/base/bfloat16.h"
#include "quest/base/thread_pool.h"
#include "quest/model/checkpoint_files.h"
#include "quest/packed/packed_layout.h"

namespace quest::convert {

// Rows of a layer that one task of a thread pool takes.
inline constexpr int64_t kRowsAtOnce = 64;

struct QuantizedLayer {
  int64_t n = 0, k = 0;
  std::vector<int8_t> codes;     // (N,K), if the recipe quantizes weights
  std::vector<float> units;      // (N)
  std::vector<bfloat16> weight;  // (N,K) otherwise, rotated if the recipe's weight side is
};

class CheckpointLayers {
 public:
  // A folder with config.json. Proves checksums.json if there is one, and the tensors' names,
  // shapes and types. Throws kIo, kData.
  explicit CheckpointLayers(const std::filesystem::path& folder);

  const LlamaConfig& config() const { return config_; }
  const QuantRecipe& recipe() const { return recipe_; }
  const CheckpointFiles& files() const { return files_; }

  // Layer j (of packed_layers) of a block, (N,K): q, k, v stacked; gate, up stacked.
  std::vector<float> master(int64_t block, size_t j) const;
  // Throws kNumeric naming layer and row for a weight that is not finite.
  QuantizedLayer quantize(int64_t block, size_t j, ThreadPool& pool) const;
  // One dimension, as float.
  std::vector<float> values(const std::string& name) const {
    return files_.tensor(name).to_float();
  }

 private:
  QuantRecipe recipe_;  // before config_, whose reading fills it in
  LlamaConfig config_;
  CheckpointFiles files_;
};

// The Hugging Face tensors that layer j of a block is stacked of: "model.layers.0.mlp.gate_proj".
std::vector<std::string> parts_of_layer(int64_t block, size_t j);

// Rows of a tensor (V,C) of any float type, one at a time: for tables that need no second copy.
void row_to_float(const TensorView& tensor, int64_t row, std::span<float> out);

}  // namespace quest::convert
