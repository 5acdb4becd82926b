#include "quest/train/guards.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/base/testing.h"

namespace quest::train {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

// 16 losses of mean 3 and standard deviation about 0.1.
void fill(Guards& guards) {
  for (int k = 0; k < 16; ++k) {
    EXPECT_EQ(guards.check(k + 1, 3 + (k % 2 ? 0.1 : -0.1), 1), Verdict::kGood);
  }
}

TrainConfig::Guards settings(const std::string& spike) {
  TrainConfig::Guards s;
  s.spike = spike;
  s.spike_window = 16;
  return s;
}

TEST(Guards, NotFinite) {
  Guards skip(settings("warn"));
  EXPECT_EQ(skip.check(1, kNan, 1), Verdict::kSkip);
  EXPECT_EQ(skip.check(2, 3, kInf), Verdict::kSkip);
  EXPECT_EQ(skip.check(3, 3, 1), Verdict::kGood);
  TrainConfig::Guards s = settings("warn");
  s.nonfinite = "stop";
  Guards stop(s);
  EXPECT_QUEST_ERROR(stop.check(7, kInf, 1), ErrorKind::kNumeric, "step 7: loss inf");
}

TEST(Guards, TooManySkippedInARow) {
  TrainConfig::Guards s = settings("warn");
  s.max_skipped = 3;
  Guards guards(s);
  guards.check(1, kNan, 1);
  guards.check(2, kNan, 1);
  guards.check(3, 3, 1);  // a good step begins the count anew
  guards.check(4, kNan, 1);
  guards.check(5, kNan, 1);
  EXPECT_QUEST_ERROR(guards.check(6, kNan, 1), ErrorKind::kNumeric, "3 steps in a row");
}

TEST(Guards, Spikes) {
  Guards warn(settings("warn"));
  fill(warn);
  EXPECT_EQ(warn.check(17, 3.5, 1), Verdict::kGood);  // 4.8 deviations
  EXPECT_EQ(warn.check(18, 2.0, 1), Verdict::kGood);  // downwards is no spike
  EXPECT_EQ(warn.check(19, 30.0, 1), Verdict::kSpike);
  EXPECT_GT(warn.mean_loss(), 4);  // it is in the window

  Guards skip(settings("skip"));
  fill(skip);
  EXPECT_EQ(skip.check(17, 30.0, 1), Verdict::kSkip);
  EXPECT_NEAR(skip.mean_loss(), 3, 1e-12);  // it is not
  EXPECT_EQ(skip.check(18, 3.0, 1), Verdict::kGood);

  Guards stop(settings("stop"));
  fill(stop);
  EXPECT_QUEST_ERROR(stop.check(17, 30.0, 1), ErrorKind::kNumeric, "standard deviations");

  Guards off(settings("off"));
  fill(off);
  EXPECT_EQ(off.check(17, 1e9, 1), Verdict::kGood);
}

TEST(Guards, NoSpikesBeforeTheWindowIsHalfFullNorFromEqualLosses) {
  Guards young(settings("stop"));
  for (int k = 0; k < 7; ++k) young.check(k + 1, 3 + 0.01 * k, 1);
  EXPECT_EQ(young.check(8, 100, 1), Verdict::kGood);
  Guards flat(settings("stop"));
  for (int k = 0; k < 16; ++k) flat.check(k + 1, 3, 1);
  EXPECT_EQ(flat.check(17, 3.001, 1), Verdict::kGood);
}

TEST(Guards, StateGoesOn) {
  Guards before(settings("skip"));
  fill(before);
  before.check(17, kNan, 1);
  Guards after(settings("skip"));
  after.restore(nlohmann::json::parse(before.state().dump()));
  EXPECT_EQ(after.state(), before.state());
  EXPECT_EQ(after.check(18, 30, 1), before.check(18, 30, 1));
  EXPECT_EQ(after.state(), before.state());
  EXPECT_QUEST_ERROR(after.restore({{"window", "x"}}), ErrorKind::kData, "window");
}

}  // namespace
}  // namespace quest::train
