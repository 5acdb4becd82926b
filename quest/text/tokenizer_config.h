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

// Throws kIo. A chat template is written as transformers has it.
void write_tokenizer_config(const Tokenizer& tokenizer, const std::filesystem::path& folder,
                            const std::optional<std::string>& chat_template = {});
// Nothing if there is no such file or if another program wrote it; kData if it is damaged.
std::optional<TokenizerIdentity> read_tokenizer_config(const std::filesystem::path& folder);
// chat_template of tokenizer_config.json (the one named default, of several), else the text of
// chat_template.jinja; nothing if there is neither. Throws kData if the file is damaged.
std::optional<std::string> read_chat_template(const std::filesystem::path& folder);

}  // namespace quest
