#include "quest/text/tokenizer.h"

#include <cstdlib>
#include <random>
#include <set>

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/testing.h"
#include "quest/text/sentencepiece_tokenizer.h"
#include "quest/text/testing_text.h"
#include "quest/text/tokenizer_config.h"
#include "quest/text/train_sentencepiece.h"
#include "quest/text/utf8.h"

namespace quest {
namespace {

using testing::kSampleText;
using testing::TemporaryFolder;

std::unique_ptr<Tokenizer> train(const SentencePieceOptions& options,
                                 std::string_view text = kSampleText) {
  bool given = false;
  return train_sentencepiece(options, [&](std::string& next) {
    if (std::exchange(given, true)) return false;
    next = text;
    return true;
  });
}

const Tokenizer& sample_tokenizer() {
  static const std::unique_ptr<Tokenizer> tokenizer = train({.vocab_size = 500});
  return *tokenizer;
}

std::vector<const Tokenizer*> all_tokenizers() {
  static const std::unique_ptr<Tokenizer> bytes = make_byte_tokenizer();
  static const std::unique_ptr<Tokenizer> unigram =
      train({.vocab_size = 450, .model_type = "unigram"});
  return {&sample_tokenizer(), unigram.get(), bytes.get()};
}

const std::vector<std::string>& awkward_texts() {
  static const std::vector<std::string> texts = {
      "",
      " ",
      "   ",
      "\n",
      "\n\n \n",
      "a",
      " a",
      "  leading and trailing  ",
      "tabs\tand\r\nlines\n",
      "In the beginning God created the heaven and the earth.",
      "</s> <s> <unk> <0x0A> are text",
      "na\xC3\xAFve caf\xC3\xA9 \xE2\x82\xAC 100",
      "\xF0\x9F\x99\x82\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x91\xA7",
      "\xE4\xBD\xA0\xE5\xA5\xBD\xEF\xBC\x8C\xE4\xB8\x96\xE7\x95\x8C",
      "combining e\xCC\x81 and right-to-left \xD7\xA9\xD7\x9C\xD7\x95\xD7\x9D",
      std::string("zero\0byte", 9),
      "\xEF\xBF\xBD",
      "\xEF\xBB\xBF"
      "byte order mark",
      "\xF4\x8F\xBF\xBF",
      std::string(5000, 'x'),
      std::string(300, ' ') + "x",
  };
  return texts;
}

TEST(Tokenizer, RoundTripsAnyText) {
  for (const Tokenizer* tokenizer : all_tokenizers()) {
    for (const std::string& text : awkward_texts()) {
      const auto ids = tokenizer->encode(text);
      EXPECT_EQ(tokenizer->decode(ids), text) << tokenizer->kind();
      for (const int32_t id : ids) {
        ASSERT_GE(id, 0);
        ASSERT_LT(id, tokenizer->vocab_size());
        ASSERT_NE(id, tokenizer->eos_id());
      }
    }
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(kSampleText)), kSampleText);
  }
}

TEST(Tokenizer, RoundTripsRandomUnicode) {
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) {
    std::string text;
    for (int j = 0; j < 40; ++j) text += static_cast<char>(random() % 256);
    sanitize_utf8(text);
    for (const Tokenizer* tokenizer : all_tokenizers()) {
      ASSERT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
    }
  }
}

TEST(Tokenizer, DecodesAsSentencePieceDoes) {
  TemporaryFolder folder;
  sample_tokenizer().save(folder.path());
  sentencepiece::SentencePieceProcessor reference;
  ASSERT_TRUE(reference.Load((folder / "tokenizer.model").string()).ok());
  std::mt19937 random(2);
  for (int i = 0; i < 500; ++i) {
    std::vector<int32_t> ids(1 + random() % 12);
    for (int32_t& id : ids) {
      id = static_cast<int32_t>(random() % static_cast<uint32_t>(sample_tokenizer().vocab_size()));
    }
    ASSERT_EQ(sample_tokenizer().decode(ids), reference.DecodeIds(ids));
  }
}

TEST(Tokenizer, StreamsWholeCharactersOnly) {
  std::mt19937 random(3);
  for (const Tokenizer* tokenizer : all_tokenizers()) {
    for (int i = 0; i < 200; ++i) {
      std::vector<int32_t> ids;
      if (i % 2 == 0) {
        ids =
            tokenizer->encode(awkward_texts()[static_cast<size_t>(i / 2) % awkward_texts().size()]);
      } else {
        // Random tokens: broken characters too.
        for (int j = 0; j < 30; ++j) {
          ids.push_back(
              static_cast<int32_t>(random() % static_cast<uint32_t>(tokenizer->vocab_size())));
        }
      }
      StreamingDecoder decoder(*tokenizer);
      std::string streamed;
      for (const int32_t id : ids) {
        const std::string part = decoder.push(id);
        ASSERT_TRUE(is_valid_utf8(part));
        streamed += part;
      }
      streamed += decoder.flush();
      ASSERT_EQ(streamed, tokenizer->decode(ids));
    }
  }
}

TEST(Tokenizer, StreamHoldsBackAndReleasesABrokenCharacter) {
  const auto bytes = make_byte_tokenizer();
  StreamingDecoder decoder(*bytes);
  EXPECT_EQ(decoder.push(0xF0), "");
  EXPECT_EQ(decoder.push(0x9F), "");
  EXPECT_EQ(decoder.push('a'),
            "\xEF\xBF\xBD\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(decoder.push(0xE2), "");
  EXPECT_EQ(decoder.flush(), "\xEF\xBF\xBD");
  EXPECT_EQ(decoder.flush(), "");
}

TEST(Tokenizer, DropsTheAddedSpaceOnlyAtTheBeginning) {
  const Tokenizer& tokenizer = sample_tokenizer();
  const auto ids = tokenizer.encode("God said");
  StreamingDecoder beginning(tokenizer);
  auto continuing = StreamingDecoder::continuing(tokenizer);
  std::string first, second;
  for (const int32_t id : ids) {
    first += beginning.push(id);
    second += continuing.push(id);
  }
  EXPECT_EQ(first, "God said");
  EXPECT_EQ(second, " God said");
  // A control token at the front does not stand for the beginning.
  std::vector<int32_t> with_bos = ids;
  with_bos.insert(with_bos.begin(), *tokenizer.bos_id());
  EXPECT_EQ(tokenizer.decode(with_bos), "God said");
}

TEST(Tokenizer, ContinuationKeepsTokensOfTheWholeText) {
  const std::string text(kSampleText);
  for (const Tokenizer* tokenizer : all_tokenizers()) {
    const auto whole = tokenizer->encode(text);
    int cuts = 0;
    for (size_t cut = 1; cut + 1 < text.size(); cut += 1) {
      const bool between_words =
          text[cut] == ' ' && text[cut - 1] != ' ' && text[cut + 1] != ' ' && text[cut - 1] != '\n';
      if (!between_words || ++cuts % 20 != 0) continue;
      auto ids = tokenizer->encode(text.substr(0, cut));
      const auto rest = tokenizer->encode_continuation(text.substr(cut));
      ids.insert(ids.end(), rest.begin(), rest.end());
      ASSERT_EQ(ids, whole) << tokenizer->kind() << " cut at " << cut;
    }
    EXPECT_GT(cuts, 1000);
  }
}

TEST(Tokenizer, ContinuationAddsNoText) {
  const std::string text = "the  earth\nand 12 \xF0\x9F\x99\x82 the waters";
  for (const Tokenizer* tokenizer : all_tokenizers()) {
    for (size_t cut = 0; cut <= text.size(); ++cut) {
      if (incomplete_utf8_suffix(text.substr(0, cut)) != 0) continue;
      auto ids = tokenizer->encode(text.substr(0, cut));
      if (cut == 0) continue;
      const auto rest = tokenizer->encode_continuation(text.substr(cut));
      ids.insert(ids.end(), rest.begin(), rest.end());
      EXPECT_EQ(tokenizer->decode(ids), text) << tokenizer->kind() << " cut at " << cut;
    }
  }
}

TEST(Tokenizer, BytesAreThe257Tokens) {
  const auto bytes = make_byte_tokenizer();
  EXPECT_EQ(bytes->vocab_size(), 257);
  EXPECT_EQ(bytes->eos_id(), 256);
  EXPECT_EQ(bytes->bos_id(), std::nullopt);
  EXPECT_EQ(bytes->encode("a\xC3\xA4"), (std::vector<int32_t>{'a', 0xC3, 0xA4}));
  EXPECT_QUEST_ERROR(bytes->token_bytes(257), ErrorKind::kData, "257");
  EXPECT_QUEST_ERROR(bytes->token_bytes(-1), ErrorKind::kData, "-1");
}

TEST(Tokenizer, FollowsLlamaConventions) {
  const Tokenizer& tokenizer = sample_tokenizer();
  EXPECT_EQ(tokenizer.vocab_size(), 500);
  EXPECT_EQ(tokenizer.kind(), "sentencepiece-bpe");
  EXPECT_EQ(tokenizer.token_name(0), "<unk>");
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.token_name(3), "<0x00>");
  EXPECT_EQ(tokenizer.token_bytes(3 + 0x0A), "\n");
  EXPECT_EQ(tokenizer.token_bytes(*tokenizer.eos_id()), "");
  // Digits one by one; a newline is one byte token.
  for (const int32_t id : tokenizer.encode("1234567890")) {
    EXPECT_LE(tokenizer.token_bytes(id).size(), 1u);
  }
  EXPECT_EQ(tokenizer.encode("earth\n").back(), 3 + 0x0A);
  EXPECT_QUEST_ERROR(tokenizer.token_bytes(500), ErrorKind::kData, "vocabulary of 500");
}

TEST(Tokenizer, SavedIsLoadedAgain) {
  for (const Tokenizer* tokenizer : all_tokenizers()) {
    TemporaryFolder folder;
    tokenizer->save(folder.path());
    const auto loaded = load_tokenizer(folder.path());
    EXPECT_EQ(loaded->kind(), tokenizer->kind());
    EXPECT_EQ(loaded->fingerprint(), tokenizer->fingerprint());
    EXPECT_EQ(loaded->vocab_size(), tokenizer->vocab_size());
    EXPECT_EQ(loaded->encode(kSampleText), tokenizer->encode(kSampleText));
    if (tokenizer->kind() != "bytes") {
      EXPECT_EQ(load_tokenizer(folder / "tokenizer.model")->fingerprint(),
                tokenizer->fingerprint());
    }
  }
  EXPECT_EQ(load_tokenizer("bytes")->kind(), "bytes");
}

TEST(Tokenizer, ChatTemplatesAreReadAndKept) {
  const TemporaryFolder folder;
  EXPECT_EQ(read_chat_template(folder.path()), std::nullopt);
  folder.write("chat_template.jinja", "file");
  EXPECT_EQ(read_chat_template(folder.path()), "file");
  folder.write("tokenizer_config.json", R"({"chat_template": "a"})");
  EXPECT_EQ(read_chat_template(folder.path()), "a");
  folder.write("tokenizer_config.json",
               R"({"chat_template": [{"name": "tool", "template": "b"},
                                     {"name": "default", "template": "c"}]})");
  EXPECT_EQ(read_chat_template(folder.path()), "c");
  folder.write("tokenizer_config.json", R"({"chat_template": 3})");
  EXPECT_QUEST_ERROR(read_chat_template(folder.path()), ErrorKind::kData, "chat_template");
  // From a folder of another program through all that load and save it.
  const TemporaryFolder from, to;
  sample_tokenizer().save(from.path());
  EXPECT_EQ(read_chat_template(from.path()), std::nullopt);
  from.write("tokenizer_config.json", R"({"chat_template": "[INST] \u00e4"})");
  load_tokenizer(from.path())->save(to.path());
  EXPECT_EQ(read_chat_template(to.path()), "[INST] \xC3\xA4");
  EXPECT_EQ(load_tokenizer(to.path())->fingerprint(), sample_tokenizer().fingerprint());
}

// In a process of its own, where nothing has silenced SentencePiece before.
TEST(TokenizerDeathTest, NothingIsLogged) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  TemporaryFolder folder;
  sample_tokenizer().save(folder.path());
  const auto model = folder / "tokenizer.model";
  EXPECT_EXIT(
      {
        load_tokenizer(model)->encode("text");
        train({.vocab_size = 400});
        std::exit(0);
      },
      ::testing::ExitedWithCode(0), "^$");
}

TEST(Tokenizer, WrongPlacesAreClearErrors) {
  TemporaryFolder folder;
  EXPECT_QUEST_ERROR(load_tokenizer(folder / "none"), ErrorKind::kIo, "none");
  EXPECT_QUEST_ERROR(load_tokenizer(folder.path()), ErrorKind::kIo, "tokenizer.model is missing");
  folder.write("tokenizer.json", "{}");
  EXPECT_QUEST_ERROR(load_tokenizer(folder.path()), ErrorKind::kIo, "tokenizer.json alone");
  const auto text = folder.write("corpus.txt", kSampleText);
  EXPECT_QUEST_ERROR(load_tokenizer(text), ErrorKind::kData, "corpus.txt");
  EXPECT_QUEST_ERROR(load_tokenizer(folder.write("empty.model", "")), ErrorKind::kData,
                     "empty.model");
  folder.write("c/tokenizer_config.json", "{");
  EXPECT_QUEST_ERROR(load_tokenizer(folder / "c"), ErrorKind::kData, "tokenizer_config.json");
  // Another program's settings are no hindrance.
  sample_tokenizer().save(folder.path());
  folder.write("tokenizer_config.json", R"({"tokenizer_class": "LlamaTokenizer"})");
  EXPECT_EQ(load_tokenizer(folder.path())->vocab_size(), 500);
}

TEST(Tokenizer, DamageInASavedFolderIsAlwaysFound) {
  TemporaryFolder folder;
  sample_tokenizer().save(folder.path());
  const auto path = folder / "tokenizer.model";
  const std::string good = read_file(path);
  std::mt19937 random(4);
  for (int i = 0; i < 300; ++i) {
    std::string bad = good;
    const size_t at = i < 40 ? static_cast<size_t>(i) : random() % bad.size();
    bad[at] = static_cast<char>(bad[at] ^ (1 << (random() % 8)));
    folder.write("tokenizer.model", bad);
    EXPECT_QUEST_ERROR(load_tokenizer(folder.path()), ErrorKind::kData, "tokenizer.model");
  }
  for (size_t size = 0; size < good.size(); size += 1 + good.size() / 200) {
    folder.write("tokenizer.model", good.substr(0, size));
    EXPECT_QUEST_ERROR(load_tokenizer(folder.path()), ErrorKind::kData, "tokenizer.model");
  }
}

// A foreign model has no checksum: damage is found or harmless.
void expect_no_crash(const std::string& model) {
  std::unique_ptr<Tokenizer> tokenizer;
  try {
    tokenizer = make_sentencepiece_tokenizer(model, "foreign.model");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData) << error.what();
    EXPECT_NE(std::string(error.what()).find("foreign.model"), std::string::npos) << error.what();
    return;
  }
  for (const std::string& text : awkward_texts()) {
    for (const int32_t id : tokenizer->encode(text)) {
      ASSERT_GE(id, 0);
      ASSERT_LT(id, tokenizer->vocab_size());
    }
  }
}

void damage_everywhere(const std::string& good, size_t from, size_t to, uint32_t seed) {
  std::mt19937 random(seed);
  for (int i = 0; i < 400; ++i) {
    std::string bad = good;
    const size_t at = from + random() % (to - from);
    bad[at] = static_cast<char>(bad[at] ^ (1 << (random() % 8)));
    expect_no_crash(bad);
  }
  for (int i = 0; i < 100; ++i) expect_no_crash(good.substr(0, random() % good.size()));
}

TEST(Tokenizer, DamagedForeignModelsDoNotCrash) {
  for (const Tokenizer* tokenizer : all_tokenizers()) {
    if (tokenizer->kind() == "bytes") continue;
    TemporaryFolder folder;
    tokenizer->save(folder.path());
    const std::string good = read_file(folder / "tokenizer.model");
    damage_everywhere(good, 0, good.size(), 5);
    damage_everywhere(good, good.size() - 300, good.size(), 6);  // settings
  }
}

// SentencePiece's default normalization, whose table it follows without looking.
TEST(Tokenizer, DamagedNormalizationTablesDoNotCrash) {
  sample_tokenizer();  // silences SentencePiece
  struct OneLine final : sentencepiece::SentenceIterator {
    bool done() const override { return line_ >= lines_.size(); }
    void Next() override { ++line_; }
    const std::string& value() const override { return lines_[line_]; }
    sentencepiece::util::Status status() const override { return {}; }
    std::vector<std::string> lines_ = {std::string(kSampleText.substr(0, 4000))};
    size_t line_ = 0;
  } lines;
  std::string good;
  const auto status = sentencepiece::SentencePieceTrainer::Train(
      "--vocab_size=320 --model_type=bpe --byte_fallback=true --max_sentence_length=100000 "
      "--minloglevel=3",
      &lines, &good);
  ASSERT_TRUE(status.ok()) << status.ToString();
  ASSERT_GT(good.size(), 100000u) << "the model should hold a normalization table";
  TemporaryFolder folder;
  const auto tokenizer = load_tokenizer(folder.write("nmt.model", good));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("  \xEF\xBC\xA1  b ")), "A b");  // full-width A
  damage_everywhere(good, 0, good.size(), 7);
}

TEST(TrainSentencepiece, IsDeterministic) {
  for (const char* type : {"bpe", "unigram"}) {
    const SentencePieceOptions options{.vocab_size = 420, .model_type = type};
    EXPECT_EQ(train(options)->fingerprint(), train(options)->fingerprint());
  }
}

TEST(TrainSentencepiece, SamplesLargeTextsBySeed) {
  const SentencePieceOptions few{.vocab_size = 320, .max_lines = 10, .seed = 1};
  SentencePieceOptions other = few;
  other.seed = 2;
  EXPECT_EQ(train(few)->fingerprint(), train(few)->fingerprint());
  EXPECT_NE(train(few)->fingerprint(), train(other)->fingerprint());
}

TEST(TrainSentencepiece, UsesLongLinesToo) {
  std::string one_line(kSampleText);
  std::replace(one_line.begin(), one_line.end(), '\n', ' ');
  ASSERT_GT(one_line.size(), 4096u);
  const auto tokenizer = train({.vocab_size = 420}, one_line);
  EXPECT_LT(tokenizer->encode("And God said, Let there be light").size(), 14u);
}

TEST(TrainSentencepiece, SaysWhichSizesArePossible) {
  try {
    train({.vocab_size = 100000});
    FAIL() << "trained a vocabulary that is too large";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    const std::string message = error.what();
    const size_t at = message.find("at most ");
    ASSERT_NE(at, std::string::npos) << message;
    const int64_t largest = std::stoll(message.substr(at + 8));
    EXPECT_EQ(train({.vocab_size = largest})->vocab_size(), largest);
  }
  EXPECT_QUEST_ERROR(train({.vocab_size = 260}), ErrorKind::kUsage, "at least");
}

TEST(TrainSentencepiece, RefusesWrongOptions) {
  EXPECT_QUEST_ERROR(train({.vocab_size = 3}), ErrorKind::kUsage, "vocabulary size 3");
  EXPECT_QUEST_ERROR(train({.model_type = "wordpiece"}), ErrorKind::kUsage, "wordpiece");
  EXPECT_QUEST_ERROR(train({.character_coverage = 1.5}), ErrorKind::kUsage, "1.5");
  EXPECT_QUEST_ERROR(train({.max_lines = 0}), ErrorKind::kUsage, "max_lines");
  EXPECT_QUEST_ERROR(train({}, ""), ErrorKind::kData, "no text");
  EXPECT_QUEST_ERROR(train({}, "\n\n\n"), ErrorKind::kData, "no text");
}

}  // namespace
}  // namespace quest
