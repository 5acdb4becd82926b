#include "quest/runtime/generator.h"

#include <gtest/gtest.h>

#include "quest/base/testing.h"
#include "quest/runtime/counting_engine_testing.h"

namespace quest {
namespace {

using testing::CountingEngine;

class GeneratorTest : public ::testing::Test {
 protected:
  Generation generate(const std::string& prompt) {
    pieces.clear();
    return generator.generate(tokenizer->encode(prompt), settings, [&](std::string_view text) {
      if (!text.empty()) pieces.emplace_back(text);
      return ++asked < give_up;
    });
  }
  GeneratorTest() { settings.sampler.temperature = 0; }

  CountingEngine engine;
  std::unique_ptr<Tokenizer> tokenizer = make_byte_tokenizer();
  Generator generator{engine, *tokenizer};
  GenerationSettings settings;
  std::vector<std::string> pieces;
  int asked = 0, give_up = 1000000;
};

TEST_F(GeneratorTest, WritesUntilEachReason) {
  settings.max_tokens = 5;
  Generation g = generate("ab");
  EXPECT_EQ(g.text, "cdefg");
  EXPECT_EQ(g.reason, EndReason::kMaxTokens);
  EXPECT_EQ(g.tokens.size(), 5u);
  settings.stop = {"zz", "ef"};
  g = generate("ab");
  EXPECT_EQ(g.text, "cd");
  EXPECT_EQ(g.reason, EndReason::kStopString);
  settings.stop = {"fx"};  // held back, then given out
  EXPECT_EQ(generate("ab").text, "cdefg");
  settings.stop = {};
  engine.script['d'] = 256;
  g = generate("ab");
  EXPECT_EQ(g.text, "cd");
  EXPECT_EQ(g.reason, EndReason::kEndToken);
  EXPECT_EQ(g.tokens.size(), 2u);
  settings.ignore_end = true;
  engine.script[256] = 'x';
  EXPECT_EQ(generate("ab").text, "cdxy");  // 5 tokens, one of them the end
  settings.ignore_end = false;
  settings.end_tokens = {'c'};
  EXPECT_EQ(generate("ab").text, "");
  settings.end_tokens = {};
  settings.max_tokens = 100;
  engine.script.clear();
  g = generate(std::string(60, 'a'));
  EXPECT_EQ(g.text, "bcde");
  EXPECT_EQ(g.reason, EndReason::kContextFull);
  asked = 0;
  give_up = 4;
  g = generate("ab");
  EXPECT_EQ(g.reason, EndReason::kCancelled);
  EXPECT_LE(g.text.size(), 2u);
}

TEST_F(GeneratorTest, ReadsOnlyWhatIsNew) {
  settings.max_tokens = 3;
  EXPECT_EQ(generate("abcd").text, "efg");
  EXPECT_EQ(engine.prefilled, 4);
  // Held: a b c d e f; the last token written was never read.
  const Generation g = generate("abcdefgh");
  EXPECT_EQ(g.text, "ijk");
  EXPECT_EQ(g.statistics.reused_tokens, 6);
  EXPECT_EQ(engine.prefilled, 6);
  EXPECT_EQ(generate("abX").text, "YZ[");
  EXPECT_EQ(engine.prefilled, 7);
  EXPECT_EQ(generate("abX").text, "YZ[");  // the last token is always read
  EXPECT_EQ(engine.prefilled, 8);
}

TEST_F(GeneratorTest, PiecesAreWholeCharacters) {
  settings.max_tokens = 6;
  settings.echo = true;
  // "aé" as bytes 61 c3 a9, then 漢 = e6 bc a2; the prompt ends inside é.
  engine.script[0xc3] = 0xa9;
  engine.script[0xa9] = 0xe6;
  engine.script[0xe6] = 0xbc;
  engine.script[0xbc] = 0xa2;
  engine.script[0xa2] = 0xe6;
  const Generation g = generate("a\xc3");
  EXPECT_EQ(g.text, "aé漢\uFFFD\uFFFD");  // two bytes of a third character
  EXPECT_EQ(pieces, (std::vector<std::string>{"a", "é", "漢", "\uFFFD\uFFFD"}));
}

TEST_F(GeneratorTest, ExceptionsLeaveItUsable) {
  settings.max_tokens = 2;
  EXPECT_THROW(generator.generate(tokenizer->encode("abcdef"), settings,
                                  [](std::string_view text) -> bool {
                                    if (!text.empty()) throw Error(ErrorKind::kIo, "full");
                                    return true;
                                  }),
               Error);
  EXPECT_EQ(generate("abcdef").text, "gh");
  EXPECT_QUEST_ERROR(generate(std::string(64, 'a')), ErrorKind::kUsage, "64");
  EXPECT_QUEST_ERROR(generate(""), ErrorKind::kUsage, "no tokens");
  settings.max_tokens = 0;
  EXPECT_QUEST_ERROR(generate("a"), ErrorKind::kUsage, "max_tokens");
}

TEST(EncodePrompt, AnEmptyOneStartsADocument) {
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_EQ(encode_prompt(*tokenizer, ""), (std::vector<int32_t>{256}));
  EXPECT_EQ(encode_prompt(*tokenizer, "a"), (std::vector<int32_t>{'a'}));
}

TEST(Generator, RefusesAnotherModelsTokenizer) {
  CountingEngine engine(100);
  const auto tokenizer = make_byte_tokenizer();
  EXPECT_QUEST_ERROR(Generator(engine, *tokenizer), ErrorKind::kUsage, "257");
}

}  // namespace
}  // namespace quest
