#include "quest/runtime/sampler.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <set>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/checksum.h"
#include "quest/base/error.h"
#include "quest/base/testing.h"

namespace quest {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Logits whose softmax at temperature 1 is these probabilities.
std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

std::vector<int> draw(const SamplerSettings& settings, const std::vector<float>& logits, int draws,
                      std::span<const int32_t> previous = {}) {
  Sampler sampler(settings);
  std::vector<int> counts(logits.size());
  for (int i = 0; i < draws; ++i) {
    ++counts[static_cast<size_t>(sampler.sample(logits, static_cast<uint64_t>(i), previous))];
  }
  return counts;
}

std::set<int> drawn(const SamplerSettings& settings, const std::vector<float>& logits,
                    std::span<const int32_t> previous = {}) {
  const std::vector<int> counts = draw(settings, logits, 3000, previous);
  std::set<int> ids;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) ids.insert(static_cast<int>(i));
  }
  return ids;
}

// Pearson's statistic against the expected probabilities.
double chi_squared(const std::vector<int>& counts, const std::vector<double>& probabilities) {
  const int draws = std::accumulate(counts.begin(), counts.end(), 0);
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = probabilities[i] * draws;
    sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return sum;
}

TEST(Sampler, DrawsInProportion) {
  const std::vector<double> p = {0.4, 0.05, 0.3, 0.1, 0.15};
  for (const uint64_t seed : {0, 1, 2}) {
    // 4 degrees of freedom: above 23.5 with probability 1e-4.
    EXPECT_LT(chi_squared(draw({.seed = seed}, logits_of(p), 50000), p), 23.5);
    // The order in which filters leave the candidates must not matter.
    EXPECT_LT(
        chi_squared(draw({.top_k = 5, .top_p = 0.999999, .seed = seed}, logits_of(p), 50000), p),
        23.5);
  }
}

TEST(Sampler, TemperatureSharpensAndFlattens) {
  const std::vector<double> p = {0.5, 0.3, 0.2};
  for (const double temperature : {0.5, 2.0}) {
    std::vector<double> expected;
    for (const double value : p) expected.push_back(std::pow(value, 1 / temperature));
    const double total = std::accumulate(expected.begin(), expected.end(), 0.0);
    for (double& value : expected) value /= total;
    const auto counts = draw({.temperature = temperature, .seed = 3}, logits_of(p), 50000);
    EXPECT_LT(chi_squared(counts, expected), 18.4);  // 2 degrees of freedom, 1e-4
  }
  // So cold that all other weights underflow.
  EXPECT_EQ(drawn({.temperature = 1e-30}, {1.0f, 1.0001f, 0.0f}), (std::set<int>{1}));
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowestIdOfEquals) {
  Sampler greedy({.temperature = 0});
  EXPECT_EQ(greedy.sample(std::vector<float>{0.0f, 3.0f, -1.0f, 3.0f}, 0), 1);
  EXPECT_EQ(greedy.sample(std::vector<float>{-kInfinity, -5.0f, -kInfinity}, 7), 1);
  EXPECT_EQ(greedy.sample(std::vector<float>{2.0f}, 0), 0);
}

TEST(Sampler, SameSeedAndPositionGiveTheSameToken) {
  const std::vector<float> logits(100, 0.0f);
  Sampler a({.seed = 11}), b({.seed = 11}), other({.seed = 12});
  std::vector<int32_t> first, second, third;
  for (uint64_t i = 0; i < 50; ++i) first.push_back(a.sample(logits, i));
  for (uint64_t i = 50; i-- > 0;) second.insert(second.begin(), b.sample(logits, i));
  for (uint64_t i = 0; i < 50; ++i) third.push_back(other.sample(logits, i));
  EXPECT_EQ(first, second);
  EXPECT_NE(first, third);
}

// No library decides them: 4000 draws from 500 logits on every machine.
TEST(Sampler, DrawsTheseTokensEverywhere) {
  std::vector<float> logits;
  for (int i = 0; i < 500; ++i) {
    logits.push_back(static_cast<float>(i * 7919 % 500) * 0.03125f - 8.0f);
  }
  std::vector<int32_t> tokens;
  for (const SamplerSettings& settings :
       {SamplerSettings{.seed = 1}, SamplerSettings{.temperature = 0.7, .top_p = 0.9, .seed = 2},
        SamplerSettings{.temperature = 1.3, .top_k = 50, .min_p = 0.05, .seed = 3},
        SamplerSettings{.repetition_penalty = 1.1, .seed = 4}}) {
    Sampler sampler(settings);
    for (uint64_t i = 0; i < 1000; ++i) tokens.push_back(sampler.sample(logits, i, tokens));
  }
  EXPECT_EQ(checksum128_hex(std::as_bytes(std::span(tokens))), "84b80be31d58c0ed5f90a10a96f4a255");
}

TEST(Sampler, TopKKeepsTheLargestAndTheLowestIdsOfEquals) {
  EXPECT_EQ(drawn({.top_k = 2}, {1.0f, 3.0f, 2.0f, 0.0f}), (std::set<int>{1, 2}));
  EXPECT_EQ(drawn({.top_k = 2}, {1.0f, 1.0f, 1.0f, 1.0f}), (std::set<int>{0, 1}));
  EXPECT_EQ(drawn({.top_k = 1}, {1.0f, 1.0f}), (std::set<int>{0}));
  EXPECT_EQ(drawn({.top_k = 9}, {1.0f, 1.0f}), (std::set<int>{0, 1}));
}

TEST(Sampler, TopPKeepsTheSmallestSetThatHoldsIt) {
  const auto logits = logits_of({0.1, 0.5, 0.15, 0.25});
  EXPECT_EQ(drawn({.top_p = 0.4}, logits), (std::set<int>{1}));
  EXPECT_EQ(drawn({.top_p = 0.6}, logits), (std::set<int>{1, 3}));
  EXPECT_EQ(drawn({.top_p = 0.8}, logits), (std::set<int>{1, 2, 3}));
  EXPECT_EQ(drawn({.top_p = 0.95}, logits), (std::set<int>{0, 1, 2, 3}));
  EXPECT_EQ(drawn({.top_p = 1e-9}, logits), (std::set<int>{1}));
  // After top-k the rest counts as everything: 0.5 / 0.75 holds 0.66.
  EXPECT_EQ(drawn({.top_k = 2, .top_p = 0.66}, logits), (std::set<int>{1}));
  EXPECT_EQ(drawn({.top_k = 2, .top_p = 0.67}, logits), (std::set<int>{1, 3}));
}

TEST(Sampler, MinPKeepsAFractionOfTheLargest) {
  const auto logits = logits_of({0.1, 0.5, 0.15, 0.25});
  EXPECT_EQ(drawn({.min_p = 0.49}, logits), (std::set<int>{1, 3}));
  EXPECT_EQ(drawn({.min_p = 0.25}, logits), (std::set<int>{1, 2, 3}));
  EXPECT_EQ(drawn({.min_p = 1.0}, logits), (std::set<int>{1}));
}

TEST(Sampler, RepetitionPenaltyLowersWhatWasSaid) {
  Sampler sampler({.temperature = 0, .repetition_penalty = 2});
  const std::vector<float> positive = {4.0f, 3.0f}, negative = {-1.0f, -1.5f};
  const std::vector<int32_t> said = {0, 0, -1, 99};
  EXPECT_EQ(sampler.sample(positive, 0), 0);
  EXPECT_EQ(sampler.sample(positive, 0, said), 1);
  EXPECT_EQ(sampler.sample(negative, 0, said), 1);
}

TEST(Sampler, ExcludedTokensAreNeverDrawn) {
  EXPECT_EQ(drawn({}, {0.0f, -kInfinity, 0.0f}), (std::set<int>{0, 2}));
  EXPECT_EQ(drawn({.top_k = 3}, {0.0f, -kInfinity, 0.0f}), (std::set<int>{0, 2}));
}

TEST(Sampler, NonFiniteLogitsAreErrors) {
  for (const double temperature : {0.0, 1.0}) {
    Sampler sampler({.temperature = temperature});
    EXPECT_QUEST_ERROR(sampler.sample(std::vector<float>{0.0f, kNan}, 0), ErrorKind::kNumeric,
                       "token 1");
    EXPECT_QUEST_ERROR(sampler.sample(std::vector<float>{kInfinity, 0.0f}, 0), ErrorKind::kNumeric,
                       "token 0");
    EXPECT_QUEST_ERROR(sampler.sample(std::vector<float>{-kInfinity, -kInfinity}, 0),
                       ErrorKind::kNumeric, "all 2 logits");
    EXPECT_QUEST_ERROR(sampler.sample(std::vector<float>{}, 0), ErrorKind::kUsage, "0 logits");
  }
}

TEST(Sampler, RefusesImpossibleSettings) {
  EXPECT_QUEST_ERROR(Sampler({.temperature = -0.1}), ErrorKind::kUsage, "temperature is -0.1");
  EXPECT_QUEST_ERROR(Sampler({.temperature = kNan}), ErrorKind::kUsage, "temperature");
  EXPECT_QUEST_ERROR(Sampler({.temperature = kInfinity}), ErrorKind::kUsage, "temperature");
  EXPECT_QUEST_ERROR(Sampler({.top_k = -1}), ErrorKind::kUsage, "top_k is -1");
  EXPECT_QUEST_ERROR(Sampler({.top_p = 0}), ErrorKind::kUsage, "top_p is 0");
  EXPECT_QUEST_ERROR(Sampler({.top_p = 1.01}), ErrorKind::kUsage, "top_p");
  EXPECT_QUEST_ERROR(Sampler({.min_p = -0.5}), ErrorKind::kUsage, "min_p");
  EXPECT_QUEST_ERROR(Sampler({.min_p = kNan}), ErrorKind::kUsage, "min_p");
  EXPECT_QUEST_ERROR(Sampler({.repetition_penalty = 0}), ErrorKind::kUsage, "repetition_penalty");
}

TEST(Sampler, LogitBiasIsAddedBeforeTheFilters) {
  const std::vector<float> logits = {1.0f, 2.0f, 3.0f, 0.0f};
  Sampler greedy({.temperature = 0, .logit_bias = {{3, 5.0f}}});
  EXPECT_EQ(greedy.sample(logits, 0), 3);
  Sampler excluded({.temperature = 0, .logit_bias = {{2, -kInfinity}, {1, -1.5f}}});
  EXPECT_EQ(excluded.sample(logits, 0), 0);
  EXPECT_EQ(drawn({.top_k = 1, .logit_bias = {{3, 9.0f}}}, logits), (std::set<int>{3}));
  EXPECT_QUEST_ERROR(Sampler({.logit_bias = {{0, kNan}}}), ErrorKind::kUsage, "token 0");
  EXPECT_QUEST_ERROR(Sampler({.logit_bias = {{-1, 1.0f}}}), ErrorKind::kUsage, "token -1");
  EXPECT_QUEST_ERROR(Sampler({.logit_bias = {{4, 1.0f}}}).sample(logits, 0), ErrorKind::kUsage,
                     "the last one is 3");
}

}  // namespace
}  // namespace quest
