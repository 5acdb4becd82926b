// Tokens to train on. Tests only; header only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "quest/base/philox.h"
#include "quest/data/token_file.h"
#include "quest/text/tokenizer.h"

namespace quest::testing {

// Markov text: there is something to learn.
inline std::vector<int32_t> markov_text(int64_t count, uint64_t seed) {
  const Philox random(seed);
  std::vector<int32_t> tokens;
  int32_t last = 'a';
  for (int64_t k = 0; k < count; ++k) {
    last =
        'a' + (last - 'a' + static_cast<int32_t>(random.below(static_cast<uint64_t>(k), 3))) % 26;
    tokens.push_back(last);
  }
  return tokens;
}

// A file of one document of them, of the byte tokenizer.
inline void write_tokens(const std::filesystem::path& path, const std::vector<int32_t>& tokens) {
  const auto tokenizer = make_byte_tokenizer();
  TokenFileInfo info;
  info.vocab_size = tokenizer->vocab_size();
  info.eos_id = tokenizer->eos_id();
  info.tokenizer_fingerprint = tokenizer->fingerprint();
  TokenFileWriter writer(path, info);
  writer.begin_document();
  writer.append(tokens, static_cast<int64_t>(tokens.size()));
  writer.finish();
}

}  // namespace quest::testing
