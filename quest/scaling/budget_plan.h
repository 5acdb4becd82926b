// Which format, size and tokens a budget buys, by the scaling law (scaling_law.h).
//
//   PlanQuestion question;
//   question.budget.memory_bytes = 500e6;
//   question.budget.flops = 1e20;
//   const std::vector<FormatPlan> plans = plan_formats(law, bootstrap_laws, costs, question);
//   plans.front().format;                  // the best one first
//
// A budget bounds N from above (memory, time per token) and D for each N:
//   D <= min(tokens, tokens_per_parameter N, flops speed / (6 N)).
// With the lowest loss asked for, all of D is used, and the loss as a function of N falls until
// compute binds, then is A' N^-alpha + B (6 N / (flops speed))^beta + E, A' = A eff^-alpha, a sum
// of powers with its least at
//   N^(alpha + beta) = alpha A' (flops speed / 6)^beta / (beta B)
// so that the optimum is this point moved into the interval from where compute binds to where
// memory or time do: no search. The least compute that reaches a loss X likewise: N D is least
// where A' N^-alpha = (X - E) beta / (alpha + beta), moved into the interval that the other limits
// leave (ln(N D) is convex in ln N). The least memory or time that reaches X is at the smallest N
// that does, by bisection. budget_plan_test.cpp compares all of it with brute force.
//
// Thread rules: pure.
#pragma once

#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quest/scaling/scaling_law.h"

namespace quest::scaling {

inline constexpr double kUnlimited = std::numeric_limits<double>::infinity();

struct PlanBudget {
  double memory_bytes = kUnlimited;
  double decode_seconds = kUnlimited;   // a token written
  double prefill_seconds = kUnlimited;  // a token read
  double flops = kUnlimited;            // of training, 6 N D at BF16's speed
  double tokens = kUnlimited;
  double tokens_per_parameter = kUnlimited;
};

enum class Objective { kLoss, kMemory, kDecode, kPrefill, kFlops };

// What a model of N parameters costs in a format. Functions of N grow with it; an empty one is not
// known, and the format is left out where it is asked for.
struct FormatCosts {
  std::string format;
  std::function<double(double)> memory_bytes, decode_seconds, prefill_seconds;
  double training_speed = 1;  // operations a second, times BF16's
};

struct PlanQuestion {
  PlanBudget budget;
  Objective objective = Objective::kLoss;
  double target_loss = 0;     // to be reached, for any other objective
  std::vector<double> sizes;  // the only N to choose from; empty: any from 1e5 to 1e13
};

struct Plan {
  double params = 0, tokens = 0, loss = 0;
  double flops = 0;                                                     // 6 N D / training_speed
  std::optional<double> memory_bytes, decode_seconds, prefill_seconds;  // where known
  std::vector<std::string> limits;  // of the budget that are used up: "memory", "tokens", ...
};

struct FormatPlan {
  std::string format;
  std::optional<Plan> plan;
  std::string reason;  // without a plan: why there is none
  // Of the bootstrap's laws; without them nothing.
  std::optional<Interval> loss_interval;    // of plan->loss: 95 % of the laws at plan's N and D
  std::optional<Interval> params_interval;  // of N if each law chooses for itself
  std::optional<double> wins;  // share of laws that, choosing anew, find this format the best
};

// Throws kUsage: an objective other than the loss without a positive target_loss; a budget that
// bounds N or D less than the objective needs it; a limit that is not positive.
void check_question(const PlanQuestion& question);

// The least N that a plan may have.
double smallest_size(const PlanQuestion& question);

// The best plan under one law. Throws as check_question, and kUsage for a format that the law
// lacks.
FormatPlan plan_format(const ScalingLaw& law, const FormatCosts& costs,
                       const PlanQuestion& question);

// All formats, best first, those without a plan last; with intervals if there are laws of the
// bootstrap. Throws as plan_format.
std::vector<FormatPlan> plan_formats(const ScalingLaw& law,
                                     std::span<const ScalingLaw> bootstrap_laws,
                                     std::span<const FormatCosts> costs,
                                     const PlanQuestion& question);

}  // namespace quest::scaling
