// Training a SentencePiece tokenizer.
//
// Text is taken as it is (no Unicode normalization, whitespace kept), digits are single tokens,
// unknown characters fall back to bytes and a document's end is "</s>": the conventions of Llama 2.
// The same text and options give the same model, byte for byte, on any number of cores.
//
//   train_sentencepiece({.vocab_size = 2048}, [&](std::string& text) { return source.next(text);
//   });
//
// Source: SentencePiece, arXiv 1808.06226; subword BPE, arXiv 1508.07909; unigram, arXiv
// 1804.10959.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "quest/text/tokenizer.h"

namespace quest {

struct SentencePieceOptions {
  int64_t vocab_size = 32000;      // with the 3 control tokens and the 256 bytes
  std::string model_type = "bpe";  // "bpe" or "unigram"
  double character_coverage =
      0.9995;                   // share of the text's characters that get tokens of their own
  bool byte_fallback = true;    // other characters become bytes; otherwise <unk>
  bool split_digits = true;     // each digit a token
  int64_t max_lines = 2000000;  // of a larger text, a random sample of this many lines is used
  uint64_t seed = 0;            // of that sample
};

// next_text(text) gives the next text, or false at the end. Texts are split into lines; lines above
// 4 KB at spaces.
// Throws kUsage for options out of range or a vocabulary larger (or smaller) than the text allows,
// with the largest (smallest) possible value, and kData if the text is empty.
std::unique_ptr<Tokenizer> train_sentencepiece(const SentencePieceOptions& options,
                                               const std::function<bool(std::string&)>& next_text);

}  // namespace quest
