// The tokenizer that needs no training: ids 0 to 255 are bytes, 256 is end of document.
#include <array>

#include "quest/base/checksum.h"
#include "quest/base/error.h"
#include "quest/text/tokenizer.h"
#include "quest/text/tokenizer_config.h"

namespace quest {
namespace {

constexpr int32_t kEndOfDocument = 256;
constexpr int64_t kVocabSize = 257;

constexpr std::array<char, 256> all_bytes() {
  std::array<char, 256> bytes{};
  for (size_t i = 0; i < 256; ++i) bytes[i] = static_cast<char>(i);
  return bytes;
}
constexpr std::array<char, 256> kBytes = all_bytes();

class ByteTokenizer final : public Tokenizer {
 public:
  std::vector<int32_t> encode(std::string_view text) const override {
    std::vector<int32_t> ids(text.size());
    for (size_t i = 0; i < text.size(); ++i) ids[i] = static_cast<unsigned char>(text[i]);
    return ids;
  }
  std::vector<int32_t> encode_continuation(std::string_view text) const override {
    return encode(text);
  }
  std::string_view token_bytes(int32_t id) const override {
    check_id(id);
    if (id == kEndOfDocument) return {};
    return {&kBytes[static_cast<size_t>(id)], 1};
  }
  std::string token_name(int32_t id) const override {
    check_id(id);
    return id == kEndOfDocument ? "</s>" : fmt::format("<0x{:02X}>", id);
  }
  int64_t vocab_size() const override { return kVocabSize; }
  std::optional<int32_t> bos_id() const override { return std::nullopt; }
  std::optional<int32_t> eos_id() const override { return kEndOfDocument; }
  std::string kind() const override { return "bytes"; }
  std::string fingerprint() const override {
    return checksum128_hex(std::string_view("bytes 0 to 255, end of document 256"));
  }
  void save(const std::filesystem::path& folder) const override {
    write_tokenizer_config(*this, folder);
  }

 private:
  static void check_id(int32_t id) {
    QUEST_CHECK(id >= 0 && id < kVocabSize, ErrorKind::kData,
                "token {} is outside the vocabulary of {}", id, kVocabSize);
  }
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_tokenizer() { return std::make_unique<ByteTokenizer>(); }

}  // namespace quest
