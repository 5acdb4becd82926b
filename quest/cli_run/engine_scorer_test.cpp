#include "quest/cli_run/engine_scorer.h"

#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/base/philox.h"
#include "quest/eval/multiple_choice.h"
#include "quest/packed/testing_packed.h"
#include "quest/runtime/cpu_engine.h"
#include "quest/text/tokenizer.h"

namespace quest {
namespace {

struct Scores {
  std::vector<float> logprobs;
  std::vector<uint8_t> is_greedy;
  bool operator==(const Scores&) const = default;
};

Scores score(Scorer& scorer, const std::vector<int32_t>& tokens) {
  Scores scores{std::vector<float>(tokens.size() - 1), std::vector<uint8_t>(tokens.size() - 1, 9)};
  const ScoreRequest request{tokens, scores.logprobs, scores.is_greedy};
  scorer.score({&request, 1});
  return scores;
}

class EngineScorerTest : public ::testing::Test {
 protected:
  const testing::TemporaryFolder folder;
  CpuEngine engine{PackedModel(testing::write_small_packed_model(folder / "m", "w4a4")),
                   {.threads = 2, .chunk = 5}};
};

TEST_F(EngineScorerTest, KeptBeginningsChangeNoBit) {
  EngineScorer scorer(engine);
  const Philox random(1);
  std::vector<int32_t> tokens;
  int64_t all = 0;
  for (uint64_t i = 0; i < 60; ++i) {
    // Keeps a random part of the text before and goes on with other tokens; sometimes all of it.
    tokens.resize(random.below(3 * i, tokens.size() + 1));
    const uint64_t more = random.below(3 * i + 1, 20);
    for (uint64_t j = 0; (j < more || tokens.size() < 2) && tokens.size() < 65; ++j) {
      tokens.push_back(static_cast<int32_t>(random.below(1000 + 64 * i + j, 261)));
    }
    EngineScorer fresh(engine);
    ASSERT_EQ(score(scorer, tokens), score(fresh, tokens)) << i;
    all += static_cast<int64_t>(tokens.size()) - 1;
  }
  EXPECT_LT(scorer.tokens_read(), all * 3 / 4);
}

TEST_F(EngineScorerTest, AfterAnErrorNothingIsKept) {
  EngineScorer scorer(engine), fresh(engine);
  const std::vector<int32_t> good = {1, 2, 3, 4, 5, 6}, bad = {1, 2, 3, 4, 5, 261};
  score(scorer, good);
  EXPECT_THROW(score(scorer, bad), Error);
  EXPECT_EQ(score(scorer, good), score(fresh, good));
}

TEST_F(EngineScorerTest, MultipleChoiceReadsAContextOnce) {
  const std::vector<ChoiceItem> items = {
      {"A context of some length", {"one", "two", "three", "four"}, 1},
      {"Another context", {"five", "six", "seven", "eight"}, 2}};
  const auto bytes = make_byte_tokenizer();
  const auto encoded =
      encode_choices(items, [&](std::string_view text) { return bytes->encode(text); });
  EngineScorer scorer(engine);
  const auto together = multiple_choice(scorer, encoded);
  for (size_t i = 0; i < items.size(); ++i) {
    for (size_t e = 0; e < 4; ++e) {
      const EncodedEnding& ending = encoded[i].endings[e];
      EngineScorer fresh(engine);
      const Scores alone = score(fresh, ending.tokens);
      double sum = 0;
      for (size_t t = static_cast<size_t>(ending.context_tokens) - 1; t < alone.logprobs.size();
           ++t) {
        sum += alone.logprobs[t];
      }
      EXPECT_EQ(together.outcomes[i].logprobs[e], sum);
    }
  }
  EXPECT_LT(scorer.tokens_read(), 24 + 15 + 8 * 7);  // contexts, and at most " three" and the like
}

}  // namespace
}  // namespace quest
