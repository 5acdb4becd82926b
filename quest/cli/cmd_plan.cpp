// quest plan: which format, model size and tokens a budget buys, by the scaling law.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <set>
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
#include "quest/cli/paper_data.h"
#include "quest/cli/plan_costs.h"
#include "quest/cli/quantities.h"
#include "quest/cli_run/whole_numbers.h"
#include "quest/scaling/fit_file.h"
#include "quest/scaling/run_table.h"

namespace quest::cli {
namespace {

using scaling::FormatPlan;
using scaling::kUnlimited;
using scaling::Objective;
using scaling::Plan;
using OrderedJson = nlohmann::ordered_json;

struct PlanArguments {
  std::vector<std::string> runs, speeds, formats, train_speeds;
  std::string fit, json;
  std::string memory, compute, tokens, smallest;
  double decode_ms = 0, prefill_ms = 0, tokens_per_parameter = 0, loss = 0;  // 0: not given
  bool presets = false;
  scaling::FitOptions fit_options;
  DeploymentSettings deployment;
  std::string embedding = "int8", head = "int8";
};

const std::map<std::string, Objective> kSmallest = {{"memory", Objective::kMemory},
                                                    {"decode", Objective::kDecode},
                                                    {"prefill", Objective::kPrefill},
                                                    {"compute", Objective::kFlops}};

// The law to plan with, and what it is of, in words.
struct LawSource {
  scaling::StoredFit fit;
  std::string text;
};

LawSource find_law(const PlanArguments& arguments) {
  if (!arguments.fit.empty()) {
    LawSource stored = {scaling::read_fit_file(arguments.fit), arguments.fit};
    warn_of_unidentified(stored.fit.unidentified);
    return stored;
  }
  std::vector<std::string> inputs = arguments.runs;
  const bool paper = inputs.empty();
  if (paper) inputs.push_back((paper_data_folder() / "runs.csv").string());
  const std::vector<scaling::ScalingRun> runs = scaling::read_runs(inputs);
  scaling::FitOptions options = arguments.fit_options;
  options.threads = default_thread_count();
  scaling::FitResult fit = scaling::fit_scaling_law(runs, options);
  warn_about_fit(fit, runs);
  std::vector<std::string> unidentified = scaling::unidentified_formats(fit);
  LawSource source;
  source.fit = {std::move(fit.law), std::move(fit.bootstrap_laws), scaling::fitted_ranges(runs),
                std::move(unidentified)};
  source.text = fmt::format("{} runs{}", runs.size(), paper ? " of the paper" : "");
  return source;
}

scaling::PlanQuestion question_of(const PlanArguments& a) {
  scaling::PlanQuestion question;
  scaling::PlanBudget& budget = question.budget;
  if (!a.memory.empty()) budget.memory_bytes = parse_bytes(a.memory, "--memory");
  if (!a.compute.empty()) budget.flops = parse_count(a.compute, "--compute");
  if (!a.tokens.empty()) budget.tokens = parse_count(a.tokens, "--tokens");
  if (a.decode_ms > 0) budget.decode_seconds = a.decode_ms / 1e3;
  if (a.prefill_ms > 0) budget.prefill_seconds = a.prefill_ms / 1e3;
  if (a.tokens_per_parameter > 0) budget.tokens_per_parameter = a.tokens_per_parameter;
  QUEST_CHECK(a.smallest.empty() == (a.loss == 0), ErrorKind::kUsage,
              "--loss says what is to be reached and --smallest by the least of what: give both, "
              "or none for the lowest loss");
  if (!a.smallest.empty()) question.objective = kSmallest.at(a.smallest);
  question.target_loss = a.loss;
  if (a.presets) question.sizes = preset_sizes(a.deployment);
  const bool asks_time =
      budget.decode_seconds < kUnlimited || budget.prefill_seconds < kUnlimited ||
      question.objective == Objective::kDecode || question.objective == Objective::kPrefill;
  scaling::check_question(question);
  QUEST_CHECK(!asks_time || !a.speeds.empty(), ErrorKind::kUsage,
              "time per token needs measured speeds: --speeds FILE.json of `quest-run bench "
              "--json FILE.json`");
  return question;
}

// "w4a4=1.08" for --train-speed.
std::map<std::string, double> training_speeds(const std::vector<std::string>& texts,
                                              const scaling::ScalingLaw& law) {
  std::map<std::string, double> speeds;
  for (const std::string& text : texts) {
    const size_t equals = text.find('=');
    QUEST_CHECK(equals != std::string::npos, ErrorKind::kUsage,
                "--train-speed is '{}', must be FORMAT=SPEED such as w4a4=1.08", text);
    const std::string format = text.substr(0, equals);
    law.efficiency(format);  // throws for one that it lacks
    double speed = 0;
    const char* last = text.data() + text.size();
    const auto [end, code] = std::from_chars(text.data() + equals + 1, last, speed);
    QUEST_CHECK(code == std::errc() && end == last && std::isfinite(speed) && speed > 0,
                ErrorKind::kUsage, "--train-speed is '{}': the speed must be a number above 0",
                text);
    QUEST_CHECK(speeds.emplace(format, speed).second, ErrorKind::kUsage,
                "--train-speed gives {} twice", format);
  }
  return speeds;
}

std::vector<DeployedCosts> all_costs(const PlanArguments& arguments,
                                     const scaling::ScalingLaw& law) {
  const std::vector<MeasuredSpeed> speeds = read_speeds(arguments.speeds);
  std::map<std::string, double> training = training_speeds(arguments.train_speeds, law);
  std::vector<std::string> formats = arguments.formats;
  if (formats.empty()) {
    for (const auto& [format, eff] : law.eff) formats.push_back(format);
  }
  std::vector<DeployedCosts> costs;
  for (const std::string& format : formats) {
    law.efficiency(format);
    costs.push_back(deployed_costs(format, arguments.deployment, speeds));
    if (const auto it = training.find(format); it != training.end()) {
      costs.back().costs.training_speed = it->second;
    }
  }
  return costs;
}

// One line of the table, with what is said about it below.
struct Row {
  const FormatPlan& plan;
  const DeployedCosts& costs;
  const scaling::FittedRange* range;  // null: not known
  bool extrapolates_params() const { return range && outside(plan.plan->params, range->params); }
  bool extrapolates_tokens() const { return range && outside(plan.plan->tokens, range->tokens); }
  bool extrapolates_ratio() const {
    return range && outside(plan.plan->tokens / plan.plan->params, range->tokens_per_parameter);
  }
  bool extrapolates_speed() const {
    return costs.measured_sizes && outside(plan.plan->params, *costs.measured_sizes);
  }

 private:
  // Beyond rounding: a budget given in round numbers may end where the runs do.
  static bool outside(double x, const scaling::Interval& i) {
    return x < 0.99 * i.low || x > 1.01 * i.high;
  }
};

std::vector<Row> rows_of(const std::vector<FormatPlan>& plans,
                         const std::vector<DeployedCosts>& costs, const LawSource& source) {
  std::vector<Row> rows;
  for (const FormatPlan& plan : plans) {
    const auto cost = std::find_if(costs.begin(), costs.end(), [&](const DeployedCosts& c) {
      return c.costs.format == plan.format;
    });
    const auto range = source.fit.ranges.find(plan.format);
    rows.push_back({plan, *cost, range == source.fit.ranges.end() ? nullptr : &range->second});
  }
  return rows;
}

std::string budget_text(const PlanArguments& a) {
  std::vector<std::string> parts;
  const auto add = [&](bool given, std::string text) {
    if (given) parts.push_back(std::move(text));
  };
  add(!a.memory.empty(), "memory " + a.memory);
  add(a.decode_ms > 0, fmt::format("{:g} ms a token written", a.decode_ms));
  add(a.prefill_ms > 0, fmt::format("{:g} ms a token read", a.prefill_ms));
  add(!a.compute.empty(), fmt::format("compute {} FLOP", a.compute));
  add(!a.tokens.empty(), "tokens " + a.tokens);
  add(a.tokens_per_parameter > 0, fmt::format("D/N {:g}", a.tokens_per_parameter));
  return parts.empty() ? "none" : fmt::format("{}", fmt::join(parts, ", "));
}

std::string objective_text(const PlanArguments& a) {
  if (a.smallest.empty()) return "lowest loss";
  return fmt::format("least {} that reaches loss {:g}",
                     a.smallest == "memory" || a.smallest == "compute"
                         ? a.smallest
                         : fmt::format("time of {} per token", a.smallest),
                     a.loss);
}

using Table = std::vector<std::vector<std::string>>;

// The first column to the left, others to the right.
void print_table(const Table& table) {
  std::vector<size_t> widths(table.front().size());
  for (const auto& row : table) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const auto& row : table) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += i == 0 || i + 1 == row.size() ? fmt::format("{:<{}}  ", row[i], widths[i])
                                            : fmt::format("{:>{}}  ", row[i], widths[i]);
    }
    fmt::print("{}\n", line.substr(0, line.find_last_not_of(' ') + 1));
  }
}

std::vector<std::string> cells_of(const Row& row, bool best, bool with_times) {
  const Plan& plan = *row.plan.plan;
  const auto marked = [](std::string text, bool mark, char sign) {
    return text + (mark ? sign : ' ');
  };
  const auto milliseconds = [&](const std::optional<double>& seconds) {
    return seconds ? marked(fmt::format("{:.3g}", 1e3 * *seconds), row.extrapolates_speed(), '~')
                   : "- ";
  };
  std::vector<std::string> cells = {
      (best ? "> " : "  ") + row.plan.format,
      row.costs.weight_bits ? fmt::format("{:.4g}", *row.costs.weight_bits) : "-",
      marked(count_text(plan.params), row.extrapolates_params(), '*'),
      marked(count_text(plan.tokens), row.extrapolates_tokens(), '*'),
      marked(
          fmt::format("{:.{}f}", plan.tokens / plan.params, plan.tokens < 10 * plan.params ? 1 : 0),
          row.extrapolates_ratio(), '*'),
      fmt::format("{:.4f}", plan.loss),
  };
  const auto& interval = row.plan.loss_interval;
  cells.push_back(interval ? fmt::format("{:.4f} to {:.4f}", interval->low, interval->high) : "-");
  cells.push_back(row.plan.wins ? fmt::format("{:.0f} %", 100 * *row.plan.wins) : "-");
  cells.push_back(plan.memory_bytes ? bytes_text(*plan.memory_bytes) : "-");
  if (with_times) {
    cells.push_back(milliseconds(plan.decode_seconds));
    cells.push_back(milliseconds(plan.prefill_seconds));
  }
  cells.push_back(fmt::format("{:.2e}", plan.flops));
  cells.push_back(fmt::format("{}", fmt::join(plan.limits, ", ")));
  return cells;
}

std::string range_text(const scaling::Interval& interval) {
  return fmt::format("{} to {}", count_text(interval.low), count_text(interval.high));
}

// What the marks * and ~ mean, for the formats that bear them.
void print_marks(const std::vector<Row>& rows) {
  std::map<std::string, std::vector<std::string>> beyond, unmeasured;
  for (const Row& row : rows) {
    if (!row.plan.plan) continue;
    if (row.extrapolates_params() || row.extrapolates_tokens() || row.extrapolates_ratio()) {
      const scaling::Interval& ratio = row.range->tokens_per_parameter;
      beyond[fmt::format("N {}, D {}, D/N {:.0f} to {:.0f}", range_text(row.range->params),
                         range_text(row.range->tokens), ratio.low, ratio.high)]
          .push_back(row.plan.format);
    }
    if (row.extrapolates_speed()) {
      unmeasured[range_text(*row.costs.measured_sizes)].push_back(row.plan.format);
    }
  }
  if (!beyond.empty()) {
    fmt::print(
        "\n* outside of the format's fitted runs: an extrapolation, whose error the intervals "
        "do not hold:\n");
    for (const auto& [range, formats] : beyond) {
      fmt::print("  {}: {}\n", range, fmt::join(formats, ", "));
    }
  }
  if (!unmeasured.empty()) {
    fmt::print("\n~ outside of the measured models, at the rate of the nearest:\n");
    for (const auto& [range, formats] : unmeasured) {
      fmt::print("  N {}: {}\n", range, fmt::join(formats, ", "));
    }
  }
}

void print_left_out(const std::vector<Row>& rows) {
  std::map<std::string, std::vector<std::string>> reasons;
  for (const Row& row : rows) {
    if (!row.plan.plan) reasons[row.plan.reason].push_back(row.plan.format);
  }
  if (!reasons.empty()) fmt::print("\nno plan:\n");
  for (const auto& [reason, formats] : reasons) {
    fmt::print("  {}: {}\n", fmt::join(formats, ", "), reason);
  }
}

void print_plans(const PlanArguments& arguments, const LawSource& source,
                 const std::vector<Row>& rows) {
  fmt::print("law     {}{}\n", source.text,
             source.fit.bootstrap_laws.empty()
                 ? ", without a bootstrap: no intervals"
                 : fmt::format(", intervals from {} refits", source.fit.bootstrap_laws.size()));
  fmt::print("budget  {}\n", budget_text(arguments));
  fmt::print("goal    {}\n", objective_text(arguments));
  fmt::print("memory  packed: blocks in the format, embedding {}, head {}, vocabulary {}\n\n",
             arguments.embedding, arguments.deployment.tied ? "tied" : arguments.head,
             arguments.deployment.vocabulary);
  Table table = {
      {"  format", "bits", "N ", "D ", "D/N ", "loss", "95 % interval", "best in", "memory"}};
  const bool with_times = !arguments.speeds.empty();
  if (with_times) {
    table[0].push_back("ms/written ");
    table[0].push_back("ms/read ");
  }
  table[0].push_back("FLOP");
  table[0].push_back("limited by");
  for (const Row& row : rows) {
    if (row.plan.plan) table.push_back(cells_of(row, &row == &rows.front(), with_times));
  }
  if (table.size() > 1) print_table(table);
  print_marks(rows);
  if (source.fit.ranges.empty()) {
    fmt::print("\n{} lists no runs: whether N and D lie within them is not known\n", source.text);
  }
  print_left_out(rows);
}

OrderedJson row_json(const Row& row) {
  OrderedJson json = {{"format", row.plan.format}};
  if (row.costs.weight_bits) json["weight_bits"] = *row.costs.weight_bits;
  if (!row.plan.plan) {
    json["reason"] = row.plan.reason;
    return json;
  }
  const Plan& plan = *row.plan.plan;
  json["params"] = plan.params;
  json["tokens"] = plan.tokens;
  json["loss"] = plan.loss;
  const auto add = [&](const char* key, const auto& value) {
    if (value) json[key] = *value;
  };
  const auto add_interval = [&](const char* key, const std::optional<scaling::Interval>& i) {
    if (i) json[key] = {i->low, i->high};
  };
  add_interval("loss_interval_95", row.plan.loss_interval);
  add_interval("params_interval_95", row.plan.params_interval);
  add("best_in", row.plan.wins);
  json["flops"] = plan.flops;
  json["training_speed"] = row.costs.costs.training_speed;
  add("memory_bytes", plan.memory_bytes);
  add("decode_seconds", plan.decode_seconds);
  add("prefill_seconds", plan.prefill_seconds);
  json["limited_by"] = plan.limits;
  if (row.range) {
    json["params_within_fitted_runs"] = !row.extrapolates_params();
    json["tokens_within_fitted_runs"] = !row.extrapolates_tokens();
    json["ratio_within_fitted_runs"] = !row.extrapolates_ratio();
  }
  if (row.costs.measured_sizes) json["within_measured_sizes"] = !row.extrapolates_speed();
  return json;
}

OrderedJson plans_json(const PlanArguments& arguments, const LawSource& source,
                       const std::vector<Row>& rows, const scaling::PlanQuestion& question) {
  OrderedJson budget = OrderedJson::object(), plans = OrderedJson::array();
  const auto add = [&](const char* key, double limit) {
    if (limit < kUnlimited) budget[key] = limit;
  };
  add("memory_bytes", question.budget.memory_bytes);
  add("decode_seconds", question.budget.decode_seconds);
  add("prefill_seconds", question.budget.prefill_seconds);
  add("flops", question.budget.flops);
  add("tokens", question.budget.tokens);
  add("tokens_per_parameter", question.budget.tokens_per_parameter);
  for (const Row& row : rows) plans.push_back(row_json(row));
  OrderedJson json = {{"law", source.text},
                      {"budget", budget},
                      {"goal", arguments.smallest.empty() ? "loss" : arguments.smallest},
                      {"vocabulary", arguments.deployment.vocabulary},
                      {"embedding", arguments.embedding},
                      {"head", arguments.deployment.tied ? "tied" : arguments.head},
                      {"bootstrap_laws", source.fit.bootstrap_laws.size()},
                      {"best", OrderedJson()},
                      {"plans", plans}};
  if (question.target_loss > 0) json["target_loss"] = question.target_loss;
  if (rows.front().plan.plan) json["best"] = rows.front().plan.format;
  return json;
}

// "; the least memory ...", where the budget is below it.
std::string least_memory_text(const std::vector<scaling::FormatCosts>& costs,
                              const scaling::PlanQuestion& question) {
  const double params = scaling::smallest_size(question);
  double least = kUnlimited;
  std::string format;
  for (const scaling::FormatCosts& one : costs) {
    if (!one.memory_bytes || one.memory_bytes(params) >= least) continue;
    least = one.memory_bytes(params);
    format = one.format;
  }
  if (format.empty() || least <= question.budget.memory_bytes) return "";
  return fmt::format("; the least memory is {}, of {} parameters in {}: raise --memory",
                     bytes_text(least), count_text(params), format);
}

void run_plan(PlanArguments& arguments) {
  arguments.deployment.tables = {table_format_from_name(arguments.embedding),
                                 table_format_from_name(arguments.head)};
  if (arguments.deployment.tied)
    arguments.deployment.tables.head = arguments.deployment.tables.embedding;
  const std::set<std::string> different(arguments.formats.begin(), arguments.formats.end());
  QUEST_CHECK(different.size() == arguments.formats.size(), ErrorKind::kUsage,
              "--formats names one twice");
  const scaling::PlanQuestion question = question_of(arguments);
  std::optional<AtomicFile> json_file;  // before the work: a place that cannot be written to
  if (!arguments.json.empty()) json_file.emplace(arguments.json);
  const LawSource source = find_law(arguments);
  const std::vector<DeployedCosts> deployed = all_costs(arguments, source.fit.law);
  std::vector<scaling::FormatCosts> costs;
  for (const DeployedCosts& one : deployed) costs.push_back(one.costs);
  const std::vector<FormatPlan> plans =
      scaling::plan_formats(source.fit.law, source.fit.bootstrap_laws, costs, question);
  const std::vector<Row> rows = rows_of(plans, deployed, source);
  print_plans(arguments, source, rows);
  if (json_file) {
    json_file->write(plans_json(arguments, source, rows, question).dump(2) + "\n");
    json_file->publish();
  }
  QUEST_CHECK(plans.front().plan.has_value(), ErrorKind::kUsage,
              "no format has a plan within this budget (the reasons are above){}",
              least_memory_text(costs, question));
}

void add_budget_options(CLI::App& command, PlanArguments& a) {
  command
      .add_option("--memory", a.memory,
                  "largest packed model: 500MB, 2GiB (without key-value cache)")
      ->group("Budget");
  command.add_option("--compute", a.compute, "training operations, 6 N D at BF16's speed: 1e21")
      ->group("Budget");
  command.add_option("--tokens", a.tokens, "most tokens to train on: 100B")->group("Budget");
  command
      .add_option("--tokens-per-parameter", a.tokens_per_parameter,
                  "most tokens for each parameter N (the paper's runs: 100)")
      ->check(CLI::PositiveNumber)
      ->group("Budget");
  command
      .add_option("--decode-ms", a.decode_ms,
                  "most milliseconds for a token written (needs --speeds)")
      ->check(CLI::PositiveNumber)
      ->group("Budget");
  command
      .add_option("--prefill-ms", a.prefill_ms,
                  "most milliseconds for a token read (needs --speeds)")
      ->check(CLI::PositiveNumber)
      ->group("Budget");
  command.add_option("--loss", a.loss, "a loss to reach, by the least of what --smallest names")
      ->check(CLI::PositiveNumber)
      ->group("Goal (without: the lowest loss)");
  command
      .add_option("--smallest", a.smallest,
                  "what to need the least of to reach --loss (decode, prefill: time per token)")
      ->check(CLI::IsMember({"memory", "compute", "decode", "prefill"}))
      ->group("Goal (without: the lowest loss)");
}

void add_choice_options(CLI::App& command, PlanArguments& a) {
  command.add_option("--formats", a.formats, "choose among these only: w4a4,w2a2")
      ->delimiter(',')
      ->group("Choice");
  command.add_flag("--presets", a.presets, "choose among the paper's sizes only (30M to 1.6B)")
      ->group("Choice");
  command
      .add_option("--speeds", a.speeds,
                  "measured speeds: files of `quest-run bench --json`, one or more for each format")
      ->delimiter(',')
      ->group("Choice");
  command
      .add_option("--train-speed", a.train_speeds,
                  "training speed of a format, times BF16's: w4a4=1.08 (default 1)")
      ->group("Choice");
  command.add_option("--embedding", a.embedding, "the packed model's embedding")
      ->check(CLI::IsMember({"bf16", "int8", "int4"}))
      ->capture_default_str()
      ->group("Choice");
  auto* head = command.add_option("--head", a.head, "the packed model's head");
  head->check(CLI::IsMember({"bf16", "int8", "int4"}))->capture_default_str()->group("Choice");
  command.add_flag("--tied", a.deployment.tied, "the head is the embedding")
      ->excludes(head)
      ->group("Choice");
  command.add_option("--vocab-size", a.deployment.vocabulary, "rows of embedding and head")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->capture_default_str()
      ->group("Choice");
}

}  // namespace

void add_plan_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "plan", "format, model size and tokens for a budget of memory, time, compute or tokens");
  auto arguments = std::make_shared<PlanArguments>();
  auto* runs = command->add_option("RUNS", arguments->runs,
                                   "tables and folders of finished runs to fit the law to, as of "
                                   "`quest fit` (default: the paper's runs)");
  auto* fit = command->add_option("--fit", arguments->fit,
                                  "the law of `quest fit --json FILE` instead of RUNS");
  fit->excludes(runs);
  add_budget_options(*command, *arguments);
  add_choice_options(*command, *arguments);
  add_bootstrap_option(*command, arguments->fit_options.bootstrap)->excludes(fit);
  command->add_option("--seed", arguments->fit_options.seed, "of the fit's guesses and bootstrap")
      ->check(whole_number_from(0))
      ->excludes(fit)
      ->capture_default_str();
  command->add_option("--json", arguments->json, "also write the plans here");
  command->callback([arguments] { run_plan(*arguments); });
}

}  // namespace quest::cli
