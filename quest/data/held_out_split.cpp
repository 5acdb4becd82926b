#include "quest/data/held_out_split.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quest/base/error.h"
#include "quest/base/philox.h"
#include "quest/base/progress.h"

namespace quest {
namespace {

constexpr uint64_t kSplitStream =
    0x68656c646f7574;  // keeps these draws apart from others of the seed
constexpr double kSharesOfWholeDocument = 4;
constexpr double kStratumPartOfWholeDocument = 1.0 / 64;

}  // namespace

HeldOutSplit::HeldOutSplit(double fraction, uint64_t seed, std::optional<int64_t> total_bytes)
    : fraction_(fraction), seed_(seed) {
  QUEST_CHECK(fraction >= 0 && fraction <= 0.5, ErrorKind::kUsage,
              "validation fraction {} is out of range, allowed are 0 to 0.5", fraction);
  stratum_bytes_ = static_cast<double>(kStratumBytes);
  if (total_bytes && *total_bytes < kSmallTextBytes) {
    const auto total = static_cast<double>(*total_bytes);
    QUEST_CHECK(fraction == 0 || total * fraction >= static_cast<double>(kMinHeldOutBytes),
                ErrorKind::kData,
                "the text has only {}, of which {} cannot be held out; give more text, or a "
                "validation fraction of 0",
                format_count(*total_bytes, "byte"), fraction);
    stratum_bytes_ = total / static_cast<double>(kStrataOfSmallText);
  }
  whole_document_bytes_ = static_cast<int64_t>(
      stratum_bytes_ * std::max(kSharesOfWholeDocument * fraction, kStratumPartOfWholeDocument));
  begin_stratum(0);
}

void HeldOutSplit::begin_stratum(int64_t stratum) {
  stratum_ = stratum;
  if (fraction_ == 0) {
    next_start_ = std::numeric_limits<int64_t>::max();
    return;
  }
  const double place = Philox(seed_, kSplitStream).uniform(static_cast<uint64_t>(stratum));
  next_start_ = static_cast<int64_t>(stratum_bytes_ *
                                     (static_cast<double>(stratum) + place * (1 - fraction_)));
}

int64_t HeldOutSplit::wanted_bytes() const {
  const double share = fraction_ * stratum_bytes_ * static_cast<double>(stratum_ + 1);
  return static_cast<int64_t>(std::ceil(share)) - held_out_;
}

bool HeldOutSplit::holding_out() {
  while (next_start_ <= position_) {
    if (wanted_bytes() > 0) return true;
    begin_stratum(stratum_ + 1);
  }
  return false;
}

void HeldOutSplit::add(TextChunk chunk, std::vector<TextPiece>& pieces) {
  const auto size = static_cast<int64_t>(chunk.text.size());
  if (chunk.begins_document && chunk.ends_document && size <= whole_document_bytes_) {
    const bool reached = next_start_ < position_ + size && wanted_bytes() > 0;
    const Side side = holding_out() || reached ? Side::kValidation : Side::kTrain;
    emit(std::move(chunk.text), side, true, pieces);
    return;
  }
  std::string rest = std::move(chunk.text);
  while (!rest.empty()) {
    const bool hold = holding_out();
    const Side side = hold ? Side::kValidation : Side::kTrain;
    const auto limit = static_cast<size_t>(hold ? wanted_bytes() : next_start_ - position_);
    if (limit >= rest.size()) {
      emit(std::move(rest), side, chunk.ends_document, pieces);
      return;
    }
    const size_t cut = find_text_cut(rest, limit);
    std::string tail = rest.substr(cut);
    rest.resize(cut);
    emit(std::move(rest), side, tail.empty() && chunk.ends_document, pieces);
    rest = std::move(tail);
    // The other side goes on from the place of the cut; the few bytes too few are made up for
    // later.
    if (hold) {
      begin_stratum(stratum_ + 1);
    } else {
      next_start_ = position_;
    }
  }
}

void HeldOutSplit::emit(std::string text, Side side, bool ends, std::vector<TextPiece>& pieces) {
  const auto size = static_cast<int64_t>(text.size());
  position_ += size;
  if (side == Side::kValidation) held_out_ += size;
  if (open_side_ && *open_side_ != side) {
    pieces.push_back({.text = {}, .side = *open_side_, .begins_document = false});
    open_side_.reset();
    if (text.starts_with(' ')) text.erase(0, 1);
  }
  const bool begins = !open_side_;
  if (begins && text.empty()) return;
  pieces.push_back({std::move(text), side, begins, ends});
  open_side_ = ends ? std::nullopt : std::optional(side);
}

}  // namespace quest
