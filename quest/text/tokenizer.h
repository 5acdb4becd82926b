// Tokenizers: text to token ids and back.
//
// Two kinds:
//  * SentencePiece (BPE or unigram): any tokenizer.model, Llama-2's as it is; with byte
//    fallback every text has tokens.
//  * bytes: vocabulary 257; ids 0 to 255 are the bytes of the UTF-8 text, 256 is end of document.
//
//   std::unique_ptr<Tokenizer> tokenizer = load_tokenizer("runs/tokenizer");   // or "bytes"
//   std::vector<int32_t> ids = tokenizer->encode("In the beginning");
//   std::string text = tokenizer->decode(ids);
//
// Thread rules: all const functions may be called from any number of threads.
// Source: SentencePiece, arXiv 1808.06226; byte fallback as in Llama 2, arXiv 2307.09288.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quest {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // The tokens of a text, without beginning- or end-of-document tokens. Strings such as "</s>" in
  // the text are text, never control tokens. Ill-formed UTF-8 is the caller's to repair
  // (sanitize_utf8); SentencePiece encodes it as U+FFFD, bytes as it is.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  // The tokens of a text that continues a document: as encode(), but a SentencePiece model that
  // puts a space before every text does not do so here. If a text is cut right before a single
  // space between two words, encode(left) followed by encode_continuation(right) is encode(left +
  // right) for any model whose pieces do not cross words (all that `train_sentencepiece` makes, and
  // Llama's).
  virtual std::vector<int32_t> encode_continuation(std::string_view text) const = 0;

  // The bytes that one token stands for: "▁the" gives " the", a byte token its byte, a control
  // token nothing. Alone they may be no well-formed UTF-8. An id outside the vocabulary throws
  // kData.
  virtual std::string_view token_bytes(int32_t id) const = 0;
  // The same for a document's first token that stands for anything: without the space that encode()
  // put in front ("▁the" gives "the").
  virtual std::string_view first_token_bytes(int32_t id) const { return token_bytes(id); }
  // How the token is written in the model, to be looked at: "▁the", "<0x0A>", "</s>".
  virtual std::string token_name(int32_t id) const = 0;
  // Text of a whole document: the tokens' bytes, without the space that encode() put in front;
  // bytes that form no UTF-8 become U+FFFD. decode(encode(text)) == text for well-formed UTF-8
  // unless the model normalizes text (Llama's and ours do not, except that the character U+2581
  // reads as a space).
  std::string decode(std::span<const int32_t> ids) const;
  virtual int64_t vocab_size() const = 0;
  virtual std::optional<int32_t> bos_id() const = 0;  // beginning of document
  virtual std::optional<int32_t> eos_id() const = 0;  // end of document
  virtual std::string kind() const = 0;               // "sentencepiece-bpe", "bytes", ...

  // 32 hexadecimal digits that identify the model: token files and checkpoints carry them, so that
  // tokens are never read with another tokenizer.
  virtual std::string fingerprint() const = 0;
  // Writes tokenizer_config.json and, for SentencePiece, tokenizer.model into an existing folder.
  virtual void save(const std::filesystem::path& folder) const = 0;
};

// From a folder (tokenizer_config.json with its checksum if there is one, tokenizer.model), a
// SentencePiece file, or the word "bytes". Throws kIo for a missing file, and kData for one that is
// no tokenizer, is damaged (its structure is proven before SentencePiece sees it), or differs from
// the fingerprint that save() wrote beside it.
std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& folder_or_file);
std::unique_ptr<Tokenizer> make_byte_tokenizer();

// Text of a token stream as it grows: never half a character.
//
//   StreamingDecoder decoder(tokenizer);
//   while (...) std::cout << decoder.push(next_id);
//   std::cout << decoder.flush();
//
// All texts returned, joined, are tokenizer.decode(all ids). Keeps a reference to the tokenizer.
class StreamingDecoder {
 public:
  explicit StreamingDecoder(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}
  // Starts in the middle of a document: the first space is not dropped.
  static StreamingDecoder continuing(const Tokenizer& tokenizer);

  std::string push(int32_t id);
  // What is held back of an unfinished character, as U+FFFD. The decoder is then as new.
  std::string flush();

 private:
  const Tokenizer& tokenizer_;
  bool at_start_ = true;
  std::string pending_;  // a begun character, at most 3 bytes
};

}  // namespace quest
