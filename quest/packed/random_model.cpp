#include "quest/packed/random_model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "quest/base/error.h"
#include "quest/base/shutdown.h"
#include "quest/packed/packed_writer.h"
#include "quest/text/tokenizer.h"

namespace quest {
namespace {

using ByteTable = std::array<uint8_t, 256>;

// SplitMix64: one multiplication chain for 8 bytes.
class RandomBytes {
 public:
  explicit RandomBytes(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}

  uint64_t next() {
    uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  float between(float low, float high) {
    return low + (high - low) * (static_cast<float>(next() >> 40) * 0x1p-24f);
  }
  void fill(std::vector<uint8_t>& bytes) {
    for (size_t i = 0; i < bytes.size(); i += 8) {
      const uint64_t word = next();
      std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, bytes.size() - i));
    }
  }

 private:
  uint64_t state_;
};

// Spreads a random byte over the `choices`.
ByteTable spread(const std::vector<uint8_t>& choices) {
  ByteTable table;
  for (size_t i = 0; i < table.size(); ++i) table[i] = choices[i * choices.size() / table.size()];
  return table;
}

// Bytes of which every field of `bits` bits is one of the values.
std::vector<uint8_t> bytes_of_values(const std::vector<uint8_t>& values, int bits) {
  std::vector<uint8_t> bytes;
  for (unsigned byte = 0; byte < 256; ++byte) {
    bool all = true;
    for (int shift = 0; shift < 8; shift += bits) {
      const auto field = static_cast<uint8_t>(byte >> shift & ((1u << bits) - 1));
      all = all && std::find(values.begin(), values.end(), field) != values.end();
    }
    if (all) bytes.push_back(static_cast<uint8_t>(byte));
  }
  return bytes;
}

std::vector<uint8_t> count_up(int first, int end) {
  std::vector<uint8_t> values;
  for (int u = first; u < end; ++u) values.push_back(static_cast<uint8_t>(u));
  return values;
}

std::vector<uint8_t> values_of_grid(const QuantSpec& spec) {
  const int count = spec.grid == Grid::kTernary ? 3 : spec.grid == Grid::kFp4 ? 15 : 1 << spec.bits;
  return count_up(0, count);
}

double number_of(const StoredFormat& format, uint8_t stored) {
  if (!format.levels.empty()) return static_cast<double>(format.levels[stored]);
  if (!format.is_affine) return format.numbers[stored];
  return format.multiplier * stored + format.offset;
}

class RandomWriter {
 public:
  RandomWriter(PackedWriter& out, uint64_t seed) : out_(out), random_(seed) {}

  void norm(const std::string& name) {
    floats(name, out_.description().config.hidden_size, 0.9f, 1.1f);
  }

  // standard_deviation: of the values.
  void table(const std::string& name, TableFormat format, float standard_deviation) {
    const LlamaConfig& config = out_.description().config;
    const int64_t v = config.vocab_size, c = config.hidden_size;
    if (format == TableFormat::kBf16) {
      bfloat16s(name + ".weight", v * c, -standard_deviation * std::sqrt(3.0f),
                standard_deviation * std::sqrt(3.0f));
    } else if (format == TableFormat::kInt8) {
      codes(name + ".codes", {.bits = 8, .n = v, .k = c}, count_up(1, 256));
      const float unit = standard_deviation / 73.3f;
      floats(name + ".units", v, 0.75f * unit, 1.25f * unit);
    } else {
      codes(name + ".codes", {.bits = 4, .n = v, .k = c}, count_up(0, 16));
      const float unit = standard_deviation / 4.6f;
      bfloat16s(name + ".units", v * c / 32, 0.75f * unit, 1.25f * unit);
    }
  }

  void layer(const std::string& name, const PackedLayer& layer) {
    const QuantRecipe& recipe = out_.description().recipe;
    const float deviation = 1 / std::sqrt(static_cast<float>(layer.k));
    if (!recipe.weight.is_quantized()) {
      bfloat16s(name + ".weight", layer.n * layer.k, -deviation * std::sqrt(3.0f),
                deviation * std::sqrt(3.0f));
      return;
    }
    const StoredFormat format = stored_format(recipe.weight);
    const std::vector<uint8_t> values = values_of_grid(recipe.weight);
    std::vector<int32_t> sums;
    double squares = 0;
    for (const uint8_t u : values) squares += number_of(format, u) * number_of(format, u);
    float unit = deviation / static_cast<float>(std::sqrt(squares / double(values.size())));
    std::vector<int32_t>* wanted = has_value_sums(recipe) ? &sums : nullptr;
    if (recipe.weight.grid == Grid::kUniform4of8) {
      const SparseTiles tiles = sparse_tiles(layer.n, layer.k);
      codes(name + ".codes", tiles.kept, values, wanted);
      codes(name + ".pairs", tiles.pairs, {4, 8, 9, 12, 13, 14});
      unit *= std::sqrt(2.0f);
    } else {
      is_fp4_ = recipe.weight.grid == Grid::kFp4;
      codes(name + ".codes", {.bits = format.bits, .n = layer.n, .k = layer.k}, values, wanted);
    }
    floats(name + ".units", layer.n, 0.75f * unit, 1.25f * unit);
    if (wanted != nullptr) out_.write<int32_t>(name + ".value_sums", sums);
  }

 private:
  // Random values of the list in tiles; their sum per row, if wanted.
  void codes(const std::string& name, const CodeTiles& tiles, const std::vector<uint8_t>& values,
             std::vector<int32_t>* sums = nullptr) {
    const bool whole = tiles.n % kTileRows == 0 && tiles.k % kTileBlock == 0;
    const bool one_piece = (tiles.bits & (tiles.bits - 1)) == 0;  // a byte holds whole values
    const bool full = values.size() == size_t{1} << tiles.bits;
    if (whole && sums == nullptr && (one_piece || full)) {
      const bool table_needed = !full;
      const ByteTable table = spread(bytes_of_values(values, one_piece ? tiles.bits : 8));
      std::vector<uint8_t> bytes(static_cast<size_t>(tiles.tile_bytes()));
      for (int64_t t = 0; t < tiles.row_tiles(); ++t) {
        stop_if_asked();
        random_.fill(bytes);
        if (table_needed) {
          for (uint8_t& byte : bytes) byte = table[byte];
        }
        out_.write<uint8_t>(name, bytes);
      }
      return;
    }
    packed_values(name, tiles, spread(values), sums);
  }

  void packed_values(const std::string& name, const CodeTiles& tiles, const ByteTable& table,
                     std::vector<int32_t>* sums) {
    std::vector<uint8_t> bytes(static_cast<size_t>(tiles.tile_bytes())), values;
    for (int64_t row = 0; row < tiles.n; row += kTileRows) {
      stop_if_asked();
      const int64_t rows = std::min(kTileRows, tiles.n - row);
      values.resize(static_cast<size_t>(rows * tiles.k));
      random_.fill(values);
      for (uint8_t& value : values) value = table[value];
      pack_code_tiles({.bits = tiles.bits, .n = rows, .k = tiles.k}, values.data(), bytes.data());
      out_.write<uint8_t>(name, bytes);
      if (sums == nullptr) continue;
      for (int64_t r = 0; r < rows; ++r) {
        int32_t sum = 0;
        for (int64_t k = 0; k < tiles.k; ++k) {
          const uint8_t u = values[static_cast<size_t>(r * tiles.k + k)];
          sum += is_fp4_ ? fp4_numbers_[u] : u;
        }
        sums->push_back(sum);
      }
    }
  }

  void floats(const std::string& name, int64_t count, float low, float high) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& value : values) value = random_.between(low, high);
    out_.write<float>(name, values);
  }

  void bfloat16s(const std::string& name, int64_t count, float low, float high) {
    constexpr int64_t kPart = 1 << 16;
    std::vector<bfloat16> values;
    for (int64_t done = 0; done < count; done += kPart) {
      stop_if_asked();
      values.resize(static_cast<size_t>(std::min(kPart, count - done)));
      for (bfloat16& value : values) value = bfloat16(random_.between(low, high));
      out_.write<bfloat16>(name, values);
    }
  }

  PackedWriter& out_;
  RandomBytes random_;
  bool is_fp4_ = false;
  std::span<const int8_t> fp4_numbers_ = stored_format(spec_from_string("fp4.ste")).numbers;
};

}  // namespace

void write_random_packed_model(const std::filesystem::path& folder, const LlamaConfig& config,
                               const QuantRecipe& recipe, const RandomModelOptions& options) {
  const std::unique_ptr<Tokenizer> tokenizer =
      options.tokenizer.empty() ? make_byte_tokenizer() : load_tokenizer(options.tokenizer);
  QUEST_CHECK(tokenizer->vocab_size() <= config.vocab_size, ErrorKind::kUsage,
              "the tokenizer has {} tokens, the model only {}", tokenizer->vocab_size(),
              config.vocab_size);
  PackedWriter out(folder,
                   {.config = config,
                    .recipe = recipe,
                    .formats = options.formats,
                    .source_hash = checksum128_hex(fmt::format("random {}", options.seed))});
  RandomWriter random(out, options.seed);
  const float head = 2 / std::sqrt(static_cast<float>(config.hidden_size));
  random.table("model.embed_tokens", options.formats.embedding,
               config.tie_word_embeddings ? head : 1.0f);
  const auto layers = packed_layers(config);
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string block = fmt::format("model.layers.{}.", i);
    random.norm(block + "input_layernorm.weight");
    random.layer(packed_layer_name(i, layers[0]), layers[0]);
    random.layer(packed_layer_name(i, layers[1]), layers[1]);
    random.norm(block + "post_attention_layernorm.weight");
    random.layer(packed_layer_name(i, layers[2]), layers[2]);
    random.layer(packed_layer_name(i, layers[3]), layers[3]);
  }
  random.norm("model.norm.weight");
  if (!config.tie_word_embeddings) random.table("lm_head", options.formats.head, head);
  tokenizer->save(out.folder());
  out.publish();
}

}  // namespace quest
