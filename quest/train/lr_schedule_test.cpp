#include "quest/train/lr_schedule.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/base/safetensors.h"
#include "quest/base/testing.h"

namespace quest::train {
namespace {

// Step and expected rate. The values come from an independent program of the published formulas
// (PyTorch's OneCycleLR; the others as in the method's public trainer).
struct Point {
  int64_t step;
  double lr;
};

void expect_rates(const TrainConfig::Schedule& settings, double lr, int64_t steps,
                  const std::vector<Point>& points) {
  const LrSchedule schedule(settings, lr, steps);
  for (const Point& p : points) {
    EXPECT_NEAR(schedule.at(p.step), p.lr, 1e-14 * lr) << settings.name << " step " << p.step;
  }
}

TrainConfig::Schedule named(const std::string& name, double warmup) {
  TrainConfig::Schedule settings;
  settings.name = name;
  settings.warmup_fraction = warmup;
  return settings;
}

TEST(LrSchedule, GoldenOneCycle) {
  for (const char* mode : {"bf16", "w4a4"}) {
    const SafetensorsReader golden(std::string(QUEST_SOURCE_DIR) + "/tests/golden/llama_" + mode +
                                   ".safetensors");
    const auto rates = golden.tensor("learning_rates").as<double>();
    ASSERT_EQ(rates.size(), 24u);
    const LrSchedule schedule(named("onecycle", 0.25), 1e-3, 24);
    for (size_t step = 0; step < rates.size(); ++step) {
      EXPECT_NEAR(schedule.at(static_cast<int64_t>(step)), rates[step], 1e-18) << "step " << step;
    }
  }
}

TEST(LrSchedule, OneCycle) {
  expect_rates(named("onecycle", 0.1), 1.2e-3, 100,
               {{0, 1.2e-05},
                {5, 0.0007091470175341566},
                {9, 0.0012},
                {10, 0.0011996710465903117},
                {50, 0.0007351534745184353},
                {99, 0.00012}});
  expect_rates(named("onecycle", 0), 1, 10,
               {{0, 0.9779754323328191}, {5, 0.4109423525312737}, {9, 0.1}});
  TrainConfig::Schedule steps = named("onecycle", 0.9);
  steps.warmup_steps = 10;  // wins over the fraction
  expect_rates(steps, 1.2e-3, 100, {{9, 0.0012}, {50, 0.0007351534745184353}});
}

TEST(LrSchedule, LinearIsOneCycleWithLines) {
  expect_rates(
      named("linear", 0.2), 0.5, 20,
      {{0, 0.005}, {1, 0.17}, {3, 0.5}, {4, 0.471875}, {11, 0.275}, {19, 0.05}, {50, 0.05}});
}

TEST(LrSchedule, CosAndCosInf) {
  expect_rates(named("cos", 0.2), 1, 20,
               {{0, 0.01}, {3, 0.7525}, {4, 1}, {12, 0.55}, {19, 0.1086466238185463}});
  TrainConfig::Schedule inf = named("cos_inf", 0.2);
  inf.constant_fraction = 0.25;
  expect_rates(inf, 1, 20,
               {{0, 0.01},
                {1, 0.2575},
                {4, 1},
                {9, 0.6140416772229784},
                {14, 0.11822816187347623},
                {15, 0.1},
                {19, 0.1}});
}

TEST(LrSchedule, WarmupStableDecay) {
  const struct {
    const char* shape;
    double at_13, at_19;
  } shapes[] = {
      {"linear", 0.73, 0.19},
      {"cosine", 0.8145033635316129, 0.12202456766718092},
      {"exp", 0.5011872336272724, 0.12589254117941673},
      {"mirror_cosine", 0.6454966364683871, 0.25797543233281905},
      {"square", 0.919, 0.271},
      {"sqrt", 0.5070496982453505, 0.14618503175453762},
  };
  for (const auto& s : shapes) {
    TrainConfig::Schedule settings = named("wsd", 0.2);
    settings.decay_fraction = 0.5;
    settings.decay_final_factor = 0.1;
    settings.decay_shape = s.shape;
    expect_rates(settings, 1, 20,
                 {{0, 0.01}, {2, 0.505}, {4, 1}, {9, 1}, {10, 1}, {13, s.at_13}, {19, s.at_19}});
  }
}

TEST(LrSchedule, Constant) {
  expect_rates(named("constant", 0), 0.3, 5, {{0, 0.3}, {4, 0.3}, {100, 0.3}});
  expect_rates(named("constant", 0.4), 1, 10, {{0, 0.01}, {2, 0.505}, {4, 1}, {9, 1}});
}

TEST(LrSchedule, OneStepIsFinite) {
  for (const char* name : {"onecycle", "linear", "cos", "cos_inf", "wsd", "constant"}) {
    for (const double warmup : {0.0, 0.5, 1.0}) {
      TrainConfig::Schedule settings = named(name, warmup);
      settings.decay_fraction = 0;
      settings.constant_fraction = 0;
      for (const int64_t steps : {1, 2, 3}) {
        const LrSchedule schedule(settings, 1, steps);
        for (int64_t step = 0; step < steps; ++step) {
          EXPECT_GT(schedule.at(step), 0) << name << " " << warmup << " " << steps;
          EXPECT_LE(schedule.at(step), 1) << name << " " << warmup << " " << steps;
        }
      }
    }
  }
}

TEST(LrSchedule, RefusesPartsThatDoNotFit) {
  TrainConfig::Schedule settings = named("cos", 0.1);
  settings.warmup_steps = 30;
  EXPECT_QUEST_ERROR(LrSchedule(settings, 1, 20), ErrorKind::kUsage, "30 steps of warm-up");
  EXPECT_QUEST_ERROR(LrSchedule(named("cos", 0.1), 1, 0), ErrorKind::kUsage, "0 steps");
}

}  // namespace
}  // namespace quest::train
