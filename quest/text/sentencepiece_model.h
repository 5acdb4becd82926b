// A look into a SentencePiece model file before SentencePiece loads it.
//
// SentencePiece trusts its file: a damaged table can make it read outside its memory or end the
// process. parse_sentencepiece_model proves the structure (protocol buffer wire format; pieces
// present, unique by SentencePiece's own check, of known type, with finite scores; the double-array
// trie of a normalization table closed in itself) and hands out what the tokenizer needs to know of
// it.
//
// Source: sentencepiece_model.proto of SentencePiece 0.1.97; trie layout of darts-clone 0.32.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quest {

enum class PieceType {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

struct SentencePieceModel {
  struct Piece {
    std::string text;
    PieceType type = PieceType::kNormal;
  };
  std::vector<Piece> pieces;
  std::string model_type;                          // "unigram", "bpe", "word" or "char"
  std::string unknown_surface = " \xE2\x81\x87 ";  // text of the unknown token
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
};

// Throws kData; `name` is the file, for the message.
SentencePieceModel parse_sentencepiece_model(std::string_view serialized, const std::string& name);

}  // namespace quest
