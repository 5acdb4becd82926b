// Which runs a sweep trains: a grid, random draws or successive halving over any settings
// (train_config.h). Planning only; quest/cli/sweep_runner.h trains.
//
//   Sweep sweep;
//   sweep.grid.push_back(parse_grid("optimizer.lr=1e-4,3e-4"));
//   sweep.random.push_back(parse_random("optimizer.weight_decay=log:1e-3:1"));
//   sweep.trials = 20;
//   for (const Trial& trial : plan_trials(sweep)) train(trial_config(base, trial));
//
// A sweep as a TOML file holds settings as any file of `quest train`, and
//   [sweep]
//   trials = 20              # random draws
//   seed = 1                 # of the draws
//   halving = true
//   eta = 3
//   rungs = "100, 300, 900"  # steps
//   [sweep.grid]
//   quant.recipe = "w4a4, w1a1"
//   [sweep.random]
//   optimizer.lr = "log:1e-4:1e-2"
// Values of an axis are separated by commas and cannot hold one.
//
// Thread rules: pure.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quest/train/train_config.h"

namespace quest::train {

struct GridAxis {
  std::string key;  // "optimizer.lr"
  std::vector<std::string> values;

  bool operator==(const GridAxis&) const = default;
};

struct RandomAxis {
  std::string key;
  std::string kind;  // "log", "uniform", "int" (whole numbers, both ends included), "choice"
  double low = 0, high = 0;
  std::vector<std::string> values;  // of a choice

  bool operator==(const RandomAxis&) const = default;
};

struct Sweep {
  std::vector<GridAxis> grid;
  std::vector<RandomAxis> random;
  int64_t trials = 0;  // draws, if there are random axes; each with every point of the grid
  int64_t seed = 0;
  bool halving = false;
  int64_t eta = 3;
  std::vector<int64_t> rungs;  // steps of each rung; empty: halving_rungs chooses

  bool operator==(const Sweep&) const = default;
};

struct Trial {
  std::string name;                                           // "001"
  std::vector<std::pair<std::string, std::string>> settings;  // key and value, grid first
};

// "optimizer.lr=1e-4,3e-4", "lr=1e-4,3e-4" (a short flag without its dashes). Throws kUsage: an
// unknown key (naming the nearest), an empty or repeated value, a key that the sweep itself sets
// (run.folder, run.name, run.parent, run.threads).
GridAxis parse_grid(std::string_view text);
// "optimizer.lr=log:1e-4:1e-2", "...=uniform:0:0.3", "...=int:1:8", or a choice "...=a,b,c". Throws
// kUsage as parse_grid, and for ends that are no numbers or in no order.
RandomAxis parse_random(std::string_view text);

// Takes [sweep], [sweep.grid] and [sweep.random] out of a file's table; an axis whose key the sweep
// has already is replaced. Throws kUsage with file and line.
void take_sweep(TomlTable& table, Sweep& sweep);
// As take_sweep reads it.
std::string sweep_to_toml(const Sweep& sweep);

// Every draw with every point of the grid, the last axis fastest. A draw depends on seed, axis and
// its number alone: more trials begin with the same ones. Throws kUsage: no axis, a key on two
// axes, random axes without trials or the reverse, halving that sweeps the length of training.
std::vector<Trial> plan_trials(const Sweep& sweep);

// base with the trial's settings, in the order of their declaration. Throws kUsage beginning with
// "trial 001 (key=value ...)".
TrainConfig trial_config(const TrainConfig& base, const Trial& trial);
std::string settings_text(const Trial& trial);  // "optimizer.lr=1e-4 quant.recipe=w4a4"

// Successive halving (Jamieson and Talwalkar, arXiv 1502.07943): all trials train to the first
// rung, the best of them (1 / eta, at least one) to the second, and so on.
struct Rung {
  int64_t steps = 0;
  int64_t trials = 0;
};
// total_steps: train.steps, 0 if not given; used if sweep.rungs is empty: the last rung has them,
// each before it 1 / eta of the next one's, and there are 1 + log_eta(trials) rungs or as many as
// have different steps. Throws kUsage: rungs that do not rise, eta below 2, no steps known.
std::vector<Rung> halving_rungs(const Sweep& sweep, int64_t trials, int64_t total_steps);
// Indices of the `count` lowest losses, ascending by index; those without a loss are not chosen. Of
// equal losses the first.
std::vector<size_t> promoted(std::span<const std::optional<double>> losses, int64_t count);
// Whether a promoted trial may go on from its checkpoint: if the learning rate of a step does not
// depend on how many steps there are in all (schedule constant, its warm-up given in steps or
// none). Otherwise each rung is trained from the first step, with the whole schedule.
bool goes_on_from_checkpoint(const TrainConfig& config);

}  // namespace quest::train
