// Encoding against SentencePiece itself: trained models of all kinds, and small random models with
// equal scores, user-defined and unused pieces.
#include "quest/text/sentencepiece_encoder.h"

#include <random>
#include <set>

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include "quest/base/testing.h"
#include "quest/text/testing_text.h"
#include "quest/text/utf8.h"

namespace quest {
namespace {

using testing::kSampleText;
using Random = std::mt19937;

// Both readers of one model.
class Twin {
 public:
  explicit Twin(const std::string& serialized)
      : encoder_(parse_sentencepiece_model(serialized, "m.model"), "m.model") {
    const auto status = reference_.LoadFromSerializedProto(serialized);
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  void expect_equal(std::string_view text) const {
    std::vector<int> expected;
    const std::vector<int32_t> ids = encoder_.encode(text);
    if (!reference_.Encode(text, &expected).ok()) {  // a character with the name of a control token
      for (const int32_t id : ids) ASSERT_FALSE(reference_.IsControl(id));
      return;
    }
    ASSERT_EQ(ids, expected) << ::testing::PrintToString(std::string(text));
    ++compared;
  }
  void expect_equal_control_ids() const {
    const SentencePieceModel& model = encoder_.model();
    EXPECT_EQ(encoder_.control_id(model.bos_piece).value_or(-1), reference_.bos_id());
    EXPECT_EQ(encoder_.control_id(model.eos_piece).value_or(-1), reference_.eos_id());
  }

  static inline int compared = 0;

 private:
  sentencepiece::SentencePieceProcessor reference_;
  SentencePieceEncoder encoder_;
};

std::string train(const std::string& settings) {
  struct Lines final : sentencepiece::SentenceIterator {
    bool done() const override { return at_ >= lines_.size(); }
    void Next() override { ++at_; }
    const std::string& value() const override { return lines_[at_]; }
    sentencepiece::util::Status status() const override { return {}; }
    std::vector<std::string> lines_;
    size_t at_ = 0;
  } lines;
  for (std::string_view rest = kSampleText; !rest.empty();) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    lines.lines_.emplace_back(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  std::string model;
  const auto status =
      sentencepiece::SentencePieceTrainer::Train("--minloglevel=3 " + settings, &lines, &model);
  EXPECT_TRUE(status.ok()) << settings << ": " << status.ToString();
  return model;
}

// Pieces of the sample, spaces, other scripts, characters that NFKC rewrites, broken bytes.
std::string random_text(Random& random) {
  static const std::vector<std::string> kSpecial = {" ",
                                                    "  ",
                                                    "\t",
                                                    "\n",
                                                    "\r\n",
                                                    "\xE3\x80\x80",
                                                    "\xC2\xA0",
                                                    "\xE2\x96\x81",
                                                    "<s>",
                                                    "</s>",
                                                    "<unk>",
                                                    "<0x41>",
                                                    "<user>",
                                                    "[END]",
                                                    "\xEF\xBC\xA1",
                                                    "\xEF\xAC\x81",
                                                    "\xC3\xA9",
                                                    "e\xCC\x81",
                                                    "\xF0\x9F\x99\x82",
                                                    "\xE4\xBD\xA0",
                                                    "\xE2\x84\xA2",
                                                    "\xEF\xBF\xBD",
                                                    "\xC3",
                                                    "\xED\xA0\x80",
                                                    "\xF4\x90\x80\x80",
                                                    "\xF0\x9F",
                                                    "\x80",
                                                    std::string(1, '\0'),
                                                    "0123",
                                                    "\xE2\x85\xA7"};
  std::string text;
  for (int parts = static_cast<int>(random() % 12); parts >= 0; --parts) {
    if (random() % 2 == 0) {
      text += kSpecial[random() % kSpecial.size()];
    } else {
      text += kSampleText.substr(random() % kSampleText.size(), random() % 40);
    }
  }
  return text;
}

TEST(SentencePieceEncoder, EqualsSentencePieceOnTrainedModels) {
  const std::string bpe = "--vocab_size=400 --model_type=bpe ";
  const std::string unigram = "--vocab_size=400 --model_type=unigram --hard_vocab_limit=false ";
  const std::string plain =
      "--normalization_rule_name=identity --remove_extra_whitespaces=false "
      "--allow_whitespace_only_pieces=true --split_digits=true ";
  const std::string symbols = "--user_defined_symbols=<user>,[END],[ ";
  for (const std::string& settings :
       {bpe + plain + "--byte_fallback=true", bpe + "--byte_fallback=true " + symbols, bpe + plain,
        bpe + "--bos_id=-1 --add_dummy_prefix=false", unigram + plain + "--byte_fallback=true",
        unigram + symbols, unigram + "--byte_fallback=true --eos_piece=[EOS]",
        unigram + "--remove_extra_whitespaces=false " + symbols,
        std::string("--vocab_size=300 --model_type=word"),
        "--vocab_size=60 --model_type=char --character_coverage=0.98 " + symbols}) {
    SCOPED_TRACE(settings);
    const Twin twin(train(settings));
    twin.expect_equal_control_ids();
    twin.expect_equal("");
    twin.expect_equal(kSampleText);
    Random random(1);
    for (int i = 0; i < 1500; ++i) ASSERT_NO_FATAL_FAILURE(twin.expect_equal(random_text(random)));
  }
}

// Protocol buffer messages by hand; lengths and numbers are below 2^28.
std::string varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  return out + static_cast<char>(value);
}
std::string number(uint64_t field, uint64_t value) { return varint(field << 3) + varint(value); }
std::string bytes(uint64_t field, const std::string& content) {
  return varint(field << 3 | 2) + varint(content.size()) + content;
}
std::string piece(const std::string& text, PieceType type, float score = 0) {
  std::string raw(sizeof(score), '\0');
  std::memcpy(raw.data(), &score, sizeof(score));
  return bytes(1,
               bytes(1, text) + varint(2 << 3 | 5) + raw + number(3, static_cast<uint64_t>(type)));
}

std::string letters(Random& random, size_t most) {
  static const std::vector<std::string> kLetters = {"a", "b", "\xC3\xA4", "\xE2\x96\x81"};
  std::string text;
  for (size_t n = 1 + random() % most; n > 0; --n) text += kLetters[random() % kLetters.size()];
  return text;
}

std::string random_model(Random& random, uint64_t kind) {
  std::string model = piece("<unk>", PieceType::kUnknown) + piece("<s>", PieceType::kControl);
  if (random() % 4 == 0) model += piece("b", PieceType::kControl);  // a name that texts hold
  const bool has_bytes = random() % 2 == 0;
  for (int byte = 0; has_bytes && byte < 256; ++byte) {
    model += piece(fmt::format("<0x{:02X}>", byte), PieceType::kByte);
  }
  std::set<std::string> seen;
  const size_t count = 4 + random() % 40;
  while (seen.size() < count) {
    const std::string text = letters(random, 5);
    if (!seen.insert(text).second) continue;
    const uint32_t draw = random() % 10;
    const PieceType type = draw == 0  ? PieceType::kUserDefined
                           : draw < 4 ? PieceType::kUnused
                                      : PieceType::kNormal;
    model += piece(text, type, -1.0f - 0.5f * static_cast<float>(random() % 6));  // many equal
  }
  return model + bytes(2, number(3, kind) + number(35, has_bytes ? 1 : 0)) +
         bytes(3, number(3, random() % 2) + number(4, random() % 2));
}

TEST(SentencePieceEncoder, EqualsSentencePieceOnRandomModels) {
  Random random(2);
  Twin::compared = 0;
  for (int i = 0; i < 400; ++i) {
    const Twin twin(random_model(random, 1 + i % 4));
    for (int j = 0; j < 30; ++j) {
      std::string text = letters(random, 30);
      if (j % 5 == 0) text += " c " + letters(random, 3);
      ASSERT_NO_FATAL_FAILURE(twin.expect_equal(text)) << "model " << i;
    }
  }
  EXPECT_GT(Twin::compared, 10000);  // of 12000
}

TEST(SentencePieceEncoder, RefusesPiecesThatCannotBe) {
  const auto make = [](const std::string& pieces, uint64_t byte_fallback = 0) {
    const std::string model = pieces + bytes(2, number(3, 2) + number(35, byte_fallback));
    SentencePieceEncoder(parse_sentencepiece_model(model, "m.model"), "m.model");
  };
  const std::string unknown = piece("<unk>", PieceType::kUnknown);
  const std::string a = piece("a", PieceType::kNormal);
  EXPECT_NO_THROW(make(unknown + a));
  EXPECT_QUEST_ERROR(make(a), ErrorKind::kData, "no unknown token");
  EXPECT_QUEST_ERROR(make(unknown), ErrorKind::kData, "no pieces of text");
  EXPECT_QUEST_ERROR(make(unknown + a + a), ErrorKind::kData, "'a' is listed twice");
  EXPECT_QUEST_ERROR(make(unknown + a + piece("<u>", PieceType::kUnknown)), ErrorKind::kData,
                     "pieces 0 and 2");
  EXPECT_QUEST_ERROR(make(unknown + a, 1), ErrorKind::kData, "0 byte pieces");
  EXPECT_QUEST_ERROR(make(unknown + a + piece("<0x41>", PieceType::kByte)), ErrorKind::kData,
                     "1 byte pieces");
  EXPECT_QUEST_ERROR(make(unknown + a + piece("<0x4a>", PieceType::kByte), 1), ErrorKind::kData,
                     "1 byte pieces, 0 of them");
}

TEST(PieceTrie, FindsTheLongestPrefix) {
  const PieceTrie trie({{"ab", 0}, {"abcd", 1}, {"\xFF", 2}, {"b", 3}});
  EXPECT_EQ(trie.longest_prefix("abcx"), 2u);
  EXPECT_EQ(trie.longest_prefix("abcde"), 4u);
  EXPECT_EQ(trie.longest_prefix("\xFFz"), 1u);
  EXPECT_EQ(trie.longest_prefix("a"), 0u);
  EXPECT_EQ(trie.longest_prefix(""), 0u);
  EXPECT_EQ(PieceTrie().longest_prefix("a"), 0u);
}

}  // namespace
}  // namespace quest
