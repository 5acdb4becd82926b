#include "quest/text/tokenizer.h"

#include <utility>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/text/sentencepiece_tokenizer.h"
#include "quest/text/tokenizer_config.h"
#include "quest/text/utf8.h"

namespace quest {
namespace {

namespace fs = std::filesystem;

// Far above any real model (Llama-2's has 0.5 MB); keeps a corpus given by mistake out of memory.
constexpr uintmax_t kMaxModelBytes = uintmax_t{256} << 20;

std::unique_ptr<Tokenizer> load_model_file(const fs::path& path,
                                           std::optional<std::string> chat_template = {}) {
  std::error_code error;
  const uintmax_t size = fs::file_size(path, error);
  QUEST_CHECK(!error, ErrorKind::kIo, "cannot read the tokenizer {}: {}", path.string(),
              error.message());
  QUEST_CHECK(size <= kMaxModelBytes, ErrorKind::kData,
              "{} has {} bytes: too large for a SentencePiece model", path.string(), size);
  return make_sentencepiece_tokenizer(read_file(path), path.string(), std::move(chat_template));
}

std::unique_ptr<Tokenizer> load_folder(const fs::path& folder) {
  const std::optional<TokenizerIdentity> identity = read_tokenizer_config(folder);
  if (identity && identity->kind == "bytes") {
    std::unique_ptr<Tokenizer> bytes = make_byte_tokenizer();
    QUEST_CHECK(identity->fingerprint == bytes->fingerprint(), ErrorKind::kData,
                "{} is damaged, or of another version: its fingerprint is not that of bytes",
                (folder / kTokenizerConfigName).string());
    return bytes;
  }
  const fs::path model = folder / kTokenizerModelName;
  QUEST_CHECK(fs::exists(model), ErrorKind::kIo, "{} holds no tokenizer: {} is missing{}",
              folder.string(), kTokenizerModelName,
              fs::exists(folder / "tokenizer.json")
                  ? " (tokenizer.json alone is not supported: a SentencePiece model is needed)"
                  : "");
  std::unique_ptr<Tokenizer> tokenizer = load_model_file(model, read_chat_template(folder));
  QUEST_CHECK(!identity || identity->fingerprint == tokenizer->fingerprint(), ErrorKind::kData,
              "{} is damaged, or not the one it was saved with: its fingerprint is {}, {} says {}",
              model.string(), tokenizer->fingerprint(), kTokenizerConfigName,
              identity->fingerprint);
  return tokenizer;
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& folder_or_file) {
  std::error_code error;
  const fs::file_status status = fs::status(folder_or_file, error);
  if (fs::is_directory(status)) return load_folder(folder_or_file);
  if (!fs::exists(status) && folder_or_file == "bytes") return make_byte_tokenizer();
  QUEST_CHECK(fs::exists(status), ErrorKind::kIo,
              "there is no tokenizer {}; give a folder, a SentencePiece file or the word bytes",
              folder_or_file.string());
  QUEST_CHECK(folder_or_file.filename() != kTokenizerConfigName, ErrorKind::kUsage,
              "{} is a tokenizer's settings; give its folder", folder_or_file.string());
  return load_model_file(folder_or_file);
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  StreamingDecoder decoder(*this);
  std::string text;
  for (const int32_t id : ids) text += decoder.push(id);
  return text += decoder.flush();
}

StreamingDecoder StreamingDecoder::continuing(const Tokenizer& tokenizer) {
  StreamingDecoder decoder(tokenizer);
  decoder.at_start_ = false;
  return decoder;
}

std::string StreamingDecoder::push(int32_t id) {
  std::string_view bytes = tokenizer_.token_bytes(id);
  if (at_start_ && !bytes.empty()) {
    bytes = tokenizer_.first_token_bytes(id);
    at_start_ = false;
  }
  std::string text = std::exchange(pending_, {});
  text += bytes;
  const size_t held_back = incomplete_utf8_suffix(text);
  pending_ = text.substr(text.size() - held_back);
  text.resize(text.size() - held_back);
  sanitize_utf8(text);
  return text;
}

std::string StreamingDecoder::flush() {
  std::string text = std::exchange(pending_, {});
  at_start_ = true;
  sanitize_utf8(text);
  return text;
}

}  // namespace quest
