// The deployable model: a folder like a Hugging Face one, whose weights are packed codes.
//
//   config.json          LlamaForCausalLM with quantization_config {format: "quest", packed: true,
//   ...} tokenizer files      as the tokenizer saves itself model.safetensors    the tensors below;
//   metadata: format "quest-packed", version, recipe, formats
//                        of embedding and head, hash of the source checkpoint, checksum of all
//                        tensor bytes (XXH3-128)
//   verify.json          what `quest verify` found, with the hash of model.safetensors (optional)
//
// Tensors of a block's linear layer X (qkv_proj = q, k, v stacked; o_proj; gate_up_proj;
// down_proj):
//   X.codes      U8 (bytes)   code_tiles.h; of the 4:8 grids the kept values
//   X.pairs      U8 (bytes)   4:8 only
//   X.units      F32 (N)
//   X.value_sums I32 (N)      only if the activations' numbers have an offset (8 bits) and the
//   weights
//                             are integers: sum_k u (FP4: sum_k number; 4:8: of the kept values)
//   X.weight     BF16 (N,K)   instead of all these where the recipe leaves weights unquantized;
//                             rotated if the recipe's weight side is (none.hadamard)
// Norms: F32 (C). Embedding and head: bf16 "weight" BF16 (V,C); int8 "codes" U8 in 8-bit code tiles
// (u = round(x / unit) + 128) and "units" F32 (V); int4 "codes" U8 in 4-bit code tiles
// (x = unit * (u - 8)) with "units" BF16 (V, C/32), one for each 32 columns. A tied head is stored
// once, as the embedding.
// Every tensor's bytes begin at a multiple of 64 in the file and are padded with zeros to the next
// one, as part of the tensor where its shape allows (codes) and as tensors named "padding.<i>"
// otherwise, so that the file is a whole safetensors file without holes.
//
// The reader distrusts the folder: every name, type, shape, size, alignment, value range (ternary,
// FP4, pairs, finite non-negative units) and the checksum are proven before anything is handed out.
//
//   PackedModel model("demo/packed/w4a4");
//   model.block(0).gate_up.n
//
// Thread rules: const after construction and extend_context. Views live as long as the model.
// Errors: kIo, kData with file and tensor.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quest/base/bfloat16.h"
#include "quest/base/safetensors.h"
#include "quest/model/llama_config.h"
#include "quest/quant/code_tiles.h"

namespace quest {

enum class TableFormat { kBf16, kInt8, kInt4 };  // of embedding and head
std::string_view table_format_name(TableFormat format);
TableFormat table_format_from_name(std::string_view name);  // throws kUsage

// One linear layer of a block.
struct PackedTensor {
  QuantSpec spec;  // weight side; grid kNone: `weight` holds it
  int64_t n = 0, k = 0;
  CodeTiles tiles;
  std::span<const uint8_t> codes, pairs;
  std::span<const float> units;
  std::span<const int32_t> value_sums;
  std::span<const bfloat16> weight;
};

struct PackedTable {  // embedding or head (V,C)
  TableFormat format = TableFormat::kBf16;
  int64_t rows = 0, columns = 0;
  std::span<const bfloat16> weight;  // kBf16
  CodeTiles tiles;                   // kInt8, kInt4
  std::span<const uint8_t> codes;
  std::span<const float> row_units;       // kInt8
  std::span<const bfloat16> group_units;  // kInt4: (V, C/32)
};

struct PackedBlock {
  std::span<const float> input_norm, post_attention_norm;
  PackedTensor qkv, o, gate_up, down;
};

struct TensorSize {
  std::string name;
  int64_t bytes = 0;
  int64_t parameters = 0;
};

class PackedModel {
 public:
  // Proves everything; check_values: also the stored values and the checksum (below a second for
  // 1 GB in the page cache). threads: for these; 0: as many as ThreadPool takes. access: an engine
  // streams through all weights for each token, which huge pages make faster.
  explicit PackedModel(const std::filesystem::path& folder, bool check_values = true,
                       int threads = 0, FileAccess access = FileAccess::kMap);

  const LlamaConfig& config() const { return config_; }
  // As the function of this name in llama_config.h, before an engine takes the model: no weight
  // depends on it.
  int64_t extend_context(const std::string& type, double factor) {
    return quest::extend_context(config_, type, factor);
  }
  const QuantRecipe& recipe() const { return recipe_; }
  const PackedTable& embedding() const { return embedding_; }
  const PackedTable& head() const { return head_; }
  std::span<const float> final_norm() const { return final_norm_; }
  const PackedBlock& block(int64_t i) const { return blocks_[static_cast<size_t>(i)]; }
  int64_t blocks() const { return static_cast<int64_t>(blocks_.size()); }
  const std::string& checksum() const { return checksum_; }        // of the tensor bytes
  const std::string& source_hash() const { return source_hash_; }  // of the checkpoint's weights
  int64_t file_bytes() const { return file_bytes_; }
  FileAccess access() const { return access_; }
  std::vector<TensorSize> sizes()
      const;  // every tensor, paddings included: they add up to the file
  const std::filesystem::path& folder() const { return folder_; }

 private:
  void prove_values(int threads) const;

  std::filesystem::path folder_;
  std::unique_ptr<SafetensorsReader> file_;
  LlamaConfig config_;
  QuantRecipe recipe_;
  PackedTable embedding_, head_;
  std::span<const float> final_norm_;
  std::vector<PackedBlock> blocks_;
  std::string checksum_, source_hash_;
  int64_t file_bytes_ = 0;
  FileAccess access_ = FileAccess::kMap;
};

}  // namespace quest
