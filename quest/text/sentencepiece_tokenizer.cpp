#include "quest/text/sentencepiece_tokenizer.h"

#include <algorithm>
#include <mutex>
#include <unordered_map>

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/checksum.h"
#include "quest/base/error.h"
#include "quest/text/sentencepiece_model.h"
#include "quest/text/tokenizer_config.h"

namespace quest {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581, a space within a piece
// SentencePiece counts in int; callers cut texts far below this.
constexpr size_t kMaxTextBytes = size_t{1} << 28;

// "<0x0A>" -> "\n".
std::string byte_of_piece(const std::string& piece, const std::string& name) {
  const auto digit = [](char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  };
  QUEST_CHECK(piece.size() == 6 && piece.starts_with("<0x") && piece.back() == '>' &&
                  digit(piece[3]) >= 0 && digit(piece[4]) >= 0,
              ErrorKind::kData, "{} is damaged: the byte piece is written {}", name, piece);
  return std::string(1, static_cast<char>(digit(piece[3]) * 16 + digit(piece[4])));
}

std::string with_spaces(std::string_view piece) {
  std::string text;
  while (!piece.empty()) {
    const size_t mark = piece.find(kSpaceMark);
    text += piece.substr(0, mark);
    if (mark == std::string_view::npos) break;
    text += ' ';
    piece.remove_prefix(mark + kSpaceMark.size());
  }
  return text;
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string serialized, const std::string& name,
                         std::optional<std::string> chat_template)
      : serialized_(std::move(serialized)),
        chat_template_(std::move(chat_template)),
        fingerprint_(checksum128_hex(serialized_)) {
    SentencePieceModel model = parse_sentencepiece_model(serialized_, name);
    load_processor(name);
    QUEST_CHECK(processor_.GetPieceSize() == static_cast<int>(model.pieces.size()),
                ErrorKind::kData, "{} is damaged: {} pieces listed, {} loaded", name,
                model.pieces.size(), processor_.GetPieceSize());
    kind_ = "sentencepiece-" + model.model_type;
    adds_space_ = model.add_dummy_prefix;
    drops_space_ = model.add_dummy_prefix || model.remove_extra_whitespaces;
    fill_token_bytes(model, name);
    bos_id_ = optional_id(processor_.bos_id());
    eos_id_ = optional_id(processor_.eos_id());
    check_sample(name);
    newline_ids_ = encode("\n");
  }

  std::vector<int32_t> encode(std::string_view text) const override {
    QUEST_CHECK(text.size() <= kMaxTextBytes, ErrorKind::kUsage,
                "cannot tokenize {} bytes at once; cut the text into parts of at most {}",
                text.size(), kMaxTextBytes);
    std::vector<int> ids;
    const auto status = processor_.Encode(text, &ids);
    QUEST_CHECK(status.ok(), ErrorKind::kData, "SentencePiece cannot encode this text: {}",
                status.ToString());
    return ids;
  }

  std::vector<int32_t> encode_continuation(std::string_view text) const override {
    if (!adds_space_ || text.empty()) return encode(text);
    // The text's own space takes the place of the one that encode() adds.
    if (text.size() >= 2 && text[0] == ' ' && text[1] != ' ') return encode(text.substr(1));
    // Otherwise the added space is kept away by a newline whose tokens are then dropped. They are
    // the same with any text behind them unless the model has pieces that begin with a newline.
    std::string after_newline = "\n";
    after_newline += text;
    std::vector<int32_t> ids = encode(after_newline);
    if (!newline_ids_.empty() && ids.size() >= newline_ids_.size() &&
        std::equal(newline_ids_.begin(), newline_ids_.end(), ids.begin())) {
      ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(newline_ids_.size()));
      return ids;
    }
    return encode(text);
  }

  std::string_view token_bytes(int32_t id) const override {
    check_id(id);
    return token_bytes_[static_cast<size_t>(id)];
  }
  std::string_view first_token_bytes(int32_t id) const override {
    std::string_view bytes = token_bytes(id);
    // Not the space of a byte token: only a piece can hold the one that encode() added.
    if (drops_space_ && !bytes.empty() && processor_.IdToPiece(id).starts_with(kSpaceMark))
      bytes.remove_prefix(1);
    return bytes;
  }
  std::string token_name(int32_t id) const override {
    check_id(id);
    return processor_.IdToPiece(id);
  }
  int64_t vocab_size() const override { return static_cast<int64_t>(token_bytes_.size()); }
  std::optional<int32_t> bos_id() const override { return bos_id_; }
  std::optional<int32_t> eos_id() const override { return eos_id_; }
  std::string kind() const override { return kind_; }
  std::string fingerprint() const override { return fingerprint_; }

  void save(const std::filesystem::path& folder) const override {
    write_file_atomically(folder / kTokenizerModelName, serialized_);
    write_tokenizer_config(*this, folder, chat_template_);
  }

 private:
  void load_processor(const std::string& name) {
    silence_sentencepiece();
    std::string problem;
    try {
      const auto status = processor_.LoadFromSerializedProto(serialized_);
      if (!status.ok()) problem = status.ToString();
    } catch (const std::exception& error) {  // of its trie builder
      problem = error.what();
    }
    QUEST_CHECK(problem.empty(), ErrorKind::kData,
                "{} is no SentencePiece model, or is damaged: {}", name, problem);
  }

  void fill_token_bytes(const SentencePieceModel& model, const std::string& name) {
    token_bytes_.reserve(model.pieces.size());
    for (const auto& piece : model.pieces) {
      switch (piece.type) {
        case PieceType::kControl:
          token_bytes_.emplace_back();
          break;
        case PieceType::kUnknown:
          token_bytes_.push_back(model.unknown_surface);
          break;
        case PieceType::kByte:
          token_bytes_.push_back(byte_of_piece(piece.text, name));
          break;
        default:
          token_bytes_.push_back(with_spaces(piece.text));
      }
    }
  }

  // A model that loads but cannot encode plain text is no use to anyone: say so at once.
  void check_sample(const std::string& name) const {
    const std::vector<int32_t> ids = encode("A sample, 1 2 3:\n\tna\xC3\xAFve \xF0\x9F\x99\x82");
    QUEST_CHECK(
        !ids.empty() && std::all_of(ids.begin(), ids.end(),
                                    [&](int32_t id) { return id >= 0 && id < vocab_size(); }),
        ErrorKind::kData, "{} is damaged: it gives no valid tokens for a sample text", name);
  }

  void check_id(int32_t id) const {
    QUEST_CHECK(id >= 0 && id < vocab_size(), ErrorKind::kData,
                "token {} is outside the vocabulary of {}", id, vocab_size());
  }
  static std::optional<int32_t> optional_id(int id) {
    return id < 0 ? std::nullopt : std::optional<int32_t>(id);
  }

  std::string serialized_;
  std::optional<std::string> chat_template_;
  std::string fingerprint_;
  sentencepiece::SentencePieceProcessor processor_;
  std::string kind_;
  bool adds_space_ = true;  // encode() does
  bool drops_space_ = true;
  std::vector<std::string> token_bytes_;
  std::optional<int32_t> bos_id_, eos_id_;
  std::vector<int32_t> newline_ids_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(std::string serialized_model,
                                                        const std::string& name,
                                                        std::optional<std::string> chat_template) {
  return std::make_unique<SentencePieceTokenizer>(std::move(serialized_model), name,
                                                  std::move(chat_template));
}

void silence_sentencepiece() {
  static std::once_flag once;
  std::call_once(once, [] {
    // The public way to the log level is a training that sets it and then fails for want of an
    // input.
    const std::unordered_map<std::string, std::string> settings = {{"minloglevel", "3"}};
    (void)sentencepiece::SentencePieceTrainer::Train(settings);
  });
}

}  // namespace quest
