#include "quest/scaling/budget_plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "quest/base/error.h"

namespace quest::scaling {
namespace {

constexpr double kSmallestSize = 1e5, kLargestSize = 1e13;

// The place in [low, high] up to which `holds` is true, which it is at low and then no more from
// some place on. Halving in ln x; the lower end of what is left, so that `holds` is true there.
double last_that_holds(double low, double high, const std::function<bool(double)>& holds) {
  if (holds(high)) return high;
  double a = std::log(low), b = std::log(high);
  for (int i = 0; i < 100 && b - a > 1e-14 * std::fabs(b); ++i) {
    const double middle = (a + b) / 2;
    (holds(std::exp(middle)) ? a : b) = middle;
  }
  return a == std::log(low) ? low : std::exp(a);
}

// The mirror image: `holds` is true at high and from some place on.
double first_that_holds(double low, double high, const std::function<bool(double)>& holds) {
  return 1 / last_that_holds(1 / high, 1 / low, [&](double x) { return holds(1 / x); });
}

struct SizeLimit {
  const char* name;
  const std::function<double(double)>& cost;
  double limit;
  Objective objective;
};

std::array<SizeLimit, 3> size_limits(const FormatCosts& costs, const PlanBudget& budget) {
  return {{{"memory", costs.memory_bytes, budget.memory_bytes, Objective::kMemory},
           {"decode", costs.decode_seconds, budget.decode_seconds, Objective::kDecode},
           {"prefill", costs.prefill_seconds, budget.prefill_seconds, Objective::kPrefill}}};
}

class FormatPlanner {
 public:
  FormatPlanner(const ScalingLaw& law, const FormatCosts& costs, const PlanQuestion& question)
      : law_(law),
        costs_(costs),
        question_(question),
        a_(law.a * std::pow(law.efficiency(costs.format), -law.alpha)),
        params_times_tokens_(question.budget.flops * costs.training_speed / 6) {}

  FormatPlan plan() const {
    FormatPlan out;
    out.format = costs_.format;
    out.reason = unknown_cost();
    if (!out.reason.empty()) return out;
    const std::vector<double> sizes = fitting_sizes();
    if (sizes.empty()) {
      out.reason = "no size fits into the memory or time";
      return out;
    }
    const std::optional<Plan> best =
        question_.sizes.empty() ? best_of_any(sizes.back()) : best_of(sizes);
    if (!best) {
      const double lowest =
          question_.sizes.empty() ? loss_of(lowest_loss_size(sizes.back())) : lowest_loss(sizes);
      out.reason = fmt::format("reaches {:.4f} at best", lowest);
      return out;
    }
    out.plan = best;
    return out;
  }

  // Smaller is better.
  static double score(const Plan& plan, Objective objective) {
    switch (objective) {
      case Objective::kLoss:
        return plan.loss;
      case Objective::kMemory:
        return *plan.memory_bytes;
      case Objective::kDecode:
        return *plan.decode_seconds;
      case Objective::kPrefill:
        return *plan.prefill_seconds;
      case Objective::kFlops:
        return plan.flops;
    }
    return 0;
  }

 private:
  std::string unknown_cost() const {
    for (const SizeLimit& limit : size_limits(costs_, question_.budget)) {
      if ((limit.limit < kUnlimited || question_.objective == limit.objective) && !limit.cost) {
        return fmt::format("its {} is not known", limit.name == std::string("memory")
                                                      ? std::string("packed size")
                                                      : limit.name + std::string(" speed"));
      }
    }
    return "";
  }

  bool fits(double n) const {
    for (const SizeLimit& limit : size_limits(costs_, question_.budget)) {
      if (limit.limit < kUnlimited && limit.cost(n) > limit.limit) return false;
    }
    return true;
  }

  // Those of question.sizes, ascending; for any size its smallest and its largest.
  std::vector<double> fitting_sizes() const {
    std::vector<double> sizes;
    if (question_.sizes.empty()) {
      if (!fits(kSmallestSize)) return {};
      return {kSmallestSize,
              last_that_holds(kSmallestSize, kLargestSize, [&](double n) { return fits(n); })};
    }
    for (const double n : question_.sizes) {
      if (fits(n)) sizes.push_back(n);
    }
    std::sort(sizes.begin(), sizes.end());
    return sizes;
  }

  double tokens_without_compute(double n) const {
    return std::min(question_.budget.tokens, question_.budget.tokens_per_parameter * n);
  }
  double tokens_allowed(double n) const {
    return std::min(tokens_without_compute(n), params_times_tokens_ / n);
  }
  // That reach the target at size n; infinite if none do.
  double tokens_needed(double n) const {
    const double left = question_.target_loss - law_.e - a_ * std::pow(n, -law_.alpha);
    return left > 0 ? std::pow(law_.b / left, 1 / law_.beta) : kUnlimited;
  }
  double loss_at(double n, double tokens) const {
    return a_ * std::pow(n, -law_.alpha) + law_.b * std::pow(tokens, -law_.beta) + law_.e;
  }
  double loss_of(double n) const { return loss_at(n, tokens_allowed(n)); }

  // The size of the lowest loss among all up to `largest` (the header's first formula).
  double lowest_loss_size(double largest) const {
    if (!(params_times_tokens_ < kUnlimited)) return largest;
    const PlanBudget& budget = question_.budget;
    const double compute_binds_from =
        std::max(params_times_tokens_ / budget.tokens,
                 std::sqrt(params_times_tokens_ / budget.tokens_per_parameter));
    const double log_best = (std::log(law_.alpha * a_ / (law_.beta * law_.b)) +
                             law_.beta * std::log(params_times_tokens_)) /
                            (law_.alpha + law_.beta);
    return std::clamp(std::max(std::exp(log_best), compute_binds_from), kSmallestSize, largest);
  }

  double lowest_loss(const std::vector<double>& sizes) const {
    double lowest = kUnlimited;
    for (const double n : sizes) lowest = std::min(lowest, loss_of(n));
    return lowest;
  }

  std::optional<Plan> best_of_any(double largest) const {
    if (question_.objective == Objective::kFlops) return least_compute(largest);
    const double lowest = lowest_loss_size(largest);
    if (question_.objective == Objective::kLoss) return plan_at(lowest, tokens_allowed(lowest));
    const auto reaches = [&](double n) { return tokens_needed(n) <= tokens_allowed(n); };
    if (!reaches(lowest)) return std::nullopt;
    const double n = first_that_holds(kSmallestSize, lowest, reaches);
    return plan_at(n, std::min(tokens_needed(n), tokens_allowed(n)));
  }

  std::optional<Plan> least_compute(double largest) const {
    const auto has_tokens = [&](double n) {
      const double needed = tokens_needed(n);
      return needed < kUnlimited && needed <= tokens_without_compute(n);
    };
    if (!has_tokens(largest)) return std::nullopt;
    const double smallest = first_that_holds(kSmallestSize, largest, has_tokens);
    const double share = (question_.target_loss - law_.e) * law_.beta / (law_.alpha + law_.beta);
    const double free = std::pow(a_ / share, 1 / law_.alpha);
    const double n = std::clamp(free, smallest, largest);
    if (tokens_needed(n) * n > params_times_tokens_) return std::nullopt;
    return plan_at(n, tokens_needed(n));
  }

  std::optional<Plan> best_of(const std::vector<double>& sizes) const {
    std::optional<Plan> best;
    for (const double n : sizes) {
      const bool lowest = question_.objective == Objective::kLoss;
      const double tokens = lowest ? tokens_allowed(n) : tokens_needed(n);
      if (tokens > tokens_allowed(n) || tokens == kUnlimited) continue;
      const Plan plan = plan_at(n, tokens);
      if (!best || score(plan, question_.objective) < score(*best, question_.objective)) {
        best = plan;
      }
    }
    return best;
  }

  Plan plan_at(double n, double tokens) const {
    Plan plan;
    plan.params = n;
    plan.tokens = tokens;
    plan.loss = loss_at(n, tokens);
    plan.flops = 6 * n * tokens / costs_.training_speed;
    if (costs_.memory_bytes) plan.memory_bytes = costs_.memory_bytes(n);
    if (costs_.decode_seconds) plan.decode_seconds = costs_.decode_seconds(n);
    if (costs_.prefill_seconds) plan.prefill_seconds = costs_.prefill_seconds(n);
    const auto used_up = [&](const char* name, double used, double limit) {
      if (limit < kUnlimited && used >= limit * (1 - 1e-6)) plan.limits.push_back(name);
    };
    const PlanBudget& budget = question_.budget;
    used_up("memory", plan.memory_bytes.value_or(0), budget.memory_bytes);
    used_up("decode", plan.decode_seconds.value_or(0), budget.decode_seconds);
    used_up("prefill", plan.prefill_seconds.value_or(0), budget.prefill_seconds);
    used_up("compute", plan.flops, budget.flops);
    used_up("tokens", tokens, budget.tokens);
    used_up("D/N", tokens / n, budget.tokens_per_parameter);
    return plan;
  }

  const ScalingLaw& law_;
  const FormatCosts& costs_;
  const PlanQuestion& question_;
  double a_;                    // A eff^-alpha
  double params_times_tokens_;  // that the compute allows
};

bool is_better(const FormatPlan& a, const FormatPlan& b, Objective objective) {
  if (!a.plan || !b.plan) return a.plan.has_value() && !b.plan.has_value();
  const double x = FormatPlanner::score(*a.plan, objective);
  const double y = FormatPlanner::score(*b.plan, objective);
  return x != y ? x < y : a.plan->loss < b.plan->loss;
}

}  // namespace

void check_question(const PlanQuestion& question) {
  const PlanBudget& b = question.budget;
  for (const auto& [name, limit] : {std::pair<const char*, double>{"memory", b.memory_bytes},
                                    {"decode time", b.decode_seconds},
                                    {"prefill time", b.prefill_seconds},
                                    {"compute", b.flops},
                                    {"tokens", b.tokens},
                                    {"tokens per parameter", b.tokens_per_parameter}}) {
    QUEST_CHECK(limit > 0, ErrorKind::kUsage, "the budget of {} is {}, must be above 0", name,
                limit);
  }
  const bool for_loss = question.objective == Objective::kLoss;
  QUEST_CHECK(for_loss || (question.target_loss > 0 && std::isfinite(question.target_loss)),
              ErrorKind::kUsage, "the loss to reach is {}, must be above 0", question.target_loss);
  const auto limited = [](double limit) { return limit < kUnlimited; };
  const bool bounds_size = limited(b.memory_bytes) || limited(b.decode_seconds) ||
                           limited(b.prefill_seconds) || limited(b.flops) ||
                           !question.sizes.empty();
  const bool bounds_tokens =
      limited(b.tokens) || limited(b.flops) || limited(b.tokens_per_parameter);
  QUEST_CHECK(
      !for_loss || bounds_size, ErrorKind::kUsage,
      "nothing bounds the model's size: give a budget of memory, time per token or compute");
  QUEST_CHECK(question.objective == Objective::kFlops || bounds_tokens, ErrorKind::kUsage,
              "nothing bounds the tokens to train on: give a budget of compute, tokens or tokens "
              "per parameter");
}

double smallest_size(const PlanQuestion& question) {
  const std::vector<double>& sizes = question.sizes;
  return sizes.empty() ? kSmallestSize : *std::min_element(sizes.begin(), sizes.end());
}

FormatPlan plan_format(const ScalingLaw& law, const FormatCosts& costs,
                       const PlanQuestion& question) {
  check_question(question);
  QUEST_CHECK(costs.training_speed > 0 && std::isfinite(costs.training_speed), ErrorKind::kUsage,
              "the training speed of {} is {}, must be above 0", costs.format,
              costs.training_speed);
  return FormatPlanner(law, costs, question).plan();
}

std::vector<FormatPlan> plan_formats(const ScalingLaw& law,
                                     std::span<const ScalingLaw> bootstrap_laws,
                                     std::span<const FormatCosts> costs,
                                     const PlanQuestion& question) {
  std::vector<FormatPlan> plans;
  for (const FormatCosts& one : costs) plans.push_back(plan_format(law, one, question));
  if (!bootstrap_laws.empty()) {
    std::vector<int> wins(costs.size());
    std::vector<std::vector<double>> losses(costs.size()), sizes(costs.size());
    for (const ScalingLaw& drawn : bootstrap_laws) {
      std::vector<FormatPlan> anew;
      size_t best = 0;
      for (size_t i = 0; i < costs.size(); ++i) {
        anew.push_back(plan_format(drawn, costs[i], question));
        if (is_better(anew[i], anew[best], question.objective)) best = i;
        if (anew[i].plan) sizes[i].push_back(anew[i].plan->params);
        if (!plans[i].plan) continue;
        losses[i].push_back(
            drawn.loss(plans[i].plan->params, plans[i].plan->tokens, costs[i].format));
      }
      if (!anew.empty() && anew[best].plan) ++wins[best];
    }
    for (size_t i = 0; i < costs.size(); ++i) {
      plans[i].wins = wins[i] / static_cast<double>(bootstrap_laws.size());
      if (!losses[i].empty()) plans[i].loss_interval = interval_of(losses[i]);
      if (!sizes[i].empty()) plans[i].params_interval = interval_of(sizes[i]);
    }
  }
  std::stable_sort(plans.begin(), plans.end(), [&](const FormatPlan& a, const FormatPlan& b) {
    return is_better(a, b, question.objective);
  });
  return plans;
}

}  // namespace quest::scaling
