// Trains the trials of a sweep (quest/train/sweep.h), each as a process `quest train` of its own.
//
//   SweepRunner runner(sweep, base, {.folder = "sweeps/lr", .jobs = 2});   // checks every trial
//   const SweepOutcome outcome = runner.run();
//
// The sweep's folder:
//   sweep.toml   the sweep and the settings that all trials share
//   trials.csv   what came of each trial (quest/train/sweep_table.h), written anew after each
//   runs/        the runs, named by trial: 001-1a2b3c4d; with halving also by rung: 001-r1-1a2b3c4d
//   trials/      each run's settings, TOML; logs/: what it printed
//   failed/      the last error line of each run that failed
//
// A second run() of the same sweep goes on: a run that has its summary.json is not trained again,
// one that has not goes on from its checkpoint, a failed trial stays failed (unless retry_failed).
// Signals (base/shutdown.h) are passed on to the children, whose saves are waited for.
#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "quest/train/sweep.h"
#include "quest/train/sweep_table.h"

namespace quest::cli {

struct SweepOptions {
  std::filesystem::path folder;
  int64_t jobs = 1;                  // children at a time; they share the cores evenly
  std::vector<std::string> devices;  // GPUs, as CUDA_VISIBLE_DEVICES names them: one child on each
  bool stop_on_failure = false;      // the first failure ends the sweep, running trials are saved
  bool retry_failed = false;
  // Of ended runs only the best keeps its weights (checkpoints/ and final/), and with halving those
  // that the next rung goes on from.
  bool keep_best_only = false;
  // Folders of other sweeps, there or not. A run of theirs that has ended with the settings of a
  // trial here is that trial's result, and stays where it is. Not with halving.
  std::vector<std::filesystem::path> others;
};

struct SweepOutcome {
  train::SweepTable table;
  std::map<std::string, std::string> errors;  // of failed trials
  bool interrupted = false;                   // by a signal or by stop_on_failure
};

class SweepRunner {
 public:
  // Plans the trials and checks each: settings, their combination with the data's files, the
  // model's shape and the schedule; there must be validation text. Writes nothing. Throws kUsage,
  // kIo and kData naming the trial.
  SweepRunner(train::Sweep sweep, train::TrainConfig base, SweepOptions options);

  const std::vector<train::Trial>& trials() const { return trials_; }
  const std::vector<train::Rung>& rungs() const { return rungs_; }  // one without halving
  std::string plan_text() const;  // what will be trained, a line a trial

  // Throws kUsage if the folder holds another sweep or other things, kIo if another process works
  // in it.
  SweepOutcome run();

 private:
  struct Run {
    size_t trial = 0;
    size_t rung = 0;
  };
  struct Worker;

  void check_trials() const;
  train::TrainConfig run_config(const Run& run) const;
  std::string run_name(const Run& run) const;
  void prepare_folder() const;
  bool take_result(const Run& run, const std::filesystem::path& folder);
  bool take_from_others(const Run& run, const train::TrainConfig& config);
  void fail(const Run& run, const std::string& error);
  std::filesystem::path failure_file(const Run& run) const;
  bool has_failed(const Run& run);
  void write_table() const;
  void drop_weights() const;
  void train_rung(size_t rung, const std::vector<size_t>& members);
  bool is_stopping() const;
  void start(Worker& worker, const Run& run);
  void finish(Worker& worker, int code);
  void print_line(const Run& run, double seconds);

  train::Sweep sweep_;
  train::TrainConfig base_;
  SweepOptions options_;
  std::vector<train::Trial> trials_;
  std::vector<train::Rung> rungs_;
  SweepOutcome outcome_;
  std::set<std::filesystem::path> under_way_;  // folders of runs whose processes are alive
  size_t ended_ = 0, in_rung_ = 0;             // for the live lines
};

// The table of a sweep's folder, and its trials' errors. Throws kIo or kData.
SweepOutcome read_sweep(const std::filesystem::path& folder);

}  // namespace quest::cli
