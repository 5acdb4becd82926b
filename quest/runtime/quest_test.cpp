// The C interface: it does what the engine does, and no mistake of a caller leaves it as an
// exception.
#include "quest/runtime/quest.h"

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quest/packed/testing_packed.h"
#include "quest/runtime/cpu_engine.h"

namespace quest {
namespace {

int collect(const char* text, size_t length, void* user) {
  static_cast<std::string*>(user)->append(text, length);
  return 1;
}

class CInterface : public ::testing::Test {
 protected:
  void SetUp() override {
    path = testing::write_small_packed_model(folder / "m", "w2a2").string();
    const quest_options options = {2, 0, 7, 0};
    model = quest_open(path.c_str(), &options);
    ASSERT_NE(model, nullptr) << quest_last_error();
  }
  void TearDown() override { quest_close(model); }

  const testing::TemporaryFolder folder;
  std::string path;
  quest_model* model = nullptr;
};

TEST_F(CInterface, ComputesWhatTheEngineComputes) {
  EXPECT_EQ(quest_vocabulary_size(model), 261);
  EXPECT_EQ(quest_context_length(model), 64);
  const std::vector<int32_t> tokens = {5, 9, 200, 31};
  std::vector<float> logits(261), want(261);
  const int64_t s = quest_add_sequence(model);
  ASSERT_GT(s, 0);
  ASSERT_EQ(quest_prefill(model, s, tokens.data(), 3, nullptr), QUEST_OK) << quest_last_error();
  ASSERT_EQ(quest_decode(model, &s, &tokens[3], 1, logits.data()), QUEST_OK);
  EXPECT_EQ(quest_sequence_length(model, s), 4);
  CpuEngine engine{PackedModel(path), {.threads = 1}};
  engine.prefill(engine.add_sequence(), tokens, want);
  EXPECT_EQ(std::memcmp(logits.data(), want.data(), 261 * sizeof(float)), 0);
  EXPECT_EQ(quest_truncate(model, s, 1), QUEST_OK);
  EXPECT_EQ(quest_sequence_length(model, s), 1);
  EXPECT_EQ(quest_remove_sequence(model, s), QUEST_OK);
}

TEST_F(CInterface, TokensAndText) {
  std::vector<int32_t> tokens(3);
  EXPECT_EQ(quest_tokenize(model, "abcde", 5, tokens.data(), 3), 5);
  EXPECT_EQ(tokens, (std::vector<int32_t>{'a', 'b', 'c'}));
  char text[4] = {};
  EXPECT_EQ(quest_detokenize(model, tokens.data(), 3, text, 2), 3);
  EXPECT_STREQ(text, "ab");
  quest_sampling sampling = quest_default_sampling();
  EXPECT_EQ(sampling.max_tokens, 200);
  sampling.max_tokens = 20;
  std::string first, second;
  EXPECT_EQ(quest_generate(model, "Hi", &sampling, collect, &first), QUEST_OK);
  EXPECT_EQ(quest_generate(model, "Hi", &sampling, collect, &second), QUEST_OK);
  EXPECT_FALSE(first.empty());
  EXPECT_EQ(first, second);
}

TEST_F(CInterface, BiasesAndStopsAreLists) {
  // Biased so, it writes nothing but 'a'.
  quest_sampling sampling = quest_default_sampling();
  sampling.max_tokens = 6;
  const std::vector<quest_logit_bias> only_a = {{'a', 1e6F}, {'b', -INFINITY}};
  sampling.logit_bias = only_a.data();
  sampling.logit_bias_count = 1;
  const auto written = [&] {
    std::string text;
    EXPECT_EQ(quest_generate(model, "Hi", &sampling, collect, &text), QUEST_OK)
        << quest_last_error();
    return text;
  };
  EXPECT_EQ(written(), "aaaaaa");
  sampling.logit_bias_count = 2;
  EXPECT_EQ(written(), "aaaaaa");
  const std::vector<const char*> stops = {"xyz", "aaa"};
  sampling.stops = stops.data();
  sampling.stop_count = 1;
  EXPECT_EQ(written(), "aaaaaa");
  sampling.stop = "aaaaa";
  EXPECT_EQ(written(), "");
  sampling.stop = nullptr;
  sampling.stop_count = 2;
  EXPECT_EQ(written(), "");

  const auto refused = [&](const char* why) {
    EXPECT_EQ(quest_generate(model, "Hi", &sampling, collect, nullptr), QUEST_USAGE);
    EXPECT_NE(std::string(quest_last_error()).find(why), std::string::npos) << quest_last_error();
  };
  sampling.stop = "";
  refused("stop text is empty");
  sampling.stop = nullptr;
  const std::vector<const char*> null_text = {nullptr};
  sampling.stops = null_text.data();
  sampling.stop_count = 1;
  refused("a text of stops is NULL");
  sampling.stops = nullptr;
  refused("stops is NULL");
  sampling.stop_count = -1;
  refused("the count is -1");
  sampling.stop_count = 0;
  sampling.logit_bias = nullptr;
  refused("logit_bias is NULL");
  const quest_logit_bias beyond = {261, 1};
  sampling.logit_bias = &beyond;
  sampling.logit_bias_count = 1;
  refused("token 261");
}

TEST_F(CInterface, MistakesAreStatusAndMessage) {
  const auto says = [](const char* text) {
    return std::string(quest_last_error()).find(text) != std::string::npos;
  };
  EXPECT_EQ(quest_open((path + "-missing").c_str(), nullptr), nullptr);
  EXPECT_TRUE(says("-missing")) << quest_last_error();
  EXPECT_EQ(quest_open(nullptr, nullptr), nullptr);
  EXPECT_TRUE(says("folder is NULL"));
  const int32_t bad = 261;
  const int64_t s = quest_add_sequence(model);
  EXPECT_EQ(quest_prefill(model, s, &bad, 1, nullptr), QUEST_DATA);
  EXPECT_TRUE(says("261"));
  EXPECT_EQ(quest_prefill(model, s + 7, &bad, 1, nullptr), QUEST_DATA);
  EXPECT_EQ(quest_prefill(model, s, nullptr, 1, nullptr), QUEST_USAGE);
  EXPECT_EQ(quest_prefill(model, s, &bad, -1, nullptr), QUEST_USAGE);
  EXPECT_EQ(quest_decode(model, &s, &bad, 1, nullptr), QUEST_USAGE);
  EXPECT_EQ(quest_remove_sequence(model, 77), QUEST_USAGE);
  EXPECT_EQ(quest_sequence_length(model, 77), -1);
  EXPECT_EQ(quest_vocabulary_size(nullptr), -1);
  EXPECT_EQ(quest_generate(model, "a", nullptr, nullptr, nullptr), QUEST_USAGE);
  quest_sampling sampling = quest_default_sampling();
  sampling.top_p = 2;
  EXPECT_EQ(quest_generate(model, "a", &sampling, collect, nullptr), QUEST_USAGE);
  EXPECT_TRUE(says("top_p is 2"));
  quest_close(nullptr);
}

}  // namespace
}  // namespace quest
