// Which text is held out for validation.
//
// The text, in reading order, is seen as one line of bytes and divided into strata of 1 MiB; a text
// below 8 MiB, into 8 equal ones. In each stratum a position is drawn (by seed), and from there on
// text is held out until validation has its fraction of everything up to the stratum's end. A
// document that lies wholly in one chunk and is not much larger than a stratum's share (4 shares,
// or 1/64 of the stratum) is held out whole; of a longer one a passage is cut out, at spaces where
// possible. The passage and what remains on either side become documents of their own; the space at
// a cut is dropped.
//
//   HeldOutSplit split(0.05, seed, total_bytes_or_nothing);
//   for (TextChunk chunk; source.next(chunk);) split.add(std::move(chunk), pieces);
//
// Deterministic: a function of the text, the chunks, the fraction and the seed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quest/data/text_source.h"

namespace quest {

enum class Side { kTrain, kValidation };

struct TextPiece {
  std::string text = {};  // empty only to end a document
  Side side = Side::kTrain;
  bool begins_document = true;
  bool ends_document = true;
};

class HeldOutSplit {
 public:
  static constexpr int64_t kStratumBytes = int64_t{1} << 20;
  static constexpr int64_t kStrataOfSmallText = 8;
  // Texts from here on need no known size.
  static constexpr int64_t kSmallTextBytes = kStratumBytes * kStrataOfSmallText;
  // A held-out part below this says nothing.
  static constexpr int64_t kMinHeldOutBytes = 64;

  // total_bytes is needed of a text below kSmallTextBytes. Throws kUsage for a fraction outside
  // [0, 0.5], kData for a text too small to hold out kMinHeldOutBytes.
  HeldOutSplit(double fraction, uint64_t seed, std::optional<int64_t> total_bytes);

  // Appends the chunk's pieces, in order.
  void add(TextChunk chunk, std::vector<TextPiece>& pieces);

 private:
  void begin_stratum(int64_t stratum);
  bool holding_out();
  int64_t wanted_bytes() const;  // that validation lacks up to this stratum's end
  void emit(std::string text, Side side, bool ends, std::vector<TextPiece>& pieces);

  double fraction_;
  uint64_t seed_;
  double stratum_bytes_;
  int64_t whole_document_bytes_;

  int64_t stratum_ = 0;
  int64_t next_start_ = 0;         // position where holding out begins in this stratum
  int64_t position_ = 0;           // bytes seen
  int64_t held_out_ = 0;           // bytes held out
  std::optional<Side> open_side_;  // where a document has begun and not ended
};

}  // namespace quest
