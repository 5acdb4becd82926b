#include "quest/scaling/budget_plan.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "quest/base/json_util.h"
#include "quest/base/philox.h"
#include "quest/base/testing.h"
#include "quest/scaling/fit_file.h"
#include "quest/scaling/power_curve.h"

namespace quest::scaling {
namespace {

using quest::testing::TemporaryFolder;

TEST(PowerCurve, IsAStraightLineInLogarithms) {
  const PowerCurve goes_on({{100, 1000}, {1, 1}, {10, 10}}, PowerCurve::Beyond::kGoesOn);
  EXPECT_NEAR(goes_on(1), 1, 1e-12);
  EXPECT_NEAR(goes_on(10), 10, 1e-11);
  EXPECT_NEAR(goes_on(std::sqrt(1000.0)), 100, 1e-9);  // half-way from 10 to 1000
  EXPECT_NEAR(goes_on(1000), 1e5, 1e-5);
  EXPECT_NEAR(goes_on(0.1), 0.1, 1e-12);
  const PowerCurve stays({{1, 1}, {100, 1000}}, PowerCurve::Beyond::kStays);
  EXPECT_NEAR(stays(1e6), 1000, 1e-8);
  EXPECT_NEAR(stays(1e-6), 1, 1e-12);
  EXPECT_NEAR(stays(10), std::sqrt(1000.0), 1e-9);
  EXPECT_NEAR(PowerCurve({{3, 7}}, PowerCurve::Beyond::kGoesOn)(1e9), 7, 1e-12);
  EXPECT_QUEST_ERROR(PowerCurve({}, PowerCurve::Beyond::kStays), ErrorKind::kUsage, "one point");
  EXPECT_QUEST_ERROR(PowerCurve({{1, 0}}, PowerCurve::Beyond::kStays), ErrorKind::kUsage, "(1, 0)");
  EXPECT_QUEST_ERROR(PowerCurve({{1, 2}, {1, 3}}, PowerCurve::Beyond::kStays), ErrorKind::kUsage,
                     "same place 1");
}

// Draws of one test case, in turn.
class Draws {
 public:
  explicit Draws(uint64_t number) : random_(7, number) {}
  double between(double low, double high) { return low + (high - low) * random_.uniform(next_++); }
  double log_between(double low, double high) {
    return std::exp(between(std::log(low), std::log(high)));
  }
  bool chance(double p) { return between(0, 1) < p; }

 private:
  Philox random_;
  uint64_t next_ = 0;
};

ScalingLaw random_law(Draws& draws) {
  ScalingLaw law;
  law.alpha = draws.between(0.05, 0.5);
  law.beta = draws.between(0.05, 0.5);
  // Powers of sensible size at 1e8 parameters and 1e10 tokens.
  law.a = draws.between(0.2, 2) * std::pow(1e8, law.alpha);
  law.b = draws.between(0.2, 2) * std::pow(1e10, law.beta);
  law.e = draws.chance(0.5) ? 0 : draws.between(0, 1.5);
  law.eff = {{"bf16", 1.0}, {"w4a4", draws.between(0.3, 1)}, {"w1a1", draws.between(0.01, 0.2)}};
  return law;
}

FormatCosts costs_of(const std::string& format, Draws& draws) {
  FormatCosts costs;
  costs.format = format;
  const double bits = format == "bf16" ? 16 : format == "w4a4" ? 4 : 1;
  const double table = draws.log_between(1e2, 1e4);
  costs.memory_bytes = [=](double n) { return n * bits / 8 + table * std::pow(n, 0.37); };
  const double rate = draws.log_between(1e9, 1e11), fixed = draws.between(0, 1e-4);
  costs.decode_seconds = [=](double n) { return fixed + n * bits / 8 / rate; };
  costs.prefill_seconds = [=](double n) { return 2 * n / (30 * rate); };
  costs.training_speed = draws.between(0.5, 2);
  return costs;
}

PlanBudget random_budget(Draws& draws) {
  PlanBudget budget;
  if (draws.chance(0.5)) budget.memory_bytes = draws.log_between(1e6, 1e10);
  if (draws.chance(0.3)) budget.decode_seconds = draws.log_between(1e-4, 1e-1);
  if (draws.chance(0.3)) budget.prefill_seconds = draws.log_between(1e-5, 1e-2);
  if (draws.chance(0.5)) budget.flops = draws.log_between(1e15, 1e23);
  if (draws.chance(0.5)) budget.tokens = draws.log_between(1e7, 1e12);
  if (draws.chance(0.3)) budget.tokens_per_parameter = draws.log_between(1, 1e4);
  return budget;
}

// What is asked of a plan, told again from N and D alone.
struct Judge {
  const ScalingLaw& law;
  const FormatCosts& costs;
  const PlanQuestion& question;

  double flops(double n, double d) const { return 6 * n * d / costs.training_speed; }
  double loss(double n, double d) const { return law.loss(n, d, costs.format); }
  bool is_allowed(double n, double d, double slack = 1) const {
    const PlanBudget& b = question.budget;
    return costs.memory_bytes(n) <= b.memory_bytes * slack &&
           costs.decode_seconds(n) <= b.decode_seconds * slack &&
           costs.prefill_seconds(n) <= b.prefill_seconds * slack &&
           flops(n, d) <= b.flops * slack && d <= b.tokens * slack &&
           d <= b.tokens_per_parameter * n * slack &&
           (question.objective == Objective::kLoss || loss(n, d) <= question.target_loss * slack);
  }
  double score(double n, double d) const {
    switch (question.objective) {
      case Objective::kLoss:
        return loss(n, d);
      case Objective::kMemory:
        return costs.memory_bytes(n);
      case Objective::kDecode:
        return costs.decode_seconds(n);
      case Objective::kPrefill:
        return costs.prefill_seconds(n);
      case Objective::kFlops:
        return flops(n, d);
    }
    return 0;
  }
};

// The best of a fine grid of N and D; infinite if it has no allowed point.
double best_of_grid(const Judge& judge) {
  double best = kUnlimited;
  std::vector<double> sizes = judge.question.sizes;
  if (sizes.empty()) {
    for (double n = 1e5; n <= 1e13; n *= 1.06) sizes.push_back(n);
  }
  for (const double n : sizes) {
    for (double d = 1e4; d <= 1e16; d *= 1.12) {
      if (judge.is_allowed(n, d)) best = std::min(best, judge.score(n, d));
    }
  }
  return best;
}

// 600 random laws, budgets and goals: no point of the grid is better than the plan, which is itself
// allowed; and where the grid has an allowed point there is a plan.
TEST(PlanFormat, IsAsGoodAsBruteForce) {
  int planned = 0, unplanned = 0, refused = 0;
  for (uint64_t i = 0; i < 600; ++i) {
    Draws draws(i);
    const ScalingLaw law = random_law(draws);
    const char* formats[] = {"bf16", "w4a4", "w1a1"};
    const FormatCosts costs = costs_of(formats[i % 3], draws);
    PlanQuestion question;
    question.budget = random_budget(draws);
    question.objective = static_cast<Objective>(i % 5);
    if (question.objective != Objective::kLoss) {
      question.target_loss = law.e + draws.between(0.05, 3);
    }
    if (draws.chance(0.3)) {
      for (int k = 0; k < 6; ++k) question.sizes.push_back(draws.log_between(1e6, 1e11));
    }
    FormatPlan plan;
    try {
      plan = plan_format(law, costs, question);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(std::string(error.what()).find("nothing bounds"), std::string::npos);
      ++refused;
      continue;
    }
    const Judge judge{law, costs, question};
    const double best = best_of_grid(judge);
    SCOPED_TRACE(fmt::format("case {}: {}", i, plan.reason));
    if (!plan.plan) {
      EXPECT_EQ(best, kUnlimited);
      EXPECT_FALSE(plan.reason.empty());
      ++unplanned;
      continue;
    }
    ++planned;
    const Plan& p = *plan.plan;
    EXPECT_TRUE(judge.is_allowed(p.params, p.tokens, 1 + 1e-9));
    EXPECT_NEAR(p.loss / judge.loss(p.params, p.tokens), 1, 1e-12);
    EXPECT_LE(judge.score(p.params, p.tokens), best * (1 + 1e-9));
  }
  EXPECT_GT(planned, 180);
  EXPECT_GT(unplanned, 10);
  EXPECT_GT(refused, 10);
}

ScalingLaw some_law() {
  ScalingLaw law;
  law.a = 120;
  law.alpha = 0.25;
  law.b = 900;
  law.beta = 0.35;
  law.e = 1.3;
  law.eff = {{"bf16", 1.0}, {"w4a4", 0.65}};
  return law;
}

FormatCosts some_costs(const std::string& format, double bits) {
  FormatCosts costs;
  costs.format = format;
  costs.memory_bytes = [bits](double n) { return n * bits / 8; };
  return costs;
}

TEST(PlanFormat, SaysWhatIsUsedUp) {
  PlanQuestion question;
  question.budget.memory_bytes = 100e6;
  question.budget.tokens = 5e9;
  question.budget.flops = 1e30;
  const FormatPlan plan = plan_format(some_law(), some_costs("w4a4", 4), question);
  ASSERT_TRUE(plan.plan);
  EXPECT_NEAR(plan.plan->params, 200e6, 1);
  EXPECT_EQ(plan.plan->tokens, 5e9);
  EXPECT_EQ(plan.plan->limits, (std::vector<std::string>{"memory", "tokens"}));
  EXPECT_FALSE(plan.plan->decode_seconds);
  question.budget.decode_seconds = 1e-3;
  EXPECT_EQ(plan_format(some_law(), some_costs("w4a4", 4), question).reason,
            "its decode speed is not known");
}

TEST(PlanFormat, RefusesWhatHasNoAnswer) {
  const FormatCosts costs = some_costs("w4a4", 4);
  PlanQuestion question;
  EXPECT_QUEST_ERROR(plan_format(some_law(), costs, question), ErrorKind::kUsage, "model's size");
  question.budget.memory_bytes = 1e9;
  EXPECT_QUEST_ERROR(plan_format(some_law(), costs, question), ErrorKind::kUsage,
                     "nothing bounds the tokens");
  question.budget.tokens = -1;
  EXPECT_QUEST_ERROR(plan_format(some_law(), costs, question), ErrorKind::kUsage,
                     "budget of tokens is -1");
  question.budget.tokens = 1e9;
  EXPECT_QUEST_ERROR(plan_format(some_law(), some_costs("w2a2", 2), question), ErrorKind::kUsage,
                     "'w2a2'");
  question.objective = Objective::kMemory;
  EXPECT_QUEST_ERROR(plan_format(some_law(), costs, question), ErrorKind::kUsage, "loss to reach");
  question.target_loss = 1.2;  // below E
  const FormatPlan plan = plan_format(some_law(), costs, question);
  EXPECT_FALSE(plan.plan);
  EXPECT_TRUE(plan.reason.starts_with("reaches 2.5691")) << plan.reason;
}

// Two formats whose order depends on the law: wins are counted, and intervals hold the laws' ends.
TEST(PlanFormats, CountsTheLawsInWhichAFormatWins) {
  const std::vector<FormatCosts> costs = {some_costs("bf16", 16), some_costs("w4a4", 4)};
  PlanQuestion question;
  question.budget.memory_bytes = 100e6;
  question.budget.tokens = 5e9;
  std::vector<ScalingLaw> laws(4, some_law());
  laws[0].eff["w4a4"] = 0.2;  // 4 times the parameters do not make up for this
  laws[1].e = 1.4;
  const std::vector<FormatPlan> plans = plan_formats(some_law(), laws, costs, question);
  ASSERT_EQ(plans.size(), 2u);
  EXPECT_EQ(plans[0].format, "w4a4");
  EXPECT_EQ(plans[0].wins, 0.75);
  EXPECT_EQ(plans[1].wins, 0.25);
  EXPECT_LT(plans[0].loss_interval->low, plans[0].plan->loss + 1e-12);
  EXPECT_GT(plans[0].loss_interval->high, plans[0].plan->loss + 0.09);
  EXPECT_NEAR(plans[1].loss_interval->high, plans[1].plan->loss + 0.1, 0.01);
  EXPECT_NEAR(plans[0].params_interval->low, 200e6, 1);
  EXPECT_FALSE(plan_formats(some_law(), {}, costs, question)[0].wins);
}

FitResult some_fit() {
  FitResult fit;
  fit.law = some_law();
  fit.bootstrap_laws.assign(3, some_law());
  fit.bootstrap_laws[1].eff["w4a4"] = 0.123456789;
  fit.bootstrap_laws[2].b = 1e-7;
  return fit;
}

TEST(FitFile, IsReadBack) {
  const TemporaryFolder folder;
  const std::vector<ScalingRun> runs = {{"bf16", 1e7, 1e9, 3, "a"}, {"bf16", 3e7, 6e9, 3, "b"}};
  const std::string text = fit_text(fit_json(some_fit(), runs));
  const StoredFit fit = read_fit_file(folder.write("law.json", text));
  EXPECT_EQ(fit.law.a, 120);
  EXPECT_EQ(fit.law.e, 1.3);
  EXPECT_EQ(fit.law.eff, some_law().eff);
  ASSERT_EQ(fit.bootstrap_laws.size(), 3u);
  EXPECT_NEAR(fit.bootstrap_laws[1].efficiency("w4a4"), 0.123457, 1e-12);
  EXPECT_EQ(fit.bootstrap_laws[1].efficiency("bf16"), 1);
  EXPECT_EQ(fit.bootstrap_laws[2].b, 1e-7);
  EXPECT_EQ(fit.ranges.at("bf16").params.high, 3e7);
  EXPECT_EQ(fit.ranges.at("bf16").tokens_per_parameter.high, 200);
  EXPECT_EQ(fit.ranges.count("w4a4"), 0u);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 34);  // the refits take one line
}

TEST(FitFile, IsDistrusted) {
  const TemporaryFolder folder;
  const auto with = [&](const char* pointer, const Json& value) {
    nlohmann::ordered_json json = fit_json(some_fit(), {});
    json[nlohmann::ordered_json::json_pointer(pointer)] = value;
    return folder.write("law.json", json.dump());
  };
  const auto expect = [&](const char* pointer, const Json& value, const char* message) {
    EXPECT_QUEST_ERROR(read_fit_file(with(pointer, value)), ErrorKind::kData, message);
  };
  EXPECT_NO_THROW(read_fit_file(with("/E", 0)));
  expect("/A", -1, "A is -1");
  expect("/beta", "x", "beta");
  expect("/E", -0.5, "E is -0.5");
  expect("/eff", 3, "eff");
  expect("/eff/bf16", 2, "bf16 of 1");
  expect("/eff/w4a4", 0, "eff of w4a4 is 0");
  expect("/bootstrap/columns/0", "B", "columns must be");
  expect("/bootstrap/columns/5", "w9a9", "eff has no w9a9");
  expect("/bootstrap/laws", 1, "laws is no array");
  expect("/bootstrap/laws/1", Json::array({1, 2}), "law 1: must be 6 numbers");
  expect("/bootstrap/laws/1/5", -2, "law 1: eff of w4a4 is -2");
  EXPECT_QUEST_ERROR(read_fit_file(folder.write("law.json", "[]")), ErrorKind::kData, "object");
  const std::string whole = fit_text(fit_json(some_fit(), {}));
  for (size_t i = 0; i < whole.size(); i += 3) {
    std::string flipped = whole;
    flipped[i] = static_cast<char>(flipped[i] ^ (1 << (i % 8)));
    for (const std::string& damaged : {whole.substr(0, i), flipped}) {
      try {
        const StoredFit fit = read_fit_file(folder.write("law.json", damaged));
        EXPECT_GT(fit.law.efficiency("bf16"), 0);  // a digit changed: still a law
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kData);
      }
    }
  }
  EXPECT_QUEST_ERROR(read_fit_file(folder / "none.json"), ErrorKind::kIo, "none.json");
}

}  // namespace
}  // namespace quest::scaling
