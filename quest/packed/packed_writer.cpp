#include "quest/packed/packed_writer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include <nlohmann/json.hpp>

#include "quest/base/error.h"
#include "quest/packed/packed_checksum.h"
#include "quest/packed/table_codes.h"

namespace quest {
namespace {

// 8 length bytes and the JSON text, padded with spaces to a multiple of kPackedAlignment.
std::string header_text(const PackedDescription& description,
                        const std::vector<PackedEntry>& layout) {
  nlohmann::ordered_json json;
  json["__metadata__"] = {{"format", "quest-packed"},
                          {"version", std::to_string(kPackedVersion)},
                          {"recipe", description.recipe.name},
                          {"weight", to_string(description.recipe.weight)},
                          {"activation", to_string(description.recipe.activation)},
                          {"embedding", table_format_name(description.formats.embedding)},
                          {"head", table_format_name(description.formats.head)},
                          {"source_hash", description.source_hash},
                          {kPackedChecksumKey, std::string(kChecksumDigits, '0')}};
  int64_t offset = 0;
  for (const PackedEntry& entry : layout) {
    json[entry.name] = {{"dtype", dtype_name(entry.dtype)},
                        {"shape", entry.shape},
                        {"data_offsets", {offset, offset + entry.bytes}}};
    offset += entry.bytes;
  }
  std::string text = json.dump();
  const auto alignment = static_cast<size_t>(kPackedAlignment);
  text.append((alignment - (8 + text.size()) % alignment) % alignment, ' ');
  std::string header(8, '\0');
  const uint64_t size = text.size();
  std::memcpy(header.data(), &size, 8);
  return header + text;
}

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

bool is_digest(const std::string& text) {
  return text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// sum_k u of one row of codes, or sum_k number for FP4.
int32_t value_sum(const QuantSpec& spec, const std::array<uint8_t, 256>& stored,
                  std::span<const int8_t> codes) {
  int32_t sum = 0;
  for (const int8_t code : codes) {
    if (spec.grid == Grid::kFp4) {
      sum += code;
    } else if (spec.grid != Grid::kUniform4of8 || code != 0) {
      sum += stored[static_cast<uint8_t>(code)];
    }
  }
  return sum;
}

// stored_code of every code; 0 for those that the grid does not have.
std::array<uint8_t, 256> stored_codes(const QuantSpec& spec) {
  std::array<uint8_t, 256> table{};
  const int count = 1 << stored_format(spec).bits;
  for (int u = 0; u < count; ++u) {
    const bool exists =
        !(spec.grid == Grid::kTernary && u == 3) && !(spec.grid == Grid::kFp4 && u == 15);
    if (!exists) continue;
    const auto value = static_cast<uint8_t>(u);
    table[static_cast<uint8_t>(code_of_stored(spec, value))] = value;
  }
  return table;
}

// |rounded - exact| / |exact| over all values (Frobenius).
class RelativeError {
 public:
  void add(float exact, float rounded) {
    const double difference = static_cast<double>(rounded) - static_cast<double>(exact);
    error_ += difference * difference;
    norm_ += static_cast<double>(exact) * static_cast<double>(exact);
  }
  double value() const { return norm_ > 0 ? std::sqrt(error_ / norm_) : 0; }

 private:
  double error_ = 0, norm_ = 0;
};

}  // namespace

PackedWriter::PackedWriter(std::filesystem::path folder, PackedDescription description)
    : description_(std::move(description)),
      layout_(packed_layout(description_.config, description_.recipe, description_.formats)),
      out_(std::move(folder)) {
  QUEST_CHECK(is_digest(description_.source_hash), ErrorKind::kUsage,
              "the source's hash '{}' is no 32 hexadecimal digits", description_.source_hash);
  header_ = header_text(description_, layout_);
  const std::string key = fmt::format("\"{}\":\"", kPackedChecksumKey);
  digits_at_ = header_.find(key) + key.size();
  file_ = std::make_unique<AtomicFile>(out_.path() / "model.safetensors");
  file_->write(header_);
  sum_.update(bytes_of(header_));
  sum_.end_piece();
}

const PackedEntry& PackedWriter::next(std::string_view name) const {
  QUEST_CHECK(entry_ < layout_.size(), ErrorKind::kUsage,
              "tensor {} was to be written, but all of the model's tensors have been", name);
  const PackedEntry& entry = layout_[entry_];
  QUEST_CHECK(entry.name == name, ErrorKind::kUsage,
              "tensor {} was to be written, but the next one is {} ({} of {} bytes written)", name,
              entry.name, entry_bytes_, entry.bytes);
  return entry;
}

void PackedWriter::write(std::string_view name, std::span<const std::byte> bytes) {
  const PackedEntry& entry = next(name);
  QUEST_CHECK(static_cast<int64_t>(bytes.size()) <= entry.bytes - entry_bytes_, ErrorKind::kUsage,
              "tensor {} takes {} bytes, {} were given", name, entry.bytes,
              entry_bytes_ + static_cast<int64_t>(bytes.size()));
  file_->write(bytes);
  sum_.update(bytes);
  entry_bytes_ += static_cast<int64_t>(bytes.size());
  if (entry_bytes_ < entry.bytes) return;
  ++entry_;
  entry_bytes_ = 0;
  write_paddings();
}

void PackedWriter::write_paddings() {
  constexpr std::array<std::byte, kPackedAlignment> kZeros{};
  while (entry_ < layout_.size() && layout_[entry_].is_padding()) {
    const auto zeros = std::span(kZeros).first(static_cast<size_t>(layout_[entry_].bytes));
    file_->write(zeros);
    sum_.update(zeros);
    ++entry_;
  }
}

void PackedWriter::write_codes(const std::string& name, const std::array<uint8_t, 256>& table,
                               const int8_t* codes, int64_t n, int64_t k) {
  const QuantSpec& spec = description_.recipe.weight;
  if (spec.grid == Grid::kUniform4of8) {
    const SparseTiles tiles = sparse_tiles(n, k);
    std::vector<uint8_t> kept(static_cast<size_t>(tiles.kept.bytes()));
    std::vector<uint8_t> pairs(static_cast<size_t>(tiles.pairs.bytes()));
    pack_sparse_tiles(tiles, codes, kept.data(), pairs.data());
    write<uint8_t>(name + ".codes", kept);
    write<uint8_t>(name + ".pairs", pairs);
    return;
  }
  // One row of tiles at a time.
  const CodeTiles all{.bits = stored_format(spec).bits, .n = n, .k = k};
  std::vector<uint8_t> stored, bytes(static_cast<size_t>(all.tile_bytes()));
  for (int64_t row = 0; row < n; row += kTileRows) {
    const int64_t rows = std::min(kTileRows, n - row);
    stored.resize(static_cast<size_t>(rows * k));
    const int8_t* first = codes + row * k;
    for (size_t i = 0; i < stored.size(); ++i) stored[i] = table[static_cast<uint8_t>(first[i])];
    pack_code_tiles({.bits = all.bits, .n = rows, .k = k}, stored.data(), bytes.data());
    write<uint8_t>(name + ".codes", bytes);
  }
}

void PackedWriter::write_layer(const std::string& name, const LayerValues& values) {
  const QuantSpec& spec = description_.recipe.weight;
  if (!spec.is_quantized()) {
    write(name + ".weight", values.weight);
    return;
  }
  next(name + ".codes");
  const auto n = static_cast<int64_t>(values.units.size());
  QUEST_CHECK(n > 0 && static_cast<int64_t>(values.codes.size()) % n == 0, ErrorKind::kUsage,
              "{}: {} codes for {} units", name, values.codes.size(), n);
  const int64_t k = static_cast<int64_t>(values.codes.size()) / n;
  const std::array<uint8_t, 256> table = stored_codes(spec);
  for (const float unit : values.units) {
    QUEST_CHECK(std::isfinite(unit) && unit >= 0, ErrorKind::kNumeric, "{}: the unit {} of a row",
                name, unit);
  }
  write_codes(name, table, values.codes.data(), n, k);
  write(name + ".units", values.units);
  if (!has_value_sums(description_.recipe)) return;
  std::vector<int32_t> sums(static_cast<size_t>(n));
  for (size_t r = 0; r < sums.size(); ++r) {
    const auto width = static_cast<size_t>(k);
    sums[r] = value_sum(spec, table, values.codes.subspan(r * width, width));
  }
  write<int32_t>(name + ".value_sums", sums);
}

double PackedWriter::write_table(const std::string& name, const RowSource& row) {
  const TableFormat format =
      name == "lm_head" ? description_.formats.head : description_.formats.embedding;
  return format == TableFormat::kBf16 ? write_bf16_table(name, row)
                                      : write_coded_table(name, format == TableFormat::kInt8, row);
}

double PackedWriter::write_bf16_table(const std::string& name, const RowSource& row) {
  std::vector<float> x(static_cast<size_t>(description_.config.hidden_size));
  std::vector<bfloat16> rounded(x.size());
  RelativeError error;
  for (int64_t r = 0; r < description_.config.vocab_size; ++r) {
    row(r, x);
    for (size_t k = 0; k < x.size(); ++k) {
      QUEST_CHECK(std::isfinite(x[k]), ErrorKind::kNumeric, "{}: row {} holds {}", name, r, x[k]);
      rounded[k] = bfloat16(x[k]);
      error.add(x[k], static_cast<float>(rounded[k]));
    }
    write<bfloat16>(name + ".weight", rounded);
  }
  return error.value();
}

double PackedWriter::write_coded_table(const std::string& name, bool is_int8,
                                       const RowSource& row) {
  const int64_t rows = description_.config.vocab_size, columns = description_.config.hidden_size;
  const CodeTiles all{.bits = is_int8 ? 8 : 4, .n = rows, .k = columns};
  std::vector<float> x(static_cast<size_t>(columns)), row_units;
  std::vector<bfloat16> group_units, units(is_int8 ? 0 : x.size() / kTableGroup);
  std::vector<uint8_t> values, bytes(static_cast<size_t>(all.tile_bytes()));
  RelativeError error;
  for (int64_t first = 0; first < rows; first += kTileRows) {
    const int64_t count = std::min(kTileRows, rows - first);
    values.resize(static_cast<size_t>(count) * x.size());
    for (int64_t r = 0; r < count; ++r) {
      row(first + r, x);
      uint8_t* out = values.data() + static_cast<size_t>(r) * x.size();
      if (is_int8) {
        const float unit = quantize_int8_row(x, out);
        row_units.push_back(unit);
        for (size_t k = 0; k < x.size(); ++k) {
          error.add(x[k], unit * static_cast<float>(out[k] - 128));
        }
      } else {
        quantize_int4_row(x, out, units.data());
        group_units.insert(group_units.end(), units.begin(), units.end());
        for (size_t k = 0; k < x.size(); ++k) {
          error.add(x[k],
                    static_cast<float>(units[k / kTableGroup]) * static_cast<float>(out[k] - 8));
        }
      }
    }
    pack_code_tiles({.bits = all.bits, .n = count, .k = columns}, values.data(), bytes.data());
    write<uint8_t>(name + ".codes", bytes);
  }
  if (is_int8) {
    write<float>(name + ".units", row_units);
  } else {
    write<bfloat16>(name + ".units", group_units);
  }
  return error.value();
}

void PackedWriter::publish() {
  QUEST_CHECK(entry_ == layout_.size(), ErrorKind::kUsage,
              "the packed model is not whole: {} is missing", layout_[entry_].name);
  checksum_ = sum_.hex();
  file_->overwrite(static_cast<int64_t>(digits_at_), bytes_of(checksum_));
  file_->publish();
  const PackedSettings settings{
      .version = kPackedVersion,
      .embedding = std::string(table_format_name(description_.formats.embedding)),
      .head = std::string(table_format_name(description_.formats.head))};
  write_file_atomically(
      out_.path() / "config.json",
      llama_config_json(description_.config, description_.recipe, "bfloat16", settings));
  out_.publish();
}

}  // namespace quest
