// The paper's scaling law (QuEST, arXiv 2502.05003, section 5) and its fit to finished runs.
//
//   L(N, D, P) = A / (N eff(P))^alpha + B / D^beta + E
//
// N parameters without embedding and head, D tokens, P a format (a recipe's name), L nats a token;
// eff(bf16) = 1, E >= 0. One fit of all formats at once on the logarithm of the loss.
//
//   const FitResult fit = fit_scaling_law(read_run_table("data/paper/runs.csv"), {});
//   fit.law.loss(800e6, 80e9, "w4a4");
//
// The same runs and options give the same numbers for any count of threads.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quest/scaling/run_table.h"

namespace quest::scaling {

inline constexpr std::string_view kReferenceFormat = "bf16";

struct ScalingLaw {
  double a = 0, alpha = 0;
  double b = 0, beta = 0;
  double e = 0;
  std::map<std::string, double, std::less<>> eff;  // of every format, kReferenceFormat (1) included

  // Throws kUsage with the known formats if `format` is none of them.
  double efficiency(std::string_view format) const;
  double loss(double params, double tokens, std::string_view format) const;
};

// The fit keeps every eff within 1 / kEfficiencyBound and kEfficiencyBound.
inline constexpr double kEfficiencyBound = 1e12;

struct FitOptions {
  int starts = 32;         // random first guesses; the best end is taken
  double huber_delta = 0;  // of the residuals of the logarithm; 0: least squares
  int bootstrap = 200;     // refits for the intervals; 0: none
  uint64_t seed = 0;
  int threads = 1;
};

struct Interval {
  double low = 0, high = 0;
};
// The middle 95 % of the values, which must not be none.
Interval interval_of(std::vector<double> values);

struct FitResult {
  ScalingLaw law;
  double rms_residual = 0;  // of ln(loss) - ln(law)
  int agreeing_starts = 0;  // starts that ended at this optimum (cost within 0.1 %)
  int starts = 0;
  // 95 % intervals of runs drawn anew within each format; empty without bootstrap.
  std::map<std::string, Interval, std::less<>> eff_interval;
  std::map<std::string, Interval, std::less<>> parameter_interval;  // "A", "alpha", ...
  std::vector<ScalingLaw> bootstrap_laws;  // the refits themselves: for intervals of predictions
};

// Throws kData if the runs cannot carry the fit: no bf16 run, fewer runs than unknowns, only one
// size or one count of tokens, or no start that converges.
FitResult fit_scaling_law(std::span<const ScalingRun> runs, const FitOptions& options);

// Formats whose eff the runs do not tell: its interval spans more than a factor of 1000, or it lies
// outside of 1e-6 to 1e6. Their numbers in the law are of no meaning.
std::vector<std::string> unidentified_formats(const FitResult& fit);

// law / measured - 1 for each run. Throws kUsage for a format that the law lacks.
std::vector<double> relative_errors(const ScalingLaw& law, std::span<const ScalingRun> runs);

}  // namespace quest::scaling
