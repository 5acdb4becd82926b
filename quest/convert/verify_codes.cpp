#include <algorithm>
#include <array>
#include <cstring>

#include "quest/base/error.h"
#include "quest/base/shutdown.h"
#include "quest/convert/verify.h"
#include "quest/packed/table_codes.h"

namespace quest::convert {
namespace {

// Codes of a packed tensor in the form of the quantizer, (N,K).
std::vector<int8_t> unpacked(const PackedTensor& tensor) {
  std::vector<int8_t> codes(static_cast<size_t>(tensor.n * tensor.k));
  if (tensor.spec.grid == Grid::kUniform4of8) {
    unpack_sparse_tiles(sparse_tiles(tensor.n, tensor.k), tensor.codes.data(), tensor.pairs.data(),
                        codes.data());
    return codes;
  }
  std::vector<uint8_t> stored(codes.size());
  unpack_code_tiles(tensor.tiles, tensor.codes.data(), stored.data());
  std::array<int8_t, 256> table{};
  std::array<bool, 256> known{};
  for (size_t i = 0; i < codes.size(); ++i) {
    if (!known[stored[i]]) table[stored[i]] = code_of_stored(tensor.spec, stored[i]);
    known[stored[i]] = true;
    codes[i] = table[stored[i]];
  }
  return codes;
}

// Names the first difference of two arrays and counts all; bits are compared, not values.
template <class T>
void compare(const std::string& name, std::span<const T> packed, std::span<const T> fresh,
             int64_t columns, VerifyResult& result) {
  ++result.tensors;
  if (packed.size() != fresh.size()) {
    result.differences.push_back(
        fmt::format("{}: {} values, the checkpoint gives {}", name, packed.size(), fresh.size()));
    return;
  }
  int64_t count = 0, first = -1;
  for (size_t i = 0; i < packed.size(); ++i) {
    if (std::memcmp(&packed[i], &fresh[i], sizeof(T)) == 0) continue;
    if (first < 0) first = static_cast<int64_t>(i);
    ++count;
  }
  if (count == 0) return;
  result.differences.push_back(fmt::format("{}: {} of {} values differ, first row {}, column {}",
                                           name, count, packed.size(), first / columns,
                                           first % columns));
}

void compare_value_sums(const std::string& name, const PackedTensor& tensor,
                        const std::vector<int8_t>& codes, VerifyResult& result) {
  std::vector<int32_t> sums(static_cast<size_t>(tensor.n), 0);
  std::array<int32_t, 256> stored{};
  std::array<bool, 256> known{};
  known[0] = tensor.spec.grid == Grid::kUniform4of8;  // dropped: adds nothing
  for (const int8_t code : codes) {
    const auto index = static_cast<uint8_t>(code);
    if (known[index]) continue;
    known[index] = true;
    stored[index] = tensor.spec.grid == Grid::kFp4 ? code : stored_code(tensor.spec, code);
  }
  for (size_t i = 0; i < codes.size(); ++i) {
    sums[i / static_cast<size_t>(tensor.k)] += stored[static_cast<uint8_t>(codes[i])];
  }
  compare<int32_t>(name + ".value_sums", tensor.value_sums, sums, 1, result);
}

void verify_layer(const std::string& name, const PackedTensor& tensor, const QuantizedLayer& fresh,
                  VerifyResult& result) {
  if (!tensor.spec.is_quantized()) {
    compare<bfloat16>(name + ".weight", tensor.weight, fresh.weight, tensor.k, result);
    return;
  }
  const std::vector<int8_t> codes = unpacked(tensor);
  compare<int8_t>(name + ".codes", codes, fresh.codes, tensor.k, result);
  compare<float>(name + ".units", tensor.units, fresh.units, 1, result);
  if (!tensor.value_sums.empty()) compare_value_sums(name, tensor, fresh.codes, result);
}

// Values (V,C) of a table, and its units, made again row by row.
void verify_table(const std::string& name, const PackedTable& table, const TensorView& master,
                  VerifyResult& result) {
  const auto width = static_cast<size_t>(table.columns);
  const size_t groups = width / kTableGroup;
  std::vector<float> x(width), units(1);
  std::vector<uint8_t> values(width), stored;
  if (table.format != TableFormat::kBf16) {
    stored.resize(static_cast<size_t>(table.rows) * width);
    unpack_code_tiles(table.tiles, table.codes.data(), stored.data());
  }
  int64_t rows_that_differ = 0, first = -1;
  for (int64_t r = 0; r < table.rows; ++r) {
    row_to_float(master, r, x);
    const auto row = static_cast<size_t>(r);
    bool equal = true;
    if (table.format == TableFormat::kBf16) {
      for (size_t k = 0; k < width; ++k) {
        equal = equal && table.weight[row * width + k].bits == bfloat16(x[k]).bits;
      }
    } else {
      if (table.format == TableFormat::kInt8) {
        units[0] = quantize_int8_row(x, values.data());
        equal = units[0] == table.row_units[row];
      } else {
        std::vector<bfloat16> fresh(groups);
        quantize_int4_row(x, values.data(), fresh.data());
        equal = std::memcmp(fresh.data(), table.group_units.data() + row * groups,
                            groups * sizeof(bfloat16)) == 0;
      }
      equal = equal && std::equal(values.begin(), values.end(), stored.begin() + r * table.columns);
    }
    if (equal) continue;
    if (first < 0) first = r;
    ++rows_that_differ;
  }
  ++result.tensors;
  if (rows_that_differ == 0) return;
  result.differences.push_back(fmt::format("{}: {} of {} rows differ, first row {}", name,
                                           rows_that_differ, table.rows, first));
}

}  // namespace

void check_same_model(const PackedModel& packed, const CheckpointLayers& checkpoint) {
  const QuantRecipe &a = packed.recipe(), &b = checkpoint.recipe();
  QUEST_CHECK(packed.config() == checkpoint.config() && a.weight == b.weight &&
                  a.activation == b.activation,
              ErrorKind::kUsage,
              "{} and {} are models of different shape, rotary settings or quantizers ({} / {} and "
              "{} / {}): give the checkpoint that was exported",
              packed.folder().string(), checkpoint.files().folder().string(), to_string(a.weight),
              to_string(a.activation), to_string(b.weight), to_string(b.activation));
}

void verify_codes(const PackedModel& packed, const CheckpointLayers& checkpoint,
                  VerifyResult& result) {
  check_same_model(packed, checkpoint);
  ThreadPool pool;
  const std::string hash = checkpoint.files().hash();
  if (hash != packed.source_hash()) {
    result.differences.push_back(fmt::format(
        "the packed model was made from weights {}, not from {}", packed.source_hash(), hash));
  }
  const auto compare_norm = [&](const std::string& name, std::span<const float> values) {
    compare<float>(name, values, checkpoint.values(name), 1, result);
  };
  verify_table("model.embed_tokens", packed.embedding(),
               checkpoint.files().tensor("model.embed_tokens.weight"), result);
  for (int64_t i = 0; i < packed.blocks(); ++i) {
    stop_if_asked();
    const PackedBlock& block = packed.block(i);
    const std::string name = fmt::format("model.layers.{}.", i);
    compare_norm(name + "input_layernorm.weight", block.input_norm);
    compare_norm(name + "post_attention_layernorm.weight", block.post_attention_norm);
    const std::array<const PackedTensor*, 4> tensors = {&block.qkv, &block.o, &block.gate_up,
                                                        &block.down};
    const auto layers = packed_layers(packed.config());
    for (size_t j = 0; j < tensors.size(); ++j) {
      verify_layer(packed_layer_name(i, layers[j]), *tensors[j], checkpoint.quantize(i, j, pool),
                   result);
    }
  }
  compare_norm("model.norm.weight", packed.final_norm());
  if (packed.config().tie_word_embeddings) return;
  verify_table("lm_head", packed.head(), checkpoint.files().tensor("lm_head.weight"), result);
}

}  // namespace quest::convert
