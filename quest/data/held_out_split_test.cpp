#include "quest/data/held_out_split.h"

#include <gtest/gtest.h>

#include "quest/base/testing.h"
#include "quest/text/testing_text.h"

namespace quest {
namespace {

struct Outcome {
  std::vector<TextPiece> pieces;
  int64_t bytes[2] = {0, 0};
  int documents[2] = {0, 0};
};

Outcome split_all(const std::vector<TextChunk>& chunks, double fraction, uint64_t seed = 0,
                  bool small = true) {
  int64_t total = 0;
  for (const TextChunk& chunk : chunks) total += static_cast<int64_t>(chunk.text.size());
  HeldOutSplit split(fraction, seed, small ? std::optional(total) : std::nullopt);
  Outcome outcome;
  for (const TextChunk& chunk : chunks) split.add(chunk, outcome.pieces);
  std::optional<Side> open;
  for (const TextPiece& piece : outcome.pieces) {
    const auto side = static_cast<size_t>(piece.side);
    // On each side documents begin and end properly, and one only where no other is open.
    EXPECT_EQ(piece.begins_document, !open.has_value());
    if (open) {
      EXPECT_EQ(piece.side, *open);
    }
    open = piece.ends_document ? std::nullopt : std::optional(piece.side);
    outcome.bytes[side] += static_cast<int64_t>(piece.text.size());
    outcome.documents[side] += piece.begins_document ? 1 : 0;
  }
  EXPECT_FALSE(open);
  return outcome;
}

std::string long_text(size_t bytes) {
  std::string text;
  while (text.size() < bytes) text += testing::kSampleText;
  text.resize(bytes);
  return text;
}

std::vector<TextChunk> one_document(const std::string& text, size_t chunk_bytes) {
  std::vector<TextChunk> chunks;
  for (size_t at = 0; at < text.size();) {
    const size_t size = find_text_cut(std::string_view(text).substr(at), chunk_bytes);
    chunks.push_back({text.substr(at, size), at == 0, at + size == text.size()});
    at += size;
  }
  return chunks;
}

double share(const Outcome& outcome) {
  return static_cast<double>(outcome.bytes[1]) /
         static_cast<double>(outcome.bytes[0] + outcome.bytes[1]);
}

TEST(HeldOutSplit, CutsPassagesOutOfASingleText) {
  const std::string text = long_text(4000000);
  for (const double fraction : {0.01, 0.05, 0.2, 0.5}) {
    const Outcome outcome = split_all(one_document(text, 256 << 10), fraction);
    EXPECT_NEAR(share(outcome), fraction, 0.02 * fraction);
    EXPECT_EQ(outcome.documents[1], 8);
    EXPECT_LE(outcome.documents[0], 9);
    // Nothing is lost but the spaces at the cuts.
    std::string joined;
    for (const TextPiece& piece : outcome.pieces) {
      if (piece.begins_document && !joined.empty()) joined += ' ';
      joined += piece.text;
    }
    EXPECT_EQ(joined, text);
  }
}

TEST(HeldOutSplit, KeepsShortDocumentsWhole) {
  std::vector<TextChunk> chunks;
  for (int i = 0; i < 3000; ++i)
    chunks.push_back({long_text(static_cast<size_t>(100 + i)), true, true});
  for (const bool small : {true, false}) {
    const Outcome outcome = split_all(chunks, 0.05, 1, small);
    EXPECT_EQ(outcome.pieces.size(), chunks.size());
    for (size_t i = 0; i < chunks.size(); ++i) ASSERT_EQ(outcome.pieces[i].text, chunks[i].text);
    EXPECT_NEAR(share(outcome), 0.05, small ? 0.01 : 0.012);
  }
}

TEST(HeldOutSplit, HandlesAFewDocumentsOfAnySize) {
  std::vector<TextChunk> chunks = {
      {long_text(7000), true, true}, {long_text(90), true, true}, {long_text(30000), true, true}};
  const Outcome outcome = split_all(chunks, 0.1);
  EXPECT_NEAR(share(outcome), 0.1, 0.03);
  const Outcome tiny = split_all({{long_text(2000), true, true}}, 0.05);
  EXPECT_GT(tiny.bytes[1], 50);
  EXPECT_GT(tiny.bytes[0], 1800);
}

TEST(HeldOutSplit, DependsOnSeedOnly) {
  const auto chunks = one_document(long_text(300000), 50000);
  const auto held_out = [&](uint64_t seed) {
    std::string text;
    for (const TextPiece& piece : split_all(chunks, 0.1, seed).pieces) {
      if (piece.side == Side::kValidation) text += piece.text;
    }
    return text;
  };
  EXPECT_EQ(held_out(1), held_out(1));
  EXPECT_NE(held_out(1), held_out(2));
}

TEST(HeldOutSplit, FractionZeroHoldsNothingOut) {
  const auto chunks = one_document(long_text(300000), 50000);
  const Outcome outcome = split_all(chunks, 0);
  EXPECT_EQ(outcome.pieces.size(), chunks.size());
  EXPECT_EQ(outcome.bytes[1], 0);
}

TEST(HeldOutSplit, RefusesWhatCannotBe) {
  EXPECT_QUEST_ERROR(HeldOutSplit(0.6, 0, std::nullopt), ErrorKind::kUsage, "0.6");
  EXPECT_QUEST_ERROR(HeldOutSplit(-0.1, 0, std::nullopt), ErrorKind::kUsage, "-0.1");
  EXPECT_QUEST_ERROR(HeldOutSplit(0.05, 0, 100), ErrorKind::kData, "only 100 bytes, of");
  EXPECT_QUEST_ERROR(HeldOutSplit(0.05, 0, 1), ErrorKind::kData, "only 1 byte, of");
}

}  // namespace
}  // namespace quest
