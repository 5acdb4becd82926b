// tokenizer_config.json: what transformers reads beside a tokenizer.model, and under
// "quest_tokenizer" what load_tokenizer proves (kind, vocabulary size, fingerprint).
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "quest/text/tokenizer.h"

namespace quest {

inline constexpr const char* kTokenizerModelName = "tokenizer.model";
inline constexpr const char* kTokenizerConfigName = "tokenizer_config.json";

struct TokenizerIdentity {
  std::string kind;
  int64_t vocab_size = 0;
  std::string fingerprint;
};

// Throws kIo.
void write_tokenizer_config(const Tokenizer& tokenizer, const std::filesystem::path& folder);
// Nothing if there is no such file or if another program wrote it; kData if it is damaged.
std::optional<TokenizerIdentity> read_tokenizer_config(const std::filesystem::path& folder);

}  // namespace quest
