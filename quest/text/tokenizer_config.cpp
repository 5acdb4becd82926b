#include "quest/text/tokenizer_config.h"

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/json_util.h"

namespace quest {
namespace {

constexpr const char* kIdentityKey = "quest_tokenizer";

}  // namespace

void write_tokenizer_config(const Tokenizer& tokenizer, const std::filesystem::path& folder) {
  Json config;
  const bool bytes = tokenizer.kind() == "bytes";
  config["tokenizer_class"] = bytes ? "QuestByteTokenizer" : "LlamaTokenizer";
  if (!bytes) {
    config["add_bos_token"] = false;
    config["add_eos_token"] = false;
    config["clean_up_tokenization_spaces"] = false;
    config["legacy"] = false;
    if (const auto id = tokenizer.bos_id()) config["bos_token"] = tokenizer.token_name(*id);
    if (const auto id = tokenizer.eos_id()) config["eos_token"] = tokenizer.token_name(*id);
  }
  config[kIdentityKey] = {{"kind", tokenizer.kind()},
                          {"vocab_size", tokenizer.vocab_size()},
                          {"fingerprint", tokenizer.fingerprint()}};
  write_file_atomically(folder / kTokenizerConfigName, config.dump(2) + "\n");
}

std::optional<TokenizerIdentity> read_tokenizer_config(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kTokenizerConfigName;
  if (!std::filesystem::exists(path)) return std::nullopt;
  const Json config = read_json(path);
  QUEST_CHECK(config.is_object(), ErrorKind::kData, "{} is no JSON object", path.string());
  if (!config.contains(kIdentityKey)) return std::nullopt;
  const Json& identity = config[kIdentityKey];
  const std::string where = path.string() + ": " + kIdentityKey;
  return TokenizerIdentity{.kind = json_get<std::string>(identity, "kind", where),
                           .vocab_size = json_get<int64_t>(identity, "vocab_size", where),
                           .fingerprint = json_get<std::string>(identity, "fingerprint", where)};
}

}  // namespace quest
