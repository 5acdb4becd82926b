// quest fit: the scaling law of finished runs, with the efficiency of every format.
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "quest/base/atomic_file.h"
#include "quest/base/error.h"
#include "quest/base/thread_pool.h"
#include "quest/cli/commands.h"
#include "quest/cli/law_options.h"
#include "quest/cli/quantities.h"
#include "quest/scaling/fit_file.h"
#include "quest/scaling/scaling_law.h"

namespace quest::cli {
namespace {

using scaling::FitResult;
using scaling::ScalingRun;

struct FitArguments {
  std::vector<std::string> inputs;
  std::string hold_out, json;
  bool residuals = false;
  scaling::FitOptions options;
};

std::string interval_text(const FitResult& fit, const std::string& name, bool of_format) {
  const auto& intervals = of_format ? fit.eff_interval : fit.parameter_interval;
  const auto it = intervals.find(name);
  if (it == intervals.end()) return "";
  return fmt::format("  {:.5g} to {:.5g}", it->second.low, it->second.high);
}

// Four decimals, or three digits of what these leave of less.
std::string eff_text(double eff) {
  return eff >= 0.01 ? fmt::format("{:.4f}", eff) : fmt::format("{:.3g}", eff);
}

void print_fit(const FitResult& fit, size_t runs, double huber_delta) {
  fmt::print("L = A / (N eff)^alpha + B / D^beta + E, {} of {} runs, rms of ln(L) {:.5f}\n",
             huber_delta > 0 ? fmt::format("Huber loss, delta {:g},", huber_delta)
                             : std::string("least squares of ln(L)"),
             runs, fit.rms_residual);
  fmt::print("{} of {} starts ended here\n\n", fit.agreeing_starts, fit.starts);
  const auto parameter = [&](const char* name, double value) {
    fmt::print("{:<20} {:>10.5g}{}\n", name, value, interval_text(fit, name, false));
  };
  parameter("A", fit.law.a);
  parameter("alpha", fit.law.alpha);
  parameter("B", fit.law.b);
  parameter("beta", fit.law.beta);
  parameter("E", fit.law.e);
  fmt::print("\n{:<20} {:>10}{}\n", "format", "eff",
             fit.eff_interval.empty() ? "" : "  95 % interval (bootstrap)");
  std::vector<std::pair<std::string, double>> formats(fit.law.eff.begin(), fit.law.eff.end());
  std::stable_sort(formats.begin(), formats.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  const std::vector<std::string> unknown = scaling::unidentified_formats(fit);
  for (const auto& [name, eff] : formats) {
    const bool known = std::find(unknown.begin(), unknown.end(), name) == unknown.end();
    fmt::print("{:<20} {:>10}{}\n", name, known ? eff_text(eff) : "not known",
               name == scaling::kReferenceFormat ? "" : interval_text(fit, name, true));
  }
}

void print_errors(const char* title, const std::vector<ScalingRun>& runs,
                  const std::vector<double>& errors) {
  fmt::print("\n{}\n{:<20} {:>10} {:>10} {:>9} {:>9} {:>9}\n", title, "format", "N", "D",
             "measured", "law", "error");
  for (size_t i = 0; i < runs.size(); ++i) {
    fmt::print("{:<20} {:>10} {:>10} {:>9.4f} {:>9.4f} {:>+8.2f}%\n", runs[i].format,
               count_text(runs[i].params), count_text(runs[i].tokens), runs[i].loss,
               runs[i].loss * (1 + errors[i]), 100 * errors[i]);
  }
  double sum = 0, worst = 0;
  for (const double error : errors) {
    sum += std::fabs(error);
    worst = std::max(worst, std::fabs(error));
  }
  fmt::print("mean {:.2f} %, largest {:.2f} %\n", 100 * sum / static_cast<double>(errors.size()),
             100 * worst);
}

void run_fit(const FitArguments& arguments) {
  const std::vector<ScalingRun> all = scaling::read_runs(arguments.inputs);
  std::vector<ScalingRun> fitted = all, held;
  if (!arguments.hold_out.empty()) {
    const double limit = parse_count(arguments.hold_out, "--hold-out");
    const auto small = [&](const ScalingRun& run) { return run.params < limit; };
    fitted.clear();
    std::copy_if(all.begin(), all.end(), std::back_inserter(fitted), small);
    std::remove_copy_if(all.begin(), all.end(), std::back_inserter(held), small);
    QUEST_CHECK(
        !held.empty(), ErrorKind::kUsage,
        "--hold-out {}: no run has so many parameters; the largest has {}", arguments.hold_out,
        count_text(std::max_element(all.begin(), all.end(), [](const auto& a, const auto& b) {
                     return a.params < b.params;
                   })->params));
  }
  std::optional<AtomicFile> json_file;  // before the work: a place that cannot be written to
  if (!arguments.json.empty()) json_file.emplace(arguments.json);
  scaling::FitOptions options = arguments.options;
  options.threads = default_thread_count();
  const FitResult fit = scaling::fit_scaling_law(fitted, options);
  warn_about_fit(fit, fitted);
  print_fit(fit, fitted.size(), options.huber_delta);
  nlohmann::ordered_json json = scaling::fit_json(fit, fitted);
  json["huber_delta"] = options.huber_delta;
  if (arguments.residuals) {
    print_errors("Residuals", fitted, scaling::relative_errors(fit.law, fitted));
  }
  if (!held.empty()) {
    const std::vector<double> predicted = scaling::relative_errors(fit.law, held);
    print_errors("Held out: predicted, not fitted", held, predicted);
    json["held_out"] = scaling::errors_json(held, predicted);
  }
  if (json_file) {
    json_file->write(scaling::fit_text(json));
    json_file->publish();
  }
}

}  // namespace

void add_fit_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("fit", "the scaling law of finished runs: eff of every format");
  auto arguments = std::make_shared<FitArguments>();
  command
      ->add_option("RUNS", arguments->inputs,
                   "tables (CSV: format, params, tokens, loss) and folders of finished runs")
      ->required();
  command
      ->add_option("--huber", arguments->options.huber_delta,
                   "delta of a Huber loss of ln(L), e.g. 1e-3 (0: least squares)")
      ->check(CLI::Range(0.0, 10.0))
      ->capture_default_str();
  command->add_option("--starts", arguments->options.starts, "random first guesses")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  add_bootstrap_option(*command, arguments->options.bootstrap);
  command->add_option("--seed", arguments->options.seed, "of guesses and bootstrap")
      ->capture_default_str();
  command->add_option("--hold-out", arguments->hold_out,
                      "predict runs of at least so many parameters (500M) instead of fitting them");
  command->add_flag("--residuals", arguments->residuals, "list every run beside the law");
  command->add_option("--json", arguments->json, "also write law, intervals and residuals here");
  command->callback([arguments] { run_fit(*arguments); });
}

}  // namespace quest::cli
