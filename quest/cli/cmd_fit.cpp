// quest fit: the scaling law of finished runs, with the efficiency of every format.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/thread_pool.h"
#include "quest/cli/commands.h"
#include "quest/scaling/scaling_law.h"

namespace quest::cli {
namespace {

using scaling::FitResult;
using scaling::ScalingRun;
using OrderedJson = nlohmann::ordered_json;

struct FitArguments {
  std::vector<std::string> inputs;
  std::string hold_out, json;
  bool residuals = false;
  scaling::FitOptions options;
};

// "500M", "1.6B", "30e6".
double parse_size(const std::string& text) {
  double value = 0;
  const char* last = text.data() + text.size();
  const auto [end, code] = std::from_chars(text.data(), last, value);
  const std::string_view unit(end, static_cast<size_t>(last - end));
  const double factor = unit == "K"   ? 1e3
                        : unit == "M" ? 1e6
                        : unit == "B" ? 1e9
                        : unit == ""  ? 1
                                      : 0;
  QUEST_CHECK(code == std::errc() && std::isfinite(value) && value * factor > 0, ErrorKind::kUsage,
              "--hold-out is '{}', must be a count of parameters such as 500M or 1.6B", text);
  return value * factor;
}

std::string size_text(double count) {
  if (count >= 1e9) return fmt::format("{:.2f}B", count / 1e9);
  if (count >= 1e6) return fmt::format("{:.1f}M", count / 1e6);
  return fmt::format("{:.0f}", count);
}

std::string interval_text(const FitResult& fit, const std::string& name, bool of_format) {
  const auto& intervals = of_format ? fit.eff_interval : fit.parameter_interval;
  const auto it = intervals.find(name);
  if (it == intervals.end()) return "";
  return fmt::format("  {:.5g} to {:.5g}", it->second.low, it->second.high);
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
  for (const auto& [name, eff] : formats) {
    fmt::print("{:<20} {:>10.4f}{}\n", name, eff,
               name == scaling::kReferenceFormat ? "" : interval_text(fit, name, true));
  }
}

OrderedJson errors_json(const std::vector<ScalingRun>& runs, const std::vector<double>& errors) {
  OrderedJson list = OrderedJson::array();
  for (size_t i = 0; i < runs.size(); ++i) {
    list.push_back({{"format", runs[i].format},
                    {"params", runs[i].params},
                    {"tokens", runs[i].tokens},
                    {"loss", runs[i].loss},
                    {"law", runs[i].loss * (1 + errors[i])},
                    {"relative_error", errors[i]},
                    {"source", runs[i].source}});
  }
  return list;
}

void print_errors(const char* title, const std::vector<ScalingRun>& runs,
                  const std::vector<double>& errors) {
  fmt::print("\n{}\n{:<20} {:>10} {:>10} {:>9} {:>9} {:>9}\n", title, "format", "N", "D",
             "measured", "law", "error");
  for (size_t i = 0; i < runs.size(); ++i) {
    fmt::print("{:<20} {:>10} {:>10} {:>9.4f} {:>9.4f} {:>+8.2f}%\n", runs[i].format,
               size_text(runs[i].params), size_text(runs[i].tokens), runs[i].loss,
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

OrderedJson fit_json(const FitResult& fit) {
  OrderedJson json = {{"A", fit.law.a},
                      {"alpha", fit.law.alpha},
                      {"B", fit.law.b},
                      {"beta", fit.law.beta},
                      {"E", fit.law.e},
                      {"eff", OrderedJson()},
                      {"rms_residual", fit.rms_residual}};
  for (const auto& [name, eff] : fit.law.eff) json["eff"][name] = eff;
  const auto add = [&](const char* key, const auto& intervals) {
    for (const auto& [name, interval] : intervals) json[key][name] = {interval.low, interval.high};
  };
  add("eff_interval_95", fit.eff_interval);
  add("parameter_interval_95", fit.parameter_interval);
  return json;
}

void run_fit(const FitArguments& arguments) {
  const std::vector<ScalingRun> all = scaling::read_runs(arguments.inputs);
  std::vector<ScalingRun> fitted = all, held;
  if (!arguments.hold_out.empty()) {
    const double limit = parse_size(arguments.hold_out);
    const auto small = [&](const ScalingRun& run) { return run.params < limit; };
    fitted.clear();
    std::copy_if(all.begin(), all.end(), std::back_inserter(fitted), small);
    std::remove_copy_if(all.begin(), all.end(), std::back_inserter(held), small);
    QUEST_CHECK(
        !held.empty(), ErrorKind::kUsage,
        "--hold-out {}: no run has so many parameters; the largest has {}", arguments.hold_out,
        size_text(std::max_element(all.begin(), all.end(), [](const auto& a, const auto& b) {
                    return a.params < b.params;
                  })->params));
  }
  scaling::FitOptions options = arguments.options;
  options.threads = default_thread_count();
  const FitResult fit = scaling::fit_scaling_law(fitted, options);
  print_fit(fit, fitted.size(), options.huber_delta);
  OrderedJson json = fit_json(fit);
  json["runs"] = fitted.size();
  json["huber_delta"] = options.huber_delta;
  const std::vector<double> errors = scaling::relative_errors(fit.law, fitted);
  if (arguments.residuals) print_errors("Residuals", fitted, errors);
  json["residuals"] = errors_json(fitted, errors);
  if (!held.empty()) {
    const std::vector<double> predicted = scaling::relative_errors(fit.law, held);
    print_errors("Held out: predicted, not fitted", held, predicted);
    json["held_out"] = errors_json(held, predicted);
  }
  if (!arguments.json.empty()) write_file_atomically(arguments.json, json.dump(2) + "\n");
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
  command
      ->add_option("--bootstrap", arguments->options.bootstrap,
                   "refits for the 95 % intervals (0: no intervals)")
      ->check(CLI::Range(0, 100000))
      ->capture_default_str();
  command->add_option("--seed", arguments->options.seed, "of guesses and bootstrap")
      ->capture_default_str();
  command->add_option("--hold-out", arguments->hold_out,
                      "predict runs of at least so many parameters (500M) instead of fitting them");
  command->add_flag("--residuals", arguments->residuals, "list every run beside the law");
  command->add_option("--json", arguments->json, "also write law, intervals and residuals here");
  command->callback([arguments] { run_fit(*arguments); });
}

}  // namespace quest::cli
