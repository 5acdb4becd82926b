// Writes the folder of a packed model (packed_model.h), tensor by tensor: never a second copy of
// the model in memory, and complete under its name or not there at all.
//
//   PackedWriter out("packed/w4a4", {.config = config, .recipe = recipe, .source_hash = hash});
//   out.write_table("model.embed_tokens", rows);
//   out.write_norm("model.layers.0.input_layernorm.weight", norm);
//   out.write_layer("model.layers.0.self_attn.qkv_proj", {.codes = codes, .units = units});
//   ...                                       // in the order of packed_layout()
//   tokenizer.save(out.folder());
//   out.publish();
//
// One thread at a time. Errors: kUsage for a tensor that is not the next one or has another size,
// kIo, kNumeric for values that are not finite.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quest/base/atomic_file.h"
#include "quest/base/atomic_folder.h"
#include "quest/base/checksum.h"
#include "quest/packed/packed_layout.h"

namespace quest {

struct PackedDescription {
  LlamaConfig config;
  QuantRecipe recipe;
  TableFormats formats = {};  // of a tied model both the same
  std::string source_hash;    // of the checkpoint's weights: 32 hexadecimal digits
};

// What is known of one linear layer (N,K): codes and units, or the weight if it is unquantized.
struct LayerValues {
  std::span<const int8_t> codes;  // (N,K) as hadamard_quantize writes them
  std::span<const float> units;   // (N)
  std::span<const bfloat16> weight;
};

class PackedWriter {
 public:
  PackedWriter(std::filesystem::path folder, PackedDescription description);

  // The temporary folder, for the tokenizer's files.
  const std::filesystem::path& folder() const { return out_.path(); }
  const PackedDescription& description() const { return description_; }
  const std::vector<PackedEntry>& layout() const { return layout_; }

  // Bytes of the tensor `name`, the next one of the layout; may come in several parts. Paddings are
  // written by themselves.
  void write(std::string_view name, std::span<const std::byte> bytes);
  template <class T>
  void write(std::string_view name, std::span<const T> values) {
    write(name, std::as_bytes(values));
  }
  // All tensors of a linear layer ("model.layers.0.self_attn.qkv_proj").
  void write_layer(const std::string& name, const LayerValues& values);
  void write_norm(const std::string& name, std::span<const float> values) { write(name, values); }
  // All tensors of embedding or head. row(i, out) gives row i as floats (C); it is called once for
  // each row, in order. Returns |table - rows| / |rows| (Frobenius), which the format costs.
  using RowSource = std::function<void(int64_t, std::span<float>)>;
  double write_table(const std::string& name, const RowSource& row);

  // Proves that every tensor was written whole; then checksum, config.json, checksums.json, rename.
  void publish();
  const std::string& checksum() const { return checksum_; }  // after publish()

 private:
  void write_paddings();
  void write_codes(const std::string& name, const std::array<uint8_t, 256>& table,
                   const int8_t* codes, int64_t n, int64_t k);
  double write_bf16_table(const std::string& name, const RowSource& row);
  double write_coded_table(const std::string& name, bool is_int8, const RowSource& row);
  const PackedEntry& next(std::string_view name) const;

  PackedDescription description_;
  std::vector<PackedEntry> layout_;
  AtomicFolder out_;
  std::unique_ptr<AtomicFile> file_;
  std::string header_;       // with its 8 length bytes; the checksum's digits are zeros
  size_t digits_at_ = 0;     // in header_
  size_t entry_ = 0;         // of layout_, that is being written
  int64_t entry_bytes_ = 0;  // of it, written so far
  PiecewiseChecksum sum_;
  std::string checksum_;
};

}  // namespace quest
