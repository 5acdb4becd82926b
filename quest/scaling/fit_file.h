// A fit as the JSON file of `quest fit --json`, and read back by what plans with it.
//
//   write_file_atomically("law.json", fit_text(fit_json(fit, runs)));
//   const StoredFit stored = read_fit_file("law.json");
//   stored.law.loss(800e6, 80e9, "w4a4");
//
// Keys: A, alpha, B, beta, E; eff by format; rms_residual; eff_interval_95 and
// parameter_interval_95; eff_not_known, the unidentified_formats, if any; runs; residuals, one
// object a run; and, if there was a bootstrap,
//   "bootstrap": {"columns": ["A", "alpha", "B", "beta", "E", format...], "laws": [[...], ...]}
// one row a refit, six digits a number.
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "quest/scaling/scaling_law.h"

namespace quest::scaling {

// Between which sizes, tokens, and tokens per parameter runs were fitted.
struct FittedRange {
  Interval params, tokens, tokens_per_parameter;
};
// Of each format's own runs. Outside of it a prediction is an extrapolation.
std::map<std::string, FittedRange, std::less<>> fitted_ranges(std::span<const ScalingRun> runs);

// {"format", "params", "tokens", "loss", "law", "relative_error", "source"} of each run. errors: as
// relative_errors gives them.
nlohmann::ordered_json errors_json(std::span<const ScalingRun> runs,
                                   std::span<const double> errors);
nlohmann::ordered_json fit_json(const FitResult& fit, std::span<const ScalingRun> runs);
// As text for people, but for the laws of the bootstrap, which take one line.
std::string fit_text(nlohmann::ordered_json fit);

struct StoredFit {
  ScalingLaw law;
  std::vector<ScalingLaw> bootstrap_laws;                  // empty: fitted without bootstrap
  std::map<std::string, FittedRange, std::less<>> ranges;  // empty: the file lists no runs
  std::vector<std::string> unidentified;                   // formats whose eff the runs do not tell
};
// Throws kIo, or kData naming the key that is missing or out of range.
StoredFit read_fit_file(const std::filesystem::path& path);

}  // namespace quest::scaling
