#include "quest/model/rope_table.h"

#include <cmath>

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace quest
