#include <cmath>
#include <limits>
#include <numbers>
#include <set>

#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/base/philox.h"
#include "quest/base/testing.h"
#include "quest/eval/multiple_choice.h"
#include "quest/eval/paired.h"
#include "quest/eval/perplexity.h"
#include "quest/eval/scorer.h"

namespace quest {
namespace {

using testing::TemporaryFolder;

// p(next | previous) of three tokens.
const std::vector<std::vector<double>> kBigram = {
    {0.1, 0.6, 0.3}, {0.5, 0.25, 0.25}, {0.2, 0.2, 0.6}};

// The bigram model, as logits with an offset that the softmax must take away. Records the requests.
class BigramScorer : public LogitsScorer {
 public:
  explicit BigramScorer(int64_t context, int64_t batch = 1)
      : LogitsScorer(
            [](std::span<const int32_t> tokens, const LogitsRow& row) {
              for (size_t t = tokens.size(); t-- > 0;) {
                std::vector<float> logits;
                for (const double p : kBigram[static_cast<size_t>(tokens[t])]) {
                  logits.push_back(static_cast<float>(std::log(p) + 100 + tokens[t]));
                }
                row(static_cast<int64_t>(t), logits);
              }
            },
            context),
        batch_(batch) {}
  int64_t batch_size() const override { return batch_; }
  void score(std::span<const ScoreRequest> requests) override {
    batches.push_back(requests.size());
    for (const ScoreRequest& r : requests) lengths.push_back(r.tokens.size());
    LogitsScorer::score(requests);
  }
  std::vector<size_t> batches, lengths;

 private:
  int64_t batch_;
};

// Knows how many tokens stand before each target: p = 1 / (2 + tokens before it).
class DepthScorer : public Scorer {
 public:
  explicit DepthScorer(int64_t context) : context_(context) {}
  int64_t context_length() const override { return context_; }
  void score(std::span<const ScoreRequest> requests) override {
    for (const ScoreRequest& r : requests) {
      check_request(r, context_);
      for (size_t t = 0; t < r.logprobs.size(); ++t) {
        r.logprobs[t] = -std::log(2.0f + static_cast<float>(t));
      }
    }
  }

 private:
  int64_t context_;
};

class ConstantScorer : public Scorer {
 public:
  explicit ConstantScorer(float value) : value_(value) {}
  int64_t context_length() const override { return 8; }
  void score(std::span<const ScoreRequest> requests) override {
    for (const ScoreRequest& r : requests) std::fill(r.logprobs.begin(), r.logprobs.end(), value_);
  }

 private:
  float value_;
};

std::vector<int32_t> random_tokens(int64_t n, uint64_t seed) {
  const Philox random(seed);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) {
    tokens.push_back(static_cast<int32_t>(random.below(static_cast<uint64_t>(i), 3)));
  }
  return tokens;
}

double bigram_nats(const std::vector<int32_t>& tokens) {
  double nats = 0;
  for (size_t i = 1; i < tokens.size(); ++i) {
    nats -= std::log(kBigram[static_cast<size_t>(tokens[i - 1])][static_cast<size_t>(tokens[i])]);
  }
  return nats;
}

TEST(Perplexity, EqualsTheAnalyticValueForEveryWindowing) {
  // A bigram model sees all it needs in one token, so no windowing may change the result.
  const std::vector<int32_t> tokens = random_tokens(101, 1);
  const double nats = bigram_nats(tokens);
  for (const int64_t context : {1, 2, 7, 50, 99, 100, 101, 1000}) {
    for (const int64_t stride : {int64_t{0}, int64_t{1}, (context + 1) / 2, context}) {
      for (const int64_t batch : {1, 3, 64}) {
        BigramScorer scorer(context, batch);
        const PerplexityResult r =
            perplexity(scorer, tokens, {.stride = stride, .text_bytes = 200});
        ASSERT_EQ(r.tokens, 100);
        ASSERT_NEAR(r.total_nats, nats, 1e-4) << context << " " << stride << " " << batch;
        ASSERT_NEAR(r.loss, nats / 100, 1e-6);
        ASSERT_NEAR(r.perplexity, std::exp(nats / 100), 1e-5);
        ASSERT_NEAR(r.bits_per_byte.value(), nats / std::numbers::ln2 / 200, 1e-6);
        for (const size_t size : scorer.batches) ASSERT_LE(size, static_cast<size_t>(batch));
      }
    }
  }
}

TEST(Perplexity, UniformModelHasThePerplexityOfItsVocabulary) {
  LogitsScorer uniform(
      [](std::span<const int32_t> tokens, const LogitsRow& row) {
        const std::vector<float> logits(50, -3.0f);
        for (size_t t = 0; t < tokens.size(); ++t) row(static_cast<int64_t>(t), logits);
      },
      16);
  const PerplexityResult r = perplexity(uniform, std::vector<int32_t>{1, 2, 3, 49, 0, 7});
  EXPECT_NEAR(r.perplexity, 50, 1e-4);
  EXPECT_FALSE(r.bits_per_byte.has_value());
}

TEST(Perplexity, StrideGivesLaterTokensTheirContext) {
  DepthScorer scorer(4);
  const std::vector<int32_t> tokens(10, 0);  // 9 targets
  // Windows of 4, 4 and 1 targets; depths 0..3, 0..3, 0.
  EXPECT_NEAR(perplexity(scorer, tokens).total_nats, 2 * std::log(2. * 3 * 4 * 5) + std::log(2.),
              1e-5);
  // Stride 2: depths 0..3, then always 2 and 3, and at the end the one target left at depth 2.
  EXPECT_NEAR(perplexity(scorer, tokens, {.stride = 2}).total_nats,
              std::log(2. * 3 * 4 * 5) + 2 * std::log(4. * 5) + std::log(4.), 1e-5);
  // Stride 1: all further targets have the most context there is.
  EXPECT_NEAR(perplexity(scorer, tokens, {.stride = 1}).total_nats,
              std::log(2. * 3 * 4 * 5) + 5 * std::log(5.), 1e-5);
  // A shorter context than the model's.
  EXPECT_NEAR(perplexity(scorer, tokens, {.context_length = 1}).total_nats, 9 * std::log(2.), 1e-5);
}

TEST(Perplexity, ReportsProgressToTheEnd) {
  BigramScorer scorer(10, 2);
  std::vector<int64_t> done;
  perplexity(scorer, random_tokens(50, 2), {.progress = [&](int64_t d, int64_t total) {
               EXPECT_EQ(total, 49);
               done.push_back(d);
             }});
  EXPECT_EQ(done, (std::vector<int64_t>{20, 40, 49}));
}

TEST(Perplexity, RefusesBadOptionsAndNumbers) {
  DepthScorer scorer(4);
  const std::vector<int32_t> tokens(10, 0);
  EXPECT_QUEST_ERROR(perplexity(scorer, std::vector<int32_t>{1}), ErrorKind::kUsage, "1 tokens");
  EXPECT_QUEST_ERROR(perplexity(scorer, tokens, {.context_length = 5}), ErrorKind::kUsage,
                     "model's 4");
  EXPECT_QUEST_ERROR(perplexity(scorer, tokens, {.context_length = -1}), ErrorKind::kUsage, "-1");
  EXPECT_QUEST_ERROR(perplexity(scorer, tokens, {.stride = 5}), ErrorKind::kUsage, "stride is 5");
  EXPECT_QUEST_ERROR(perplexity(scorer, tokens, {.stride = -1}), ErrorKind::kUsage, "stride");
  EXPECT_QUEST_ERROR(perplexity(scorer, tokens, {.text_bytes = 0}), ErrorKind::kUsage, "bytes");
  ConstantScorer nan(std::numeric_limits<float>::quiet_NaN()), positive(0.5f);
  EXPECT_QUEST_ERROR(perplexity(nan, tokens), ErrorKind::kNumeric, "nan");
  EXPECT_QUEST_ERROR(perplexity(positive, tokens), ErrorKind::kNumeric, "0.5");
}

TEST(LogitsScorer, MarksGreedyTokensTheLowestOfEquals) {
  BigramScorer scorer(8);
  const std::vector<int32_t> tokens = {0, 1, 0, 2, 2, 1};
  std::vector<float> logprobs(5);
  std::vector<uint8_t> greedy(5, 7);
  const ScoreRequest request{tokens, logprobs, greedy};
  scorer.score({&request, 1});
  EXPECT_EQ(greedy, (std::vector<uint8_t>{1, 1, 0, 1, 0}));
  EXPECT_NEAR(logprobs[2], std::log(0.3), 1e-5);

  LogitsScorer ties(
      [](std::span<const int32_t>, const LogitsRow& row) {
        row(0, std::vector<float>{1.0f, 1.0f});
      },
      1);
  std::vector<float> one(1);
  std::vector<uint8_t> mark(1);
  const std::vector<int32_t> low = {0, 0}, high = {0, 1};
  const ScoreRequest low_request{low, one, mark};
  ties.score({&low_request, 1});
  EXPECT_EQ(mark[0], 1);
  const ScoreRequest high_request{high, one, mark};
  ties.score({&high_request, 1});
  EXPECT_EQ(mark[0], 0);
}

TEST(LogitsScorer, RefusesWhatBreaksTheContract) {
  std::vector<float> logits = {0.0f, 1.0f};
  int64_t position = 0;
  LogitsScorer scorer(
      [&](std::span<const int32_t>, const LogitsRow& row) { row(position, logits); }, 3);
  std::vector<float> room(1);
  const auto score = [&](const std::vector<int32_t>& tokens) {
    const ScoreRequest request{tokens, room, {}};
    scorer.score({&request, 1});
  };
  score({0, 1});
  EXPECT_QUEST_ERROR(score({0, 2}), ErrorKind::kData, "token 2 is outside the vocabulary of 2");
  EXPECT_QUEST_ERROR(score({0, -1}), ErrorKind::kData, "token -1");
  EXPECT_QUEST_ERROR(score({0}), ErrorKind::kUsage, "at least 2");
  EXPECT_QUEST_ERROR(score({0, 1, 0, 1, 0}), ErrorKind::kUsage, "context allows 4");
  EXPECT_QUEST_ERROR(score({0, 1, 0}), ErrorKind::kUsage, "room for 1");
  room.resize(2);
  EXPECT_QUEST_ERROR(score({0, 1, 0}), ErrorKind::kUsage, "position 1 of 2 were not given");
  room.resize(1);
  position = 1;
  EXPECT_QUEST_ERROR(score({0, 1}), ErrorKind::kUsage, "position 1");
  position = 0;
  logits[1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_QUEST_ERROR(score({0, 1}), ErrorKind::kNumeric, "token 1 is nan");
  logits = {-std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()};
  EXPECT_QUEST_ERROR(score({0, 1}), ErrorKind::kNumeric, "all 2 logits");
  EXPECT_QUEST_ERROR(LogitsScorer({}, 0), ErrorKind::kUsage, "context length");
}

// Tokens 0, 1, 2 for 'a', 'b', anything else.
std::vector<int32_t> encode_letters(std::string_view text) {
  std::vector<int32_t> tokens;
  for (const char c : text) tokens.push_back(c == 'a' ? 0 : c == 'b' ? 1 : 2);
  return tokens;
}

TEST(MultipleChoice, ScoresOnlyTheEnding) {
  const std::vector<ChoiceItem> items = {{"ab", {"a", "b"}, 0}};
  BigramScorer scorer(16);
  const auto r = multiple_choice(scorer, encode_choices(items, encode_letters));
  // After "ab": the space (token 2) and the letter.
  EXPECT_NEAR(r.outcomes[0].logprobs[0], std::log(0.25) + std::log(0.2), 1e-5);
  EXPECT_NEAR(r.outcomes[0].logprobs[1], std::log(0.25) + std::log(0.2), 1e-5);
  EXPECT_EQ(r.outcomes[0].choice, 0);  // the first of equals
  EXPECT_EQ(r.acc.value, 1.0);
  EXPECT_EQ(r.acc.standard_error, 0.0);
}

TEST(MultipleChoice, NormalizesByCharactersAndByBytes) {
  // Every token has ln p = -1, so the shortest ending wins acc, and lengths decide the others:
  // "x" 1 token, "yyy" 3 tokens; "\xc3\xa9\xc3\xa9\xc3\xa9z" 7 tokens, 4 characters, 7 bytes. The
  // joining space costs one token more each.
  const std::vector<ChoiceItem> items = {{"c", {"x", "yyy", "\xc3\xa9\xc3\xa9\xc3\xa9z"}, 0},
                                         {"c", {"x", "yyy", "\xc3\xa9\xc3\xa9\xc3\xa9z"}, 1},
                                         {"c", {"x", "yyy", "\xc3\xa9\xc3\xa9\xc3\xa9z"}, 2},
                                         {"c", {"x", "yyy", "\xc3\xa9\xc3\xa9\xc3\xa9z"}, 2}};
  class MinusOne : public ConstantScorer {
   public:
    MinusOne() : ConstantScorer(-1) {}
    int64_t context_length() const override { return 100; }
  } scorer;
  const auto r = multiple_choice(scorer, encode_choices(items, encode_letters));
  for (const ChoiceOutcome& outcome : r.outcomes) {
    EXPECT_EQ(outcome.logprobs, (std::vector<double>{-2, -4, -8}));
    EXPECT_EQ(outcome.choice, 0);
    EXPECT_EQ(outcome.choice_norm, 1);   // -2, -4/3, -2
    EXPECT_EQ(outcome.choice_bytes, 2);  // -2, -4/3, -8/7
  }
  EXPECT_EQ(r.acc.value, 0.25);
  EXPECT_EQ(r.acc_norm.value, 0.25);
  EXPECT_EQ(r.acc_bytes.value, 0.5);
  // Sample deviations of {1,0,0,0} and {0,0,1,1}, over sqrt(4).
  EXPECT_NEAR(r.acc.standard_error, 0.25, 1e-12);
  EXPECT_NEAR(r.acc_bytes.standard_error, std::sqrt(1.0 / 3) / 2, 1e-12);
}

TEST(MultipleChoice, CutsTheContextAtItsBeginning) {
  BigramScorer scorer(3, 2);
  const std::vector<ChoiceItem> items = {{std::string(50, 'b') + "a", {"a", "b"}, 1}};
  int64_t last = 0;
  const auto r = multiple_choice(scorer, encode_choices(items, encode_letters),
                                 [&](int64_t done, int64_t) { last = done; });
  EXPECT_NEAR(r.outcomes[0].logprobs[0], std::log(0.3) + std::log(0.2), 1e-5);
  EXPECT_EQ(scorer.lengths, (std::vector<size_t>{4, 4}));
  EXPECT_EQ(scorer.batches, (std::vector<size_t>{2}));
  EXPECT_EQ(last, 2);
  BigramScorer narrow(1);
  EXPECT_QUEST_ERROR(multiple_choice(narrow, encode_choices(items, encode_letters)),
                     ErrorKind::kUsage, "ending 1 has 2 tokens");
}

TEST(MultipleChoice, SplitsWhereTheContextsOwnTokensEnd) {
  // One token per word, a word takes the space before it; a beginning token is put in front.
  const EncodeFn words = [](std::string_view text) {
    std::vector<int32_t> tokens = {1000};
    for (size_t i = 0; i < text.size(); ++i) {
      if (i == 0 || (text[i] != ' ' && text[i - 1] == ' ')) tokens.push_back(0);
      tokens.back() += text[i];
    }
    return tokens;
  };
  const std::vector<ChoiceItem> items = {{"one two \n", {"three", "four five"}, 0}};
  const auto encoded = encode_choices(items, words);
  EXPECT_EQ(encoded[0].endings[0].context_tokens, 3);
  EXPECT_EQ(encoded[0].endings[1].characters, 9);
  EXPECT_EQ(encode_choices(std::vector<ChoiceItem>{{"", {"a", "b"}, 0}}, words)[0]
                .endings[0]
                .context_tokens,
            1);
  EXPECT_QUEST_ERROR(encode_choices(std::vector<ChoiceItem>{{"", {"a", "b"}, 0}}, encode_letters),
                     ErrorKind::kData, "item 1: the context is empty");
  EXPECT_QUEST_ERROR(encode_choices(std::vector<ChoiceItem>{{"a", {"b", ""}, 0}}, encode_letters),
                     ErrorKind::kData, "ending 2 is empty");
  const EncodeFn one_token = [](std::string_view) { return std::vector<int32_t>{0}; };
  EXPECT_QUEST_ERROR(encode_choices(std::vector<ChoiceItem>{{"a", {"b", "c"}, 0}}, one_token),
                     ErrorKind::kData, "no token of its own");
}

TEST(MultipleChoice, RefusesNoItemsBadLabelsAndNan) {
  ConstantScorer nan(std::numeric_limits<float>::quiet_NaN());
  EXPECT_QUEST_ERROR(multiple_choice(nan, {}), ErrorKind::kUsage, "no items");
  std::vector<ChoiceItem> items = {{"a", {"b", "a"}, 0}};
  EXPECT_QUEST_ERROR(multiple_choice(nan, encode_choices(items, encode_letters)),
                     ErrorKind::kNumeric, "item 1");
  items[0].label = 2;
  EXPECT_QUEST_ERROR(multiple_choice(nan, encode_choices(items, encode_letters)), ErrorKind::kUsage,
                     "label is 2");
}

TEST(ChoiceItems, CleansHellaSwagAsTheHarness) {
  EXPECT_EQ(clean_hellaswag_text("  A [title] b [step]  c [x\ny] d  "), "A. b  c [x\ny] d");
  EXPECT_EQ(clean_hellaswag_text("a   b [[c] d]"), "a  b d]");
  EXPECT_EQ(clean_hellaswag_text(" \n"), "");
  EXPECT_EQ(clean_hellaswag_text("open [ only"), "open [ only");
}

TEST(ChoiceItems, LoadsBothFormats) {
  const TemporaryFolder folder;
  const auto path = folder.write(
      "h.jsonl",
      R"({"ind": 3, "activity_label": "Roof", "ctx_a": "A man sits.", "ctx_b": "he IS", "ctx": "x", "endings": ["up [step] high.", "down."], "label": "1"})"
      "\n\n"
      R"({"activity_label": "B", "ctx_a": "c", "ctx_b": "", "ctx": "y", "endings": ["d", "e"], "label": 0})");
  const auto items = load_choice_items(path, ChoiceFormat::kHellaSwag);
  ASSERT_EQ(items.size(), 2u);
  EXPECT_EQ(items[0].context, "Roof: A man sits. He is");
  EXPECT_EQ(items[0].endings, (std::vector<std::string>{"up high.", "down."}));
  EXPECT_EQ(items[0].label, 1);
  EXPECT_EQ(items[1].context, "B: c");
  const auto plain = load_choice_items(path, ChoiceFormat::kPlain);
  EXPECT_EQ(plain[0].context, "x");
  EXPECT_EQ(plain[0].endings[0], "up [step] high.");
}

TEST(ChoiceItems, ErrorsNameTheLine) {
  const TemporaryFolder folder;
  const std::string good = R"({"ctx": "a", "endings": ["b", "c"], "label": 0})";
  const auto expect_refused = [&](const std::string& line, const char* reason) {
    const auto path = folder.write("x.jsonl", good + "\n\n" + line + "\n" + good);
    EXPECT_QUEST_ERROR(load_choice_items(path, ChoiceFormat::kPlain), ErrorKind::kData,
                       "x.jsonl: line 3");
    EXPECT_QUEST_ERROR(load_choice_items(path, ChoiceFormat::kPlain), ErrorKind::kData, reason);
  };
  expect_refused("{", "not valid JSON");
  expect_refused("[1]", "expected a JSON object");
  expect_refused(R"({"endings": ["b", "c"], "label": 0})", "\"ctx\" is missing");
  expect_refused(R"({"ctx": "a", "label": 0})", "\"endings\" is missing");
  expect_refused(R"({"ctx": "a", "endings": ["b", 1], "label": 0})", "\"endings\"");
  expect_refused(R"({"ctx": "a", "endings": ["b"], "label": 0})", "at least 2");
  expect_refused(R"({"ctx": "a", "endings": ["b", ""], "label": 0})", "empty");
  expect_refused(R"({"ctx": "a", "endings": ["b", "c"], "label": 2})", "\"label\" is 2");
  expect_refused(R"({"ctx": "a", "endings": ["b", "c"], "label": -1})", "\"label\" is -1");
  expect_refused(R"({"ctx": "a", "endings": ["b", "c"], "label": ""})", "test split");
  expect_refused(R"({"ctx": "a", "endings": ["b", "c"]})", "\"label\" is missing");
  const auto empty = folder.write("empty.jsonl", "\n \n");
  EXPECT_QUEST_ERROR(load_choice_items(empty, ChoiceFormat::kPlain), ErrorKind::kData, "no items");
  EXPECT_QUEST_ERROR(load_choice_items(folder / "absent", ChoiceFormat::kPlain), ErrorKind::kIo,
                     "absent");
}

TEST(Paired, LogprobsAreThoseOfThePerplexity) {
  BigramScorer scorer(4, 2);
  const std::vector<int32_t> tokens = {0, 1, 2, 2, 1, 0, 0, 1, 2, 0, 1};
  const std::vector<float> logprobs = token_logprobs(scorer, tokens, 3);
  ASSERT_EQ(logprobs.size(), tokens.size() - 1);
  for (size_t t = 0; t + 1 < tokens.size(); ++t) {
    const double p = kBigram[static_cast<size_t>(tokens[t])][static_cast<size_t>(tokens[t + 1])];
    EXPECT_NEAR(logprobs[t], std::log(p), 1e-5) << t;
  }
  const PerplexityResult whole = perplexity(scorer, tokens, {.context_length = 3});
  EXPECT_NEAR(perplexity_of(logprobs), whole.perplexity, 1e-9 * whole.perplexity);
}

// A shift of every token is seen exactly and without error, below scatter that is 10^4 times it.
TEST(Paired, CommonScatterCancels) {
  const Philox random(3, 0);
  std::vector<float> a, b;
  for (uint64_t i = 0; i < 1000; ++i) {
    b.push_back(static_cast<float>(-3 - std::abs(random.normal(i))));
    a.push_back(b.back() - 0x1p-12f);
  }
  const PairedDifference d = paired_difference(a, b, 50);
  EXPECT_NEAR(d.relative, std::expm1(0x1p-12), 1e-8);
  EXPECT_NEAR(d.standard_error, 0, 1e-8);
  EXPECT_NEAR(perplexity_of(a) / perplexity_of(b) - 1, d.relative, 1e-8);
  EXPECT_EQ(judge(d, 0.0003), Verdict::kWithin);
  EXPECT_EQ(judge(d, 0.0002), Verdict::kBeyond);
  EXPECT_EQ(judge(paired_difference(b, a, 50), 0.0002),
            Verdict::kBeyond);  // better is a difference
}

// Independent noise of deviation s on n tokens gives the mean the error s / sqrt(n), whatever the
// windows; noise that is one for a whole window, s / sqrt(windows).
TEST(Paired, StandardErrorIsThatOfTheMean) {
  const Philox random(4, 0);
  constexpr int64_t kTokens = 64000, kWindow = 64;
  const std::vector<float> b(kTokens, -3.0f);
  std::vector<float> single = b, common = b;
  for (int64_t i = 0; i < kTokens; ++i) {
    const auto at = static_cast<size_t>(i);
    single[at] += static_cast<float>(0.1 * random.normal(at));
    common[at] += static_cast<float>(0.1 * random.normal(at / kWindow));
  }
  EXPECT_NEAR(paired_difference(single, b, kWindow).standard_error, 0.1 / std::sqrt(64000), 3e-5);
  EXPECT_NEAR(paired_difference(common, b, kWindow).standard_error, 0.1 / std::sqrt(1000), 3e-4);
}

TEST(Paired, ShortTextsAreUndecided) {
  const std::vector<float> a = {-1.0f}, b = {-1.5f};
  const PairedDifference one = paired_difference(a, b, 8);
  EXPECT_TRUE(std::isinf(one.standard_error));
  EXPECT_EQ(judge(one, 0.001), Verdict::kUndecided);
  EXPECT_EQ(judge(paired_difference(a, a, 8), 0.001), Verdict::kWithin);
  EXPECT_EQ(judge({0.003, 0.0007}, 0.001), Verdict::kUndecided);
  EXPECT_EQ(judge({0.003, 0.0006}, 0.001), Verdict::kBeyond);
  EXPECT_EQ(judge({-0.003, 0.0006}, 0.001), Verdict::kBeyond);
  EXPECT_STREQ(verdict_name(Verdict::kUndecided), "undecided");
}

}  // namespace
}  // namespace quest
