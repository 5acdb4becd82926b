#include "quest/text/sentencepiece_model.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "quest/base/testing.h"

namespace quest {
namespace {

// Protocol buffer messages by hand; all lengths and numbers here are below 2^28.
std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string number(uint64_t field, uint64_t value) { return varint(field << 3) + varint(value); }
std::string bytes(uint64_t field, const std::string& content) {
  return varint(field << 3 | 2) + varint(content.size()) + content;
}
template <class T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}
std::string piece(const std::string& text, uint64_t type, float score = 0) {
  return bytes(1, bytes(1, text) + varint(2 << 3 | 5) + raw(score) + number(3, type));
}
const std::string kPieces = piece("<unk>", 2) + piece("a", 1, -1.5f);
const std::string kBpe = bytes(2, number(3, 2));

SentencePieceModel parse(const std::string& serialized) {
  return parse_sentencepiece_model(serialized, "m.model");
}

TEST(SentencePieceModel, ReadsWhatTheTokenizerNeeds) {
  const SentencePieceModel model = parse(kPieces + bytes(2, number(3, 2) + bytes(44, "??")) +
                                         bytes(3, number(3, 0) + number(4, 0)));
  ASSERT_EQ(model.pieces.size(), 2u);
  EXPECT_EQ(model.pieces[0].type, PieceType::kUnknown);
  EXPECT_EQ(model.pieces[1].text, "a");
  EXPECT_EQ(model.model_type, "bpe");
  EXPECT_EQ(model.unknown_surface, "??");
  EXPECT_FALSE(model.add_dummy_prefix);
  EXPECT_FALSE(model.remove_extra_whitespaces);
  EXPECT_TRUE(parse(kPieces + kBpe).add_dummy_prefix);
  EXPECT_EQ(parse(kPieces + bytes(2, "")).model_type, "unigram");
}

TEST(SentencePieceModel, RefusesDamage) {
  EXPECT_QUEST_ERROR(parse(""), ErrorKind::kData, "0 pieces");
  EXPECT_QUEST_ERROR(parse(kPieces), ErrorKind::kData, "no trainer settings");
  EXPECT_QUEST_ERROR(parse(kPieces + kBpe + "\x0A\x7F"), ErrorKind::kData, "ends beyond");
  EXPECT_QUEST_ERROR(parse(kPieces + kBpe + std::string(1, '\0')), ErrorKind::kData, "number");
  EXPECT_QUEST_ERROR(parse(kPieces + kBpe + "\x0B"), ErrorKind::kData, "unknown wire type");
  EXPECT_QUEST_ERROR(parse(kPieces + kBpe + std::string(11, '\xFF')), ErrorKind::kData, "64 bits");
  EXPECT_QUEST_ERROR(parse(kPieces + number(1, 3) + kBpe), ErrorKind::kData, "wire type 0");
  EXPECT_QUEST_ERROR(parse(kPieces + piece("", 1) + kBpe), ErrorKind::kData, "piece 2 is empty");
  EXPECT_QUEST_ERROR(parse(kPieces + piece("\xFF", 1) + kBpe), ErrorKind::kData, "piece 2");
  EXPECT_QUEST_ERROR(parse(piece(std::string("a\0b", 3), 1) + kBpe), ErrorKind::kData, "piece 0");
  EXPECT_QUEST_ERROR(parse(piece("a", 7) + kBpe), ErrorKind::kData, "unknown type 7");
  EXPECT_QUEST_ERROR(parse(piece("a", 1, std::nanf("")) + kBpe), ErrorKind::kData, "score");
  EXPECT_QUEST_ERROR(parse(piece("a", 1, std::numeric_limits<float>::infinity()) + kBpe),
                     ErrorKind::kData, "score");
  EXPECT_QUEST_ERROR(parse(kPieces + bytes(2, number(3, 5))), ErrorKind::kData, "model type 5");
}

TEST(SentencePieceModel, RefusesWhatIsNotSupported) {
  EXPECT_QUEST_ERROR(parse(kPieces + bytes(2, number(24, 1))), ErrorKind::kData, "suffix");
  EXPECT_QUEST_ERROR(parse(kPieces + kBpe + bytes(3, number(5, 0))), ErrorKind::kData,
                     "escape_whitespaces");
  EXPECT_QUEST_ERROR(parse(kPieces + kBpe + bytes(5, bytes(2, "x"))), ErrorKind::kData,
                     "denormalizer");
}

std::string with_table(const std::string& table) {
  return kPieces + kBpe + bytes(3, bytes(2, table));
}

std::string table_of(const std::vector<uint32_t>& units, const std::string& texts) {
  std::string table = raw(static_cast<uint32_t>(units.size() * 4));
  for (const uint32_t unit : units) table += raw(unit);
  return table + texts;
}

// Units of a double array: bits 10 to 30 are an offset (times 256 if bit 9 is set), bit 8 says that
// the unit at p xor offset holds a value, bit 31 marks such a unit.
TEST(SentencePieceModel, ProvesTheNormalizationTable) {
  const std::string texts("abc\0", 4);
  std::vector<uint32_t> units(512);
  units[0] = 5u << 10 | 1u << 8;  // its value is in unit 5
  units[5] = 1u << 31 | 3;
  EXPECT_NO_THROW(parse(with_table(table_of(units, texts))));

  auto bad = units;
  bad[5] = 1u << 31 | 4;
  EXPECT_QUEST_ERROR(parse(with_table(table_of(bad, texts))), ErrorKind::kData,
                     "outside its texts");
  for (const uint32_t unit : {512u << 10, 2u << 10 | 1u << 9, 0x1FFFFFu << 10}) {
    for (const size_t at : {size_t{0}, size_t{300}, size_t{511}}) {
      bad = units;
      bad[at] = unit;
      EXPECT_QUEST_ERROR(parse(with_table(table_of(bad, texts))), ErrorKind::kData,
                         "outside itself");
    }
  }
  bad = units;
  bad[100] = 1u << 9 | 1u << 10;  // offset 256
  EXPECT_NO_THROW(parse(with_table(table_of(bad, texts))));
  bad.resize(300);  // not whole blocks of 256
  EXPECT_QUEST_ERROR(parse(with_table(table_of(bad, texts))), ErrorKind::kData, "outside itself");

  EXPECT_QUEST_ERROR(parse(with_table(table_of(units, "abc"))), ErrorKind::kData,
                     "end with a text");
  EXPECT_QUEST_ERROR(parse(with_table(table_of(units, ""))), ErrorKind::kData, "wrong size");
  EXPECT_QUEST_ERROR(parse(with_table("abc")), ErrorKind::kData, "too short");
  EXPECT_QUEST_ERROR(parse(with_table(raw(uint32_t{6}) + std::string(20, '\0'))), ErrorKind::kData,
                     "wrong size");
  EXPECT_QUEST_ERROR(parse(with_table(raw(~uint32_t{0}) + std::string(20, '\0'))), ErrorKind::kData,
                     "wrong size");
}

}  // namespace
}  // namespace quest
