#include "quest/packed/packed_model.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "quest/base/error.h"
#include "quest/base/thread_pool.h"
#include "quest/packed/packed_check.h"
#include "quest/packed/packed_checksum.h"
#include "quest/packed/packed_layout.h"

namespace quest {
namespace {

constexpr std::array kTableFormats = {TableFormat::kBf16, TableFormat::kInt8, TableFormat::kInt4};

// The metadata of the file, and that it says the same as config.json.
class Metadata {
 public:
  explicit Metadata(const SafetensorsReader& file) : file_(file) {}

  std::string get(const std::string& key) const {
    const auto found = file_.metadata().find(key);
    QUEST_CHECK(found != file_.metadata().end(), ErrorKind::kData,
                "{}: the metadata has no '{}': this is no packed model, or a damaged one",
                file_.path().string(), key);
    return found->second;
  }
  void expect(const std::string& key, std::string_view value, std::string_view source) const {
    QUEST_CHECK(get(key) == value, ErrorKind::kData,
                "{}: the metadata says {} is '{}', but {} '{}'", file_.path().string(), key,
                get(key), source, value);
  }

 private:
  const SafetensorsReader& file_;
};

void check_metadata(const Metadata& metadata, const QuantRecipe& recipe,
                    const PackedSettings& settings) {
  metadata.expect("format", "quest-packed", "a packed model's is");
  metadata.expect("version", std::to_string(kPackedVersion), "this program reads version");
  metadata.expect("recipe", recipe.name, "config.json says");
  metadata.expect("weight", to_string(recipe.weight), "config.json says");
  metadata.expect("activation", to_string(recipe.activation), "config.json says");
  metadata.expect("embedding", settings.embedding, "config.json says");
  metadata.expect("head", settings.head, "config.json says");
}

TableFormats table_formats(const PackedSettings& settings, const std::string& where) {
  QUEST_CHECK(settings.version == kPackedVersion, ErrorKind::kData,
              "{}: this packed model has version {}, this program reads version {}: export it "
              "again, or take a newer program",
              where, settings.version, kPackedVersion);
  try {
    return {table_format_from_name(settings.embedding), table_format_from_name(settings.head)};
  } catch (const Error& error) {
    QUEST_THROW(ErrorKind::kData, "{}: {}", where, error.what());
  }
}

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("({})", fmt::join(shape, ", "));
}

// The tensors of the file are those of the layout: names, types, shapes, order, alignment.
void check_tensors(const SafetensorsReader& file, const std::vector<PackedEntry>& layout) {
  const std::string where = file.path().string();
  const auto& tensors = file.tensors();
  for (size_t i = 0; i < layout.size(); ++i) {
    const PackedEntry& expected = layout[i];
    const TensorView& tensor = file.tensor(expected.name);  // throws if it is missing
    QUEST_CHECK(tensor.dtype == expected.dtype && tensor.shape == expected.shape, ErrorKind::kData,
                "{}: tensor {} is {} {}, config.json asks for {} {}", where, expected.name,
                dtype_name(tensor.dtype), shape_text(tensor.shape), dtype_name(expected.dtype),
                shape_text(expected.shape));
    QUEST_CHECK(&tensor == &tensors[i], ErrorKind::kData,
                "{}: tensor {} is not in its place: number {} in the file is {}", where,
                expected.name, i, tensors[i].name);
    const auto offset = tensor.bytes.data() - file.file_bytes().data();
    QUEST_CHECK(expected.is_padding() || offset % kPackedAlignment == 0, ErrorKind::kData,
                "{}: tensor {} begins at byte {}, which is no multiple of {}", where, expected.name,
                offset, kPackedAlignment);
    const bool zeros = std::all_of(tensor.bytes.begin(), tensor.bytes.end(),
                                   [](std::byte b) { return b == std::byte{0}; });
    QUEST_CHECK(!expected.is_padding() || zeros, ErrorKind::kData, "{}: {} holds more than zeros",
                where, expected.name);
  }
  QUEST_CHECK(tensors.size() == layout.size(), ErrorKind::kData,
              "{}: tensor {} is none of a packed model of this shape", where,
              tensors[std::min(layout.size(), tensors.size() - 1)].name);
}

PackedTensor read_layer(const SafetensorsReader& file, const std::string& name,
                        const PackedLayer& layer, const QuantRecipe& recipe) {
  PackedTensor out;
  out.spec = recipe.weight;
  out.n = layer.n;
  out.k = layer.k;
  if (!recipe.weight.is_quantized()) {
    out.weight = file.tensor(name + ".weight").as<bfloat16>();
    return out;
  }
  if (recipe.weight.grid == Grid::kUniform4of8) {
    out.tiles = sparse_tiles(layer.n, layer.k).kept;
    out.pairs = file.tensor(name + ".pairs").as<uint8_t>();
  } else {
    out.tiles = {.bits = stored_format(recipe.weight).bits, .n = layer.n, .k = layer.k};
  }
  out.codes = file.tensor(name + ".codes").as<uint8_t>();
  out.units = file.tensor(name + ".units").as<float>();
  if (has_value_sums(recipe)) out.value_sums = file.tensor(name + ".value_sums").as<int32_t>();
  return out;
}

PackedTable read_table(const SafetensorsReader& file, const std::string& name, TableFormat format,
                       const LlamaConfig& config) {
  PackedTable out;
  out.format = format;
  out.rows = config.vocab_size;
  out.columns = config.hidden_size;
  if (format == TableFormat::kBf16) {
    out.weight = file.tensor(name + ".weight").as<bfloat16>();
    return out;
  }
  out.tiles = {.bits = format == TableFormat::kInt8 ? 8 : 4, .n = out.rows, .k = out.columns};
  out.codes = file.tensor(name + ".codes").as<uint8_t>();
  const TensorView& units = file.tensor(name + ".units");
  if (format == TableFormat::kInt8) {
    out.row_units = units.as<float>();
  } else {
    out.group_units = units.as<bfloat16>();
  }
  return out;
}

void check_layer(const PackedTensor& tensor, const std::string& where, ThreadPool& pool) {
  if (!tensor.spec.is_quantized()) {
    check_finite(tensor.weight, where + ".weight", pool);
    return;
  }
  check_units(tensor.units, where + ".units");
  check_value_sums(tensor, where);
  check_packed_codes(tensor, where, pool);
}

void check_table(const PackedTable& table, const std::string& where, ThreadPool& pool) {
  if (table.format == TableFormat::kBf16) {
    check_finite(table.weight, where + ".weight", pool);
    return;
  }
  check_units(table.row_units, where + ".units");
  check_units(table.group_units, where + ".units");
  check_tile_padding(table.tiles, table.codes, where + ".codes");
}

size_t header_bytes(const SafetensorsReader& file) {
  uint64_t size = 0;
  std::memcpy(&size, file.file_bytes().data(), 8);
  return 8 + static_cast<size_t>(size);
}

void prove_checksum(const SafetensorsReader& file, const std::string& claimed, ThreadPool& pool) {
  const std::string where = file.path().string();
  const size_t header = header_bytes(file);
  const size_t at = find_checksum_digits(file.file_bytes().first(header), claimed, where);
  const std::string found = packed_checksum(file.file_bytes(), header, at, &pool);
  QUEST_CHECK(found == claimed, ErrorKind::kData,
              "{}: its checksum is {}, the file says {}: it was damaged or changed after it was "
              "exported; copy or export it again",
              where, found, claimed);
}

}  // namespace

std::string_view table_format_name(TableFormat format) {
  switch (format) {
    case TableFormat::kBf16:
      return "bf16";
    case TableFormat::kInt8:
      return "int8";
    case TableFormat::kInt4:
      return "int4";
  }
  QUEST_ASSERT(false, "table format {}", static_cast<int>(format));
  return {};
}

TableFormat table_format_from_name(std::string_view name) {
  for (const TableFormat format : kTableFormats) {
    if (table_format_name(format) == name) return format;
  }
  QUEST_THROW(ErrorKind::kUsage,
              "'{}' is no format of embedding and head; these are: bf16, int8, int4", name);
}

PackedModel::PackedModel(const std::filesystem::path& folder, bool check_values, int threads,
                         FileAccess access)
    : folder_(folder), access_(access) {
  const std::filesystem::path config_json = folder / "config.json";
  std::optional<PackedSettings> settings;
  config_ = load_llama_config(config_json, &recipe_, &settings);
  QUEST_CHECK(settings.has_value(), ErrorKind::kData,
              "{} is no packed model but a checkpoint: make one of it with `quest export`",
              folder.string());
  const TableFormats formats = table_formats(*settings, config_json.string());
  file_ = std::make_unique<SafetensorsReader>(folder / "model.safetensors", access);
  const SafetensorsReader& file = *file_;
  file_bytes_ = static_cast<int64_t>(file.file_bytes().size());
  const Metadata metadata(file);
  check_metadata(metadata, recipe_, *settings);
  checksum_ = metadata.get(kPackedChecksumKey);
  source_hash_ = metadata.get("source_hash");
  // Each block has at least 6 tensors; and a config.json may ask for billions of blocks.
  QUEST_CHECK(config_.num_layers <= static_cast<int64_t>(file.tensors().size()), ErrorKind::kData,
              "{}: config.json asks for {} blocks, the file has {} tensors", file.path().string(),
              config_.num_layers, file.tensors().size());
  try {
    check_tensors(file, packed_layout(config_, recipe_, formats));
  } catch (const Error& error) {
    QUEST_THROW(ErrorKind::kData, "{}", error.what());
  }

  embedding_ = read_table(file, "model.embed_tokens", formats.embedding, config_);
  const bool tied = config_.tie_word_embeddings;
  head_ = tied ? embedding_ : read_table(file, "lm_head", formats.head, config_);
  final_norm_ = file.tensor("model.norm.weight").as<float>();
  const auto layers = packed_layers(config_);
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    const std::string name = fmt::format("model.layers.{}.", i);
    const auto layer = [&](size_t j) {
      return read_layer(file, packed_layer_name(i, layers[j]), layers[j], recipe_);
    };
    blocks_.push_back({file.tensor(name + "input_layernorm.weight").as<float>(),
                       file.tensor(name + "post_attention_layernorm.weight").as<float>(), layer(0),
                       layer(1), layer(2), layer(3)});
  }
  if (check_values) prove_values(threads);
}

void PackedModel::prove_values(int threads) const {
  ThreadPool pool(threads);
  prove_checksum(*file_, checksum_, pool);
  const std::string where = file_->path().string() + ": ";
  check_table(embedding_, where + "model.embed_tokens", pool);
  if (!config_.tie_word_embeddings) check_table(head_, where + "lm_head", pool);
  check_finite(final_norm_, where + "model.norm.weight");
  const auto layers = packed_layers(config_);
  for (int64_t i = 0; i < blocks(); ++i) {
    const PackedBlock& b = block(i);
    const std::string name = fmt::format("{}model.layers.{}.", where, i);
    check_finite(b.input_norm, name + "input_layernorm.weight");
    check_finite(b.post_attention_norm, name + "post_attention_layernorm.weight");
    const std::array<const PackedTensor*, 4> tensors = {&b.qkv, &b.o, &b.gate_up, &b.down};
    for (size_t j = 0; j < layers.size(); ++j) {
      check_layer(*tensors[j], where + packed_layer_name(i, layers[j]), pool);
    }
  }
}

std::vector<TensorSize> PackedModel::sizes() const {
  const TableFormats formats{embedding_.format, head_.format};
  std::vector<TensorSize> out{{"header", static_cast<int64_t>(header_bytes(*file_)), 0}};
  for (const PackedEntry& entry : packed_layout(config_, recipe_, formats)) {
    out.push_back({entry.name, entry.bytes, entry.parameters});
  }
  return out;
}

}  // namespace quest
