// The paper's experiments (QuEST, arXiv 2502.05003) as data: what each trains at a scale, and what
// its runs must show.
//
//   const Experiment& fig3 = experiment("fig3");
//   Training training = fig3.training(Scale::kTiny);           // settings and axes of a sweep
//   ... train, collect the runs ...
//   Findings found = fig3.judge(Scale::kTiny, runs);            // table, checks, values
//
// quest/cli/cmd_reproduce.cpp trains, prints and compares. Thread rules: pure, but for reading the
// runs' metrics.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quest/scaling/scaling_law.h"
#include "quest/train/sweep.h"

namespace quest::cli {

// tiny: a model of 1.05 M parameters on 2.5 M tokens, minutes a run on two cores. small: one of
// 3.4 M on 105 M tokens, a minute a run on one GPU. paper: the paper's 30M model on its 3 B tokens.
enum class Scale { kTiny, kSmall, kPaper };
// "tiny", "small", "paper"; throws kUsage.
Scale scale_from_name(std::string_view name);
std::string_view scale_name(Scale scale);

struct Training {
  train::TrainConfig base;  // without data, device and folder
  train::Sweep sweep;       // of one seed
  // Recipes that the BF16 runs are also evaluated with: post-training rounding.
  std::vector<std::string> rounded_after;
};

struct TrainedRun {
  std::map<std::string, std::string> settings;  // swept ones: "quant.recipe" -> "w2a2"
  std::string seed;
  double loss = 0;               // validation, nats a token
  std::filesystem::path folder;  // of the run
  std::string rounded = {};      // recipe that a BF16 run was rounded with after training
};

// Something that must hold, with its numbers.
struct Check {
  std::string text;
  bool holds = false;
};

struct Findings {
  std::string table;  // Markdown
  std::vector<Check> checks;
  std::map<std::string, double> values;  // what a stored expectation is compared with
};

struct Experiment {
  std::string name;         // "fig3"
  std::string claim;        // what the paper shows, one line
  std::string figure;       // of `quest plot`, drawn from the runs
  std::string title = {};   // above the picture; empty: the figure's own
  bool perplexity = false;  // in the picture, exp(loss), as the paper has it there
  // Without a figure: the setting against which losses are drawn, a line for each seed.
  std::string lines_over = {};
  // Of values against a stored expectation, relative.
  double tolerance = 0.02;
  double tiny_tolerance = tolerance;  // at scale tiny, where CPUs of two kinds end further apart
  // Null: it trains nothing (table1).
  std::function<Training(Scale)> training;
  std::function<Findings(Scale, std::span<const TrainedRun>)> judge;
};

// In the order of the paper; table1 first, whose judge is judge_law.
std::span<const Experiment> experiments();
// Throws kUsage, listing all.
const Experiment& experiment(std::string_view name);

// table1: eff of every format of a fit against the authors' (relative tolerance 2 %).
// reference: by recipe.
Findings judge_law(const scaling::ScalingLaw& fitted, const scaling::ScalingLaw& reference);

// What a run is among the others: "w2a2", "bf16 rounded to w2a2", "optimizer.lr=0.002".
std::string run_label(const TrainedRun& run);
// The same with its seed: its name among the values.
std::string value_name(const TrainedRun& run);

struct Expected {
  double value = 0;
  double tolerance = 0.02;  // relative
};

// What is off by more than the tolerance: lines for the user. Values that were not found are of
// other seeds, and left out.
std::vector<std::string> differences(const std::map<std::string, double>& found,
                                     const std::map<std::string, Expected>& expected);

// How an experiment ended. orders_only: why its values were compared with nothing, or empty.
std::string verdict_text(bool passed, std::string_view orders_only);

}  // namespace quest::cli
