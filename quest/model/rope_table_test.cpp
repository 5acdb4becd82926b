#include "quest/model/rope_table.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <span>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/checksum.h"

namespace quest {
namespace {

LlamaConfig with_scaling(RopeScaling scaling) {
  LlamaConfig config;
  config.head_dim = 8;
  config.max_position_embeddings = 16;
  config.rope_scaling = std::move(scaling);
  return config;
}

double angle(const RopeTable& table, int64_t position, int64_t pair) {
  const auto i = static_cast<size_t>(position * 4 + pair);
  return std::atan2(table.sin[i], table.cos[i]);
}

TEST(RopeTable, AnglesFollowTheta) {
  const RopeTable table = make_rope_table(with_scaling({}), 4);
  for (int64_t pair = 0; pair < 4; ++pair) {
    const double expected = std::pow(10000.0, -2.0 * static_cast<double>(pair) / 8.0);
    EXPECT_NEAR(angle(table, 1, pair), expected, 1e-7);
    EXPECT_NEAR(angle(table, 3, pair), 3 * expected, 1e-6);
    EXPECT_EQ(table.cos[static_cast<size_t>(pair)], 1.0f);
  }
}

TEST(RopeTable, LinearDividesAngles) {
  const RopeTable plain = make_rope_table(with_scaling({}), 8);
  const RopeTable scaled = make_rope_table(with_scaling({"linear", 4.0, 1, 4, 0}), 8);
  for (int64_t pair = 0; pair < 4; ++pair) {
    EXPECT_NEAR(angle(scaled, 4, pair), angle(plain, 1, pair), 1e-6);
  }
}

TEST(RopeTable, DynamicChangesNothingWithinTheTrainedLength) {
  const RopeScaling dynamic{"dynamic", 2.0, 1, 4, 0};
  EXPECT_EQ(make_rope_table(with_scaling(dynamic), 16).cos,
            make_rope_table(with_scaling({}), 16).cos);
  const RopeTable longer = make_rope_table(with_scaling(dynamic), 32);
  const RopeTable plain = make_rope_table(with_scaling({}), 32);
  EXPECT_NEAR(angle(longer, 1, 0), angle(plain, 1, 0), 1e-7);
  EXPECT_LT(angle(longer, 1, 3), angle(plain, 1, 3));
}

TEST(RopeTable, Llama3KeepsFastPairsAndStretchesSlowOnes) {
  const RopeTable plain = make_rope_table(with_scaling({}), 4);
  const RopeTable scaled = make_rope_table(with_scaling({"llama3", 8.0, 1.0, 4.0, 64}), 4);
  EXPECT_NEAR(angle(scaled, 1, 0), angle(plain, 1, 0), 1e-7);        // 10 turns in 64 positions
  EXPECT_NEAR(angle(scaled, 1, 3), angle(plain, 1, 3) / 8.0, 1e-8);  // 0.01 turns
}

// Frequencies by the C library in long double, rounded to double once at the same places.
std::vector<double> reference_frequencies(const LlamaConfig& config, int64_t positions) {
  using Long = long double;
  const RopeScaling& scaling = config.rope_scaling;
  double theta = config.rope_theta;
  if (scaling.type == "dynamic" && positions > config.max_position_embeddings) {
    const double ratio =
        static_cast<double>(positions) / static_cast<double>(config.max_position_embeddings);
    const double exponent =
        static_cast<double>(config.head_dim) / (static_cast<double>(config.head_dim) - 2);
    theta *= static_cast<double>(
        std::pow(Long{scaling.factor * ratio - (scaling.factor - 1)}, Long{exponent}));
  }
  std::vector<double> frequencies;
  for (int64_t i = 0; i < config.head_dim / 2; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim);
    auto frequency = static_cast<double>(std::pow(Long{theta}, Long{exponent}));
    if (scaling.type == "linear") frequency /= scaling.factor;
    if (scaling.type == "llama3") {
      const double turns =
          static_cast<double>(scaling.original_max_position) * frequency / (2 * std::numbers::pi);
      const double smooth =
          std::clamp((turns - scaling.low_frequency_factor) /
                         (scaling.high_frequency_factor - scaling.low_frequency_factor),
                     0.0, 1.0);
      frequency = (1 - smooth) * frequency / scaling.factor + smooth * frequency;
    }
    frequencies.push_back(frequency);
  }
  return frequencies;
}

float ulp_of(double x) {
  const auto near = static_cast<float>(std::fabs(x));
  return std::nextafter(near, std::numeric_limits<float>::infinity()) - near;
}

std::vector<LlamaConfig> wide_configs() {
  std::vector<LlamaConfig> configs;
  for (const RopeScaling& scaling :
       {RopeScaling{}, RopeScaling{"linear", 8.0, 1, 4, 0}, RopeScaling{"dynamic", 2.0, 1, 4, 0},
        RopeScaling{"llama3", 32.0, 1.0, 4.0, 8192}}) {
    for (const double theta : {10000.0, 500000.0}) {
      LlamaConfig config;
      config.head_dim = theta == 10000.0 ? 64 : 128;
      config.rope_theta = theta;
      config.max_position_embeddings = 4096;
      config.rope_scaling = scaling;
      configs.push_back(config);
    }
  }
  return configs;
}

TEST(RopeTable, IsTheTrueCosineRoundedOnce) {
  if (std::numeric_limits<long double>::digits < 64) {
    GTEST_SKIP() << "long double is no wider than double on this machine";
  }
  for (const LlamaConfig& config : wide_configs()) {
    constexpr int64_t kPositions = 20000;
    const RopeTable table = make_rope_table(config, kPositions);
    const std::vector<double> frequencies = reference_frequencies(config, kPositions);
    double worst = 0;
    for (int64_t p = 0; p < kPositions; ++p) {
      for (size_t i = 0; i < frequencies.size(); ++i) {
        const size_t at = static_cast<size_t>(p) * frequencies.size() + i;
        const long double angle_of_pair = static_cast<double>(p) * frequencies[i];
        const auto cos = static_cast<double>(std::cos(angle_of_pair));
        const auto sin = static_cast<double>(std::sin(angle_of_pair));
        worst = std::max({worst, std::fabs(table.cos[at] - cos) / ulp_of(cos),
                          std::fabs(table.sin[at] - sin) / ulp_of(sin)});
      }
    }
    EXPECT_LT(worst, 0.5001) << config.rope_scaling.type << " " << config.rope_theta;
  }
}

// Positions up to four million: a table of one pair, whose angle is the position itself.
TEST(RopeTable, IsTheTrueCosineAtFarPositions) {
  if (std::numeric_limits<long double>::digits < 64) {
    GTEST_SKIP() << "long double is no wider than double on this machine";
  }
  LlamaConfig config;
  config.head_dim = 2;
  config.rope_scaling = {"dynamic", 2.0, 1, 4, 0};
  constexpr int64_t kPositions = int64_t{1} << 22;
  const RopeTable table = make_rope_table(config, kPositions);
  double worst = 0;
  for (int64_t p = 0; p < kPositions; ++p) {
    const auto cos = static_cast<double>(std::cos(static_cast<long double>(p)));
    worst = std::max(worst, std::fabs(table.cos[static_cast<size_t>(p)] - cos) / ulp_of(cos));
  }
  EXPECT_LT(worst, 0.5001);
}

// The same on every machine; a change of these bits changes what models say.
TEST(RopeTable, HasTheseBits) {
  std::string all;
  for (const LlamaConfig& config : wide_configs()) {
    const RopeTable table = make_rope_table(config, 6000);
    all += checksum128_hex(std::as_bytes(std::span(table.cos)));
    all += checksum128_hex(std::as_bytes(std::span(table.sin)));
  }
  EXPECT_EQ(checksum128_hex(all), "1a6448f27f1d87dea75cb07a4f444a27");
}

// The largest numbers that a config.json may hold.
TEST(RopeTable, ExtremeSettingsGiveFiniteTables) {
  LlamaConfig config = with_scaling({"dynamic", 1e308, 1, 4, 0});
  for (const double theta : {1.0, std::numeric_limits<double>::max()}) {
    for (const int64_t dim : {2, 8}) {
      config.rope_theta = theta;
      config.head_dim = dim;
      for (const float value : make_rope_table(config, 64).cos) ASSERT_LE(std::fabs(value), 1.0f);
    }
  }
}

}  // namespace
}  // namespace quest
