// Which tensors the model.safetensors of a packed model holds, in which order and of which shapes:
// the one place that reader and writer take them from.
//
//   const std::vector<PackedEntry> entries = packed_layout(config, recipe, formats);
//   entries[0].name == "model.embed_tokens.codes"
//
// Thread rules: pure.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "quest/base/safetensors.h"
#include "quest/packed/packed_model.h"

namespace quest {

inline constexpr int64_t kPackedVersion = 1;
inline constexpr int64_t kPackedAlignment = 64;  // of every tensor in the file

struct TableFormats {
  TableFormat embedding = TableFormat::kInt8;
  TableFormat head = TableFormat::kInt8;  // of a tied model that of the embedding
};

struct PackedEntry {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  int64_t bytes = 0;
  int64_t parameters = 0;  // of the model, that this tensor holds
  bool is_padding() const { return name.starts_with("padding."); }
};

// The four linear layers of a block, as they follow each other.
struct PackedLayer {
  const char* name;  // "self_attn.qkv_proj"
  int64_t n, k;
};
std::array<PackedLayer, 4> packed_layers(const LlamaConfig& config);

// "model.layers.3.self_attn.qkv_proj", without ".codes"
std::string packed_layer_name(int64_t block, const PackedLayer& layer);

// If the weights' sums of values are stored: where activations' numbers have an offset.
bool has_value_sums(const QuantRecipe& recipe);

// Every tensor, paddings included, in the order of the file. Throws kUsage for shapes that no file
// can hold, for an int4 table whose width is no multiple of 32, and for weights or activations
// without a packed form (masked_4of8).
std::vector<PackedEntry> packed_layout(const LlamaConfig& config, const QuantRecipe& recipe,
                                       TableFormats formats);

}  // namespace quest
