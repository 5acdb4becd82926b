#include "quest/train/averaging.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/base/testing.h"

namespace quest::train {
namespace {

std::vector<nn::NamedParameter> one_parameter() {
  at::Tensor w = at::zeros({3}, at::kDouble);
  w.requires_grad_(true);
  return {{"w", w, true}};
}
void set(const std::vector<nn::NamedParameter>& p, double value) {
  const at::NoGradGuard no_grad;
  at::Tensor(p[0].tensor).fill_(value);
}
double value(const std::vector<nn::NamedParameter>& p) { return p[0].tensor[1].item<double>(); }

double average(const WeightAverages& averages, const std::vector<nn::NamedParameter>& p,
               const std::string& name) {
  const WeightAverages::Use use(averages, name);
  return value(p);
}

TEST(WeightAverages, Ema) {
  const auto p = one_parameter();
  TrainConfig::Averaging settings;
  settings.ema_decay = 0.75;
  settings.interval = 2;
  WeightAverages averages(settings, p);
  EXPECT_TRUE(averages.names().empty());
  for (int step = 1; step <= 7; ++step) {
    set(p, step);
    averages.update(step);
  }
  EXPECT_EQ(averages.names(), std::vector<std::string>{"ema"});
  // 2, then 2 + (4 - 2) / 4 = 2.5, then 2.5 + (6 - 2.5) / 4.
  EXPECT_DOUBLE_EQ(average(averages, p, "ema"), 3.375);
  EXPECT_EQ(value(p), 7);  // its own again
}

TEST(WeightAverages, MeanOfTheLastCompleteBlock) {
  const auto p = one_parameter();
  TrainConfig::Averaging settings;
  settings.horizon = 3;
  WeightAverages averages(settings, p);
  const double expected[] = {1, 1.5, 2, 2, 2, 5, 5};
  for (int step = 1; step <= 7; ++step) {
    set(p, step);
    averages.update(step);
    EXPECT_DOUBLE_EQ(average(averages, p, "mean"), expected[step - 1]) << step;
  }
  EXPECT_EQ(averages.counts(), (std::vector<int64_t>{0, 1, 3}));
  EXPECT_QUEST_ERROR(averages.set_counts({1}), ErrorKind::kData, "3 counts");
}

}  // namespace
}  // namespace quest::train
