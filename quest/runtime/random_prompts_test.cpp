#include "quest/runtime/random_prompts.h"

#include <set>

#include <gtest/gtest.h>

namespace quest {
namespace {

TEST(RandomPrompts, AreTokensOfTheVocabularyAndAllDifferent) {
  const auto prompts = random_prompts(7, 40, 261);
  ASSERT_EQ(prompts.size(), 7);
  std::set<int32_t> seen;
  for (const std::vector<int32_t>& prompt : prompts) {
    ASSERT_EQ(prompt.size(), 40);
    seen.insert(prompt.begin(), prompt.end());
  }
  EXPECT_GE(*seen.begin(), 0);
  EXPECT_LT(*seen.rbegin(), 261);
  EXPECT_GT(seen.size(), 100);
  EXPECT_EQ(std::set(prompts.begin(), prompts.end()).size(), 7);
}

TEST(RandomPrompts, AreTheSameForTheSameSeed) {
  const auto prompts = random_prompts(3, 20, 1000, 5);
  EXPECT_EQ(random_prompts(3, 20, 1000, 5), prompts);
  EXPECT_EQ(random_prompts(1, 20, 1000, 5).front(), prompts.front());
  EXPECT_NE(random_prompts(3, 20, 1000, 6), prompts);
}

TEST(RandomPrompts, OfNothingAndTheirViews) {
  EXPECT_TRUE(random_prompts(0, 20, 10).empty());
  EXPECT_TRUE(random_prompts(2, 0, 10).back().empty());
  const auto prompts = random_prompts(2, 3, 1);
  const auto views = views_of(prompts);
  ASSERT_EQ(views.size(), 2);
  EXPECT_EQ(views[1].data(), prompts[1].data());
  EXPECT_EQ(views[1].size(), 3);
  EXPECT_EQ(prompts[1], (std::vector<int32_t>{0, 0, 0}));
}

}  // namespace
}  // namespace quest
