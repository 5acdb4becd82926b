// Text to the tokens of a SentencePiece model, without SentencePiece: what the library's processor
// computes, id for id, so that programs that only read a model carry no library for it.
//
//   SentencePieceEncoder encoder(parse_sentencepiece_model(bytes, "tokenizer.model"), name);
//   std::vector<int32_t> ids = encoder.encode("In the beginning");
//
// Steps: the normalization table (longest rule first; ill-formed UTF-8 becomes U+FFFD), spaces to
// U+2581 with one in front; then BPE merges, or the most probable pieces of a unigram model, or
// words, or characters; an unknown character becomes its bytes or the unknown token. Text that
// reads like a control token is unknown text, where SentencePiece fails.
//
// Thread rules: const functions may be called from any number of threads.
// Source: SentencePiece 0.1.97 (arXiv 1808.06226), whose results the tests compare with.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "quest/text/sentencepiece_model.h"

namespace quest {

// Strings to numbers, walked byte by byte.
class PieceTrie {
 public:
  // The strings must differ.
  explicit PieceTrie(std::vector<std::pair<std::string_view, int32_t>> entries = {});

  static constexpr int32_t kRoot = 0;
  // The node that `byte` leads to; -1: none.
  int32_t child(int32_t node, char byte) const;
  // The number of the string that ends at the node; -1: none does.
  int32_t value(int32_t node) const { return nodes_[static_cast<size_t>(node)].value; }
  // Bytes of the longest string at the front of `text`; 0: none.
  size_t longest_prefix(std::string_view text) const;

 private:
  struct Node {
    int32_t first_child = 0, children = 0, value = -1;
  };
  std::vector<Node> nodes_;
  std::vector<uint8_t> labels_;  // of each node: the byte that leads to it; rising among siblings
};

class SentencePieceEncoder {
 public:
  // Throws kData where pieces are listed twice, or unknown token or byte pieces are missing; `name`
  // is the model's file, for the message.
  SentencePieceEncoder(SentencePieceModel model, const std::string& name);
  SentencePieceEncoder(const SentencePieceEncoder&) = delete;  // it holds views of its own strings
  SentencePieceEncoder& operator=(const SentencePieceEncoder&) = delete;

  // Throws kUsage if the normalized text has 2^31 bytes or more.
  std::vector<int32_t> encode(std::string_view text) const;
  // The token with that name if it is a control token.
  std::optional<int32_t> control_id(const std::string& name) const;
  const SentencePieceModel& model() const { return model_; }

 private:
  class Ids;
  using PieceMap = std::unordered_map<std::string_view, int32_t>;

  const SentencePieceModel::Piece& piece(int32_t id) const {
    return model_.pieces[static_cast<size_t>(id)];
  }
  void list_pieces(const std::string& name);
  void list_bytes(const std::string& name);
  int32_t id_of(std::string_view text) const;  // of a piece of text, or the unknown token
  // What stands at the front of `text`, normalized, and how many bytes it was.
  std::pair<std::string_view, size_t> normalize_front(std::string_view text) const;
  std::string normalize(std::string_view text) const;
  // Bytes of the user-defined piece or the character at the front.
  size_t symbol_length(std::string_view text, bool& is_user_defined) const;
  void encode_bpe(std::string_view text, Ids& ids) const;
  void encode_unigram(std::string_view text, Ids& ids) const;
  void encode_words(std::string_view text, Ids& ids) const;
  void encode_characters(std::string_view text, Ids& ids) const;

  SentencePieceModel model_;
  PieceMap pieces_;    // normal, user-defined and unused ones
  PieceMap reserved_;  // the others
  PieceTrie user_defined_;
  PieceTrie unigram_;              // of pieces_, for a unigram model
  std::vector<uint32_t> rules_;    // the normalization table's trie
  std::string_view replacements_;  // and its texts
  std::array<int32_t, 256> byte_ids_ = {};
  int32_t unknown_id_ = -1;
  float min_score_ = 0, max_score_ = 0;  // of normal pieces
};

}  // namespace quest
