#include "quest/text/tokenizer_config.h"

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/json_util.h"

namespace quest {
namespace {

constexpr const char* kIdentityKey = "quest_tokenizer";

}  // namespace

void write_tokenizer_config(const Tokenizer& tokenizer, const std::filesystem::path& folder,
                            const std::optional<std::string>& chat_template) {
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
  if (chat_template) config["chat_template"] = *chat_template;
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

std::optional<std::string> read_chat_template(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kTokenizerConfigName;
  const Json config = std::filesystem::exists(path) ? read_json(path) : Json::object();
  QUEST_CHECK(config.is_object(), ErrorKind::kData, "{} is no JSON object", path.string());
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) {
    const std::filesystem::path jinja = folder / "chat_template.jinja";
    return std::filesystem::exists(jinja) ? std::optional(read_file(jinja)) : std::nullopt;
  }
  if (found->is_string()) return found->get<std::string>();
  // Several templates, each with a name.
  QUEST_CHECK(found->is_array(), ErrorKind::kData,
              "{}: chat_template must be a text or a list of named ones", path.string());
  for (const Json& entry : *found) {
    if (entry.is_object() &&
        json_get_or<std::string>(entry, "name", "", path.string()) == "default") {
      return json_get<std::string>(entry, "template", path.string());
    }
  }
  return std::nullopt;
}

}  // namespace quest
