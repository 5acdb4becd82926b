#include "quest/scaling/scaling_law.h"

#include <algorithm>
#include <ceres/ceres.h>
#include <cmath>
#include <numeric>
#include <optional>
#include <set>

#include "quest/base/error.h"
#include "quest/base/philox.h"
#include "quest/base/thread_pool.h"

namespace quest::scaling {
namespace {

// The unknowns of the fit. The two powers are held by their size at the runs' middle, so that
// exponents and factors are not tied to each other:
//   A / (N eff)^alpha = exp(shared[0] - alpha (ln N + ln eff - middle of ln N)), and so B.
struct Unknowns {
  double shared[4] = {};
  double e = 0;
  std::vector<double> log_eff;  // of each format but bf16
};
enum Shared { kLogA, kAlpha, kLogB, kBeta };

// Runs as the fit sees them: logarithms, N and D from their middle. The format bf16 has index -1.
struct Point {
  double log_params, log_tokens, log_loss;
  int format;
};

// Runs that say nothing of a format's efficiency would send it to 0 or to infinity.
const double kLogEffBound = std::log(kEfficiencyBound);

bool is_finite(double x) { return std::isfinite(x); }
template <class T, int kCount>
bool is_finite(const ceres::Jet<T, kCount>& x) {
  return std::isfinite(x.a) && x.v.allFinite();
}

// ln L - ln L(measured). False where that or its gradient is not finite: the solver then takes a
// shorter step, and writes nothing to its own log.
struct Residual {
  explicit Residual(const Point& p) : point(p) {}
  template <class T>
  bool operator()(const T* shared, const T* e, const T* log_eff, T* residual) const {
    using std::exp;
    using std::log;
    const T law = exp(shared[kLogA] - shared[kAlpha] * (T(point.log_params) + log_eff[0])) +
                  exp(shared[kLogB] - shared[kBeta] * T(point.log_tokens)) + e[0];
    residual[0] = log(law) - T(point.log_loss);
    return is_finite(residual[0]);
  }
  template <class T>
  bool operator()(const T* shared, const T* e, T* residual) const {
    const T reference = T(0);
    return (*this)(shared, e, &reference, residual);
  }
  Point point;
};

struct Solution {
  Unknowns unknowns;
  double cost = 0;
};

// One descent from `first`, with E held where it is or free from 0 on; nothing if it does not end
// at finite values and positive exponents.
std::optional<Solution> descend(std::span<const Point> points, const Unknowns& first,
                                double huber_delta, bool hold_e) {
  Solution solution{first, 0};
  Unknowns& u = solution.unknowns;
  ceres::Problem problem;
  for (const Point& point : points) {
    ceres::LossFunction* loss = huber_delta > 0 ? new ceres::HuberLoss(huber_delta) : nullptr;
    if (point.format < 0) {
      problem.AddResidualBlock(
          new ceres::AutoDiffCostFunction<Residual, 1, 4, 1>(new Residual(point)), loss, u.shared,
          &u.e);
    } else {
      problem.AddResidualBlock(
          new ceres::AutoDiffCostFunction<Residual, 1, 4, 1, 1>(new Residual(point)), loss,
          u.shared, &u.e, &u.log_eff[static_cast<size_t>(point.format)]);
    }
  }
  if (hold_e) {
    problem.SetParameterBlockConstant(&u.e);
  } else {
    problem.SetParameterLowerBound(&u.e, 0, 0.0);
  }
  for (double& log_eff : u.log_eff) {
    problem.SetParameterLowerBound(&log_eff, 0, -kLogEffBound);
    problem.SetParameterUpperBound(&log_eff, 0, kLogEffBound);
  }
  ceres::Solver::Options options;
  options.linear_solver_type = ceres::DENSE_QR;
  options.max_num_iterations = 1000;
  options.function_tolerance = 1e-15;
  options.gradient_tolerance = 1e-15;
  options.parameter_tolerance = 1e-13;
  options.num_threads = 1;
  options.logging_type = ceres::SILENT;
  ceres::Solver::Summary summary;
  ceres::Solve(options, &problem, &summary);
  solution.cost = summary.final_cost;
  const auto finite = [](double x) { return std::isfinite(x); };
  if (!summary.IsSolutionUsable() || !finite(solution.cost) || !finite(u.e) ||
      !std::all_of(std::begin(u.shared), std::end(u.shared), finite) ||
      !std::all_of(u.log_eff.begin(), u.log_eff.end(), finite) || u.shared[kAlpha] <= 0 ||
      u.shared[kBeta] <= 0) {
    return std::nullopt;
  }
  return solution;
}

// The better of the descents with E free and with E = 0: along its bound the solver's steps are
// short, and E often ends there.
std::optional<Solution> solve(std::span<const Point> points, const Unknowns& first,
                              double huber_delta) {
  const std::optional<Solution> free = descend(points, first, huber_delta, /*hold_e=*/false);
  Unknowns at_bound = free ? free->unknowns : first;
  at_bound.e = 0;
  const std::optional<Solution> held = descend(points, at_bound, huber_delta, /*hold_e=*/true);
  if (!free || (held && held->cost <= free->cost)) return held;
  return free;
}

// A guess that gives about the measured losses: exponents and E at random, then both powers share
// what is left.
Unknowns first_guess(std::span<const Point> points, size_t formats, const Philox& random,
                     uint64_t start) {
  std::vector<double> losses;
  for (const Point& p : points) losses.push_back(std::exp(p.log_loss));
  const double least = *std::min_element(losses.begin(), losses.end());
  const auto mean = [](const std::vector<double>& x) {
    return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
  };
  const auto draw = [&](uint64_t i, double low, double high) {
    return low + (high - low) * random.uniform(start * 8 + i);
  };
  Unknowns u;
  u.shared[kAlpha] = draw(0, 0.03, 0.6);
  u.shared[kBeta] = draw(1, 0.03, 0.6);
  u.e = draw(2, 0.0, 0.9) * least;
  const double rest = mean(losses) - u.e, share = draw(3, 0.1, 0.9);
  u.shared[kLogA] = std::log(rest * share);
  u.shared[kLogB] = std::log(rest * (1 - share));
  u.log_eff.assign(formats, draw(4, -2.0, 0.0));
  return u;
}

double percentile(const std::vector<double>& sorted, double p) {
  const double at = p * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<size_t>(at);
  const size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (at - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

void check_runs(std::span<const ScalingRun> runs, size_t formats) {
  std::set<double> params, tokens;
  bool has_reference = false;
  for (const ScalingRun& run : runs) {
    params.insert(run.params);
    tokens.insert(run.tokens);
    has_reference |= run.format == kReferenceFormat;
  }
  QUEST_CHECK(has_reference, ErrorKind::kData,
              "[fit] none of the {} runs is of format {}, which the efficiency of the others is "
              "measured by; add one",
              runs.size(), kReferenceFormat);
  QUEST_CHECK(runs.size() > 5 + formats, ErrorKind::kData,
              "[fit] {} runs for {} unknowns (A, alpha, B, beta, E and {} efficiencies); more runs "
              "than unknowns are needed",
              runs.size(), 5 + formats, formats);
  QUEST_CHECK(params.size() > 1 && tokens.size() > 1, ErrorKind::kData,
              "[fit] all runs have {}; alpha and beta need at least two of each",
              params.size() == 1 ? "one size" : "one count of tokens");
}

class Fit {
 public:
  Fit(std::span<const ScalingRun> runs, const FitOptions& options) : options_(options) {
    std::map<std::string, int> index;
    for (const ScalingRun& run : runs) {
      if (run.format != kReferenceFormat) index.emplace(run.format, 0);
    }
    for (auto& [name, i] : index) {
      i = static_cast<int>(formats_.size());
      formats_.push_back(name);
    }
    check_runs(runs, formats_.size());
    for (const ScalingRun& run : runs) {
      middle_params_ += std::log(run.params) / static_cast<double>(runs.size());
      middle_tokens_ += std::log(run.tokens) / static_cast<double>(runs.size());
    }
    for (const ScalingRun& run : runs) {
      points_.push_back({std::log(run.params) - middle_params_,
                         std::log(run.tokens) - middle_tokens_, std::log(run.loss),
                         run.format == kReferenceFormat ? -1 : index.at(run.format)});
    }
  }

  FitResult run() {
    const Solution best = best_of_starts();
    FitResult result;
    result.law = law_of(best.unknowns);
    result.starts = options_.starts;
    result.agreeing_starts = agreeing_;
    double squares = 0;
    for (const Point& p : points_) {
      double residual = 0;
      const double log_eff =
          p.format < 0 ? 0.0 : best.unknowns.log_eff[static_cast<size_t>(p.format)];
      Residual{p}(best.unknowns.shared, &best.unknowns.e, &log_eff, &residual);
      squares += residual * residual;
    }
    result.rms_residual = std::sqrt(squares / static_cast<double>(points_.size()));
    if (options_.bootstrap > 0) intervals(best.unknowns, result);
    return result;
  }

 private:
  Solution best_of_starts() {
    std::vector<std::optional<Solution>> ends(static_cast<size_t>(options_.starts));
    const Philox random(options_.seed, 1);
    ThreadPool pool(options_.threads);
    pool.parallel_for(options_.starts, [&](int64_t i) {
      const auto at = static_cast<size_t>(i);
      ends[at] =
          solve(points_, first_guess(points_, formats_.size(), random, at), options_.huber_delta);
    });
    const Solution* best = nullptr;
    for (const auto& end : ends) {
      if (end && (best == nullptr || end->cost < best->cost)) best = &*end;
    }
    QUEST_CHECK(best != nullptr, ErrorKind::kData,
                "[fit] none of {} starts converged; are the losses of one kind of model and text?",
                options_.starts);
    agreeing_ = static_cast<int>(std::count_if(ends.begin(), ends.end(), [&](const auto& end) {
      return end && end->cost <= 1.001 * best->cost + 1e-15;
    }));
    return *best;
  }

  // Refits of runs drawn anew: as many of each format as there were, so that each keeps its own.
  void intervals(const Unknowns& best, FitResult& result) {
    std::vector<std::vector<size_t>> members(formats_.size() + 1);
    for (size_t i = 0; i < points_.size(); ++i) {
      members[static_cast<size_t>(points_[i].format + 1)].push_back(i);
    }
    std::vector<std::optional<Solution>> ends(static_cast<size_t>(options_.bootstrap));
    ThreadPool pool(options_.threads);
    pool.parallel_for(options_.bootstrap, [&](int64_t i) {
      const Philox random(options_.seed, 2 + static_cast<uint64_t>(i));
      std::vector<Point> drawn;
      for (const std::vector<size_t>& group : members) {
        for (size_t k = 0; k < group.size(); ++k) {
          drawn.push_back(points_[group[random.below(drawn.size(), group.size())]]);
        }
      }
      ends[static_cast<size_t>(i)] = solve(drawn, best, options_.huber_delta);
    });
    std::map<std::string, std::vector<double>> eff, parameters;
    for (const auto& end : ends) {
      if (!end) continue;
      const ScalingLaw law = law_of(end->unknowns);
      for (const auto& [name, value] : law.eff) eff[name].push_back(value);
      for (const auto& [name, value] : {std::pair<const char*, double>{"A", law.a},
                                        {"alpha", law.alpha},
                                        {"B", law.b},
                                        {"beta", law.beta},
                                        {"E", law.e}}) {
        parameters[name].push_back(value);
      }
      result.bootstrap_laws.push_back(law);
    }
    QUEST_CHECK(!eff.empty(), ErrorKind::kData, "[fit] no refit of the bootstrap converged");
    for (auto& [name, values] : eff) result.eff_interval[name] = interval_of(values);
    for (auto& [name, values] : parameters) result.parameter_interval[name] = interval_of(values);
  }

  ScalingLaw law_of(const Unknowns& u) const {
    ScalingLaw law;
    law.alpha = u.shared[kAlpha];
    law.a = std::exp(u.shared[kLogA] + law.alpha * middle_params_);
    law.beta = u.shared[kBeta];
    law.b = std::exp(u.shared[kLogB] + law.beta * middle_tokens_);
    law.e = u.e;
    law.eff[std::string(kReferenceFormat)] = 1;
    for (size_t i = 0; i < formats_.size(); ++i) law.eff[formats_[i]] = std::exp(u.log_eff[i]);
    return law;
  }

  FitOptions options_;
  std::vector<std::string> formats_;  // without bf16
  std::vector<Point> points_;
  double middle_params_ = 0, middle_tokens_ = 0;
  int agreeing_ = 0;
};

}  // namespace

Interval interval_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {percentile(values, 0.025), percentile(values, 0.975)};
}

double ScalingLaw::efficiency(std::string_view format) const {
  const auto it = eff.find(format);
  if (it == eff.end()) {
    std::string known;
    for (const auto& [name, value] : eff) known += (known.empty() ? "" : ", ") + name;
    QUEST_THROW(ErrorKind::kUsage, "the law has no efficiency of '{}'; it has: {}", format, known);
  }
  return it->second;
}

double ScalingLaw::loss(double params, double tokens, std::string_view format) const {
  return a / std::pow(params * efficiency(format), alpha) + b / std::pow(tokens, beta) + e;
}

FitResult fit_scaling_law(std::span<const ScalingRun> runs, const FitOptions& options) {
  QUEST_CHECK(options.starts >= 1 && options.bootstrap >= 0 && options.huber_delta >= 0 &&
                  options.threads >= 1,
              ErrorKind::kUsage, "[fit] starts {}, bootstrap {}, Huber delta {}, threads {}",
              options.starts, options.bootstrap, options.huber_delta, options.threads);
  return Fit(runs, options).run();
}

std::vector<std::string> unidentified_formats(const FitResult& fit) {
  constexpr double kWidest = 1e3;                   // of an interval, high over low
  const double edge = std::sqrt(kEfficiencyBound);  // beyond, no model is worth its format
  std::vector<std::string> names;
  for (const auto& [name, eff] : fit.law.eff) {
    const auto interval = fit.eff_interval.find(name);
    const bool wide = interval != fit.eff_interval.end() &&
                      interval->second.high > kWidest * interval->second.low;
    if (wide || eff < 1 / edge || eff > edge) names.push_back(name);
  }
  return names;
}

std::vector<double> relative_errors(const ScalingLaw& law, std::span<const ScalingRun> runs) {
  std::vector<double> errors;
  for (const ScalingRun& run : runs) {
    errors.push_back(law.loss(run.params, run.tokens, run.format) / run.loss - 1);
  }
  return errors;
}

}  // namespace quest::scaling
