// quest sweep: many training runs over settings, as a grid, at random, or by successive halving.
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/cli/commands.h"
#include "quest/cli/sweep_runner.h"
#include "quest/cli_run/whole_numbers.h"

namespace quest::cli {

namespace fs = std::filesystem;
namespace {

using train::TrainConfig;

struct SweepArguments {
  std::vector<std::string> configs, grid, random;
  std::string report;
  int64_t trials = 0, seed = 0, eta = 3, top = 10;
  std::vector<int64_t> rungs;
  bool halving = false, dry_run = false;
  SweepOptions options;
  CLI::App* command = nullptr;
  std::unique_ptr<train::ConfigFlags> flags;

  bool given(const char* option) const { return command->count(option) > 0; }
};

struct Definition {
  train::Sweep sweep;
  TrainConfig base;
};

// What the sweep sets for each trial must not seem to be chosen.
void check_flags(const train::ConfigFlags& flags) {
  TrainConfig given;
  flags.apply(given);
  const TrainConfig standard;
  QUEST_CHECK(
      given.run.folder == standard.run.folder && given.run.name.empty() && given.run.parent.empty(),
      ErrorKind::kUsage,
      "run.folder, run.name and run.parent are set by the sweep: --out names its folder, "
      "where the trials' runs are too");
}

// Files first, then flags; a flag's axis takes the place of a file's on the same setting.
Definition read_definition(const SweepArguments& a) {
  Definition out;
  check_flags(*a.flags);
  std::vector<std::string> files = a.configs;
  const fs::path record = a.options.folder / "sweep.toml";
  // The folder alone names its sweep.
  if (files.empty() && a.grid.empty() && a.random.empty() && fs::exists(record)) {
    files.push_back(record.string());
  }
  for (const std::string& file : files) {
    train::TomlTable table = train::parse_toml_file(file);
    train::take_sweep(table, out.sweep);
    train::apply_toml(out.base, table);
  }
  std::string flags;  // through the same door as a file
  if (a.given("--trials")) flags += fmt::format("trials = {}\n", a.trials);
  if (a.given("--seed")) flags += fmt::format("seed = {}\n", a.seed);
  if (a.given("--eta")) flags += fmt::format("eta = {}\n", a.eta);
  if (a.given("--halving")) flags += "halving = true\n";
  if (a.given("--rungs")) flags += fmt::format("rungs = \"{}\"\n", fmt::join(a.rungs, ","));
  train::TomlTable table = train::parse_toml("[sweep]\n" + flags, "command line");
  train::take_sweep(table, out.sweep);
  const auto replace = [](auto& axes, auto axis) {
    std::erase_if(axes, [&](const auto& other) { return other.key == axis.key; });
    axes.push_back(std::move(axis));
  };
  for (const std::string& text : a.grid) replace(out.sweep.grid, train::parse_grid(text));
  for (const std::string& text : a.random) replace(out.sweep.random, train::parse_random(text));
  a.flags->apply(out.base);
  // Of a run's own config.toml: these are not the trials'.
  out.base.run.folder = TrainConfig().run.folder;
  out.base.run.name.clear();
  QUEST_CHECK(out.sweep.halving || (out.sweep.rungs.empty() && !a.given("--eta")),
              ErrorKind::kUsage, "--eta and --rungs are of successive halving: add --halving");
  return out;
}

void print_report(const SweepOutcome& outcome, const fs::path& folder, size_t top) {
  fmt::print("{}: {}", folder.string(), train::best_of_text(outcome.table, outcome.errors, top));
}

// At the end, so that a script does not take an incomplete sweep for a whole one.
void check_none_failed(const train::SweepTable& table) {
  std::vector<std::string> failed;
  for (const train::TrialRow& row : table.rows) {
    if (row.state == "failed") failed.push_back(row.trial);
  }
  QUEST_CHECK(failed.size() < table.rows.size(), ErrorKind::kData, "every trial failed");
  QUEST_CHECK(failed.empty(), ErrorKind::kData,
              "{} of {} failed: {}; the errors stand above, --retry-failed trains them again",
              failed.size(), format_count(static_cast<int64_t>(table.rows.size()), "trial"),
              fmt::join(failed, ", "));
}

void run_sweep(SweepArguments& a) {
  if (!a.report.empty()) {
    print_report(read_sweep(a.report), a.report, static_cast<size_t>(a.top));
    return;
  }
  QUEST_CHECK(!a.options.folder.empty(), ErrorKind::kUsage,
              "--out FOLDER says where the sweep is kept (or --report FOLDER prints one again)");
  a.options.folder = (a.options.folder / "").lexically_normal().parent_path();
  if (a.options.folder.empty()) a.options.folder = ".";
  Definition definition = read_definition(a);
  SweepRunner runner(std::move(definition.sweep), std::move(definition.base), a.options);
  if (a.dry_run) {
    fmt::print("{}", runner.plan_text());
    return;
  }
  install_shutdown_handlers();
  log::info("{}, {} at a time; logs are in {}",
            format_count(static_cast<int64_t>(runner.trials().size()), "trial"), a.options.jobs,
            (a.options.folder / "logs").string());
  const SweepOutcome outcome = runner.run();
  if (shutdown_signal() != 0) {
    log::warn("stopped by a signal; the same command goes on");
    return;
  }
  fmt::print("\n");
  print_report(outcome, a.options.folder, static_cast<size_t>(a.top));
  QUEST_CHECK(!outcome.interrupted, ErrorKind::kData,
              "a trial failed, and --stop-on-failure ended the sweep");
  check_none_failed(outcome.table);
}

void add_axis_options(CLI::App& command, SweepArguments& a) {
  const auto many = [&](const char* name, std::vector<std::string>& texts, const char* help) {
    command.add_option(name, texts, help)
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
        ->group("Sweep");
  };
  many("--grid", a.grid, "KEY=VALUE,VALUE...: every value, with every one of other axes");
  many(
      "--random", a.random,
      "KEY=log:LOW:HIGH, uniform:LOW:HIGH, int:LOW:HIGH, or values to choose from: a draw for each "
      "of --trials");
  command.add_option("--trials", a.trials, "draws of the random axes")
      ->check(whole_number_from(1))
      ->group("Sweep");
  command.add_option("--seed", a.seed, "of the draws (run.seed is the runs')")
      ->check(whole_number_from(0))
      ->group("Sweep");
  command
      .add_flag("--halving", a.halving,
                "successive halving: all trials train a little, the best 1/eta of them more, ...")
      ->group("Sweep");
  command.add_option("--eta", a.eta, "halving: one in so many goes on (default 3)")
      ->check(whole_number_from(2))
      ->group("Sweep");
  command
      .add_option("--rungs", a.rungs,
                  "halving: steps at which trials are compared, 100,300,900 (default: train.steps, "
                  "its eta-th part, ...)")
      ->delimiter(',')
      ->group("Sweep");
}

void add_running_options(CLI::App& command, SweepArguments& a) {
  auto* jobs = command.add_option("--jobs", a.options.jobs,
                                  "trials at a time, which share the cores evenly (default 1)");
  jobs->check(CLI::Range(1, 1024))->group("Sweep");
  command
      .add_option("--devices", a.options.devices,
                  "GPUs (0,1,2): a trial at a time on each, with train.device cuda")
      ->delimiter(',')
      ->excludes(jobs)
      ->group("Sweep");
  command
      .add_flag("--stop-on-failure", a.options.stop_on_failure,
                "end with the first trial that fails; those that run are saved (without it the "
                "others train on, and the exit code at the end is not 0)")
      ->group("Sweep");
  command
      .add_flag("--retry-failed", a.options.retry_failed, "train trials again that failed before")
      ->group("Sweep");
  command
      .add_flag("--keep-best", a.options.keep_best_only,
                "weights of the best run only: the others' checkpoints are removed as soon as they "
                "have ended")
      ->group("Sweep");
  command.add_flag("--dry-run", a.dry_run, "list the trials, and train nothing")->group("Sweep");
  command.add_option("--top", a.top, "trials in the table of the best (default 10)")
      ->check(whole_number_from(1))
      ->group("Sweep");
}

}  // namespace

void add_sweep_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "sweep", "train many runs over settings (grid, random, halving) and compare them");
  auto a = std::make_shared<SweepArguments>();
  a->command = command;
  command
      ->add_option("--out", a->options.folder,
                   "folder of the sweep; the same command goes on with what it holds")
      ->group("Sweep");
  command
      ->add_option("--config,-c", a->configs,
                   "TOML file with settings that all trials share, and [sweep] tables")
      ->group("Sweep");
  command->add_option("--report", a->report, "print the table of a sweep's folder again")
      ->group("Sweep");
  add_axis_options(*command, *a);
  add_running_options(*command, *a);
  a->flags = std::make_unique<train::ConfigFlags>(*command);
  command->callback([a] { run_sweep(*a); });
}

}  // namespace quest::cli
