// Help for tests: small packed models. Tests only; header only.
//
//   testing::TemporaryFolder folder;
//   const PackedModel model(testing::write_small_packed_model(folder / "w4a4", "w4a4"));
#pragma once

#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "quest/base/atomic_folder.h"
#include "quest/base/testing.h"
#include "quest/packed/packed_checksum.h"
#include "quest/packed/packed_model.h"
#include "quest/packed/random_model.h"

namespace quest::testing {

// 2 blocks with grouped queries. K = 144, 192 and 208 are multiples of 16, as the Hadamard
// transform asks for, but not of a tile's 32 columns; the vocabulary is no multiple of its 16 rows.
// hidden_size 160 for int4 tables, which need a multiple of 32.
inline LlamaConfig small_llama(int64_t hidden_size = 144) {
  LlamaConfig config;
  config.vocab_size = 261;
  config.hidden_size = hidden_size;
  config.intermediate_size = 208;
  config.num_layers = 2;
  config.num_heads = 6;
  config.num_kv_heads = 2;
  config.head_dim = 32;
  config.max_position_embeddings = 64;
  return config;
}

inline std::filesystem::path write_small_packed_model(const std::filesystem::path& folder,
                                                      std::string_view recipe,
                                                      const RandomModelOptions& options = {}) {
  const bool int4 =
      options.formats.embedding == TableFormat::kInt4 || options.formats.head == TableFormat::kInt4;
  write_random_packed_model(folder, small_llama(int4 ? 160 : 144), recipe_from_name(recipe),
                            options);
  return folder;
}

// Changes header (JSON) and data of a packed folder's model.safetensors, and gives it the checksum
// that fits: what somebody who means harm would do. `edit(header, data)` takes a
// nlohmann::ordered_json and a std::string.
template <class Edit>
void forge_packed_model(const std::filesystem::path& folder, Edit&& edit) {
  const std::filesystem::path path = folder / "model.safetensors";
  std::string file = read_file(path);
  uint64_t size = 0;
  std::memcpy(&size, file.data(), 8);
  nlohmann::ordered_json header = nlohmann::ordered_json::parse(file.substr(8, size));
  std::string data = file.substr(8 + size);
  edit(header, data);
  const std::string zeros(kChecksumDigits, '0');
  const bool sign = header.contains("__metadata__") && header["__metadata__"].is_object();
  if (sign) header["__metadata__"][kPackedChecksumKey] = zeros;
  std::string text = header.dump();
  text.append((64 - (8 + text.size()) % 64) % 64, ' ');
  size = text.size();
  file.assign(reinterpret_cast<const char*>(&size), 8);
  file += text + data;
  if (sign) {
    const size_t at = file.find(zeros);
    const auto bytes = std::as_bytes(std::span(file.data(), file.size()));
    file.replace(at, zeros.size(), packed_checksum(bytes, 8 + text.size(), at, nullptr));
  }
  write_file_atomically(path, file);
}

}  // namespace quest::testing
