// What a sweep's trials came to: trials.csv in its folder, and the table of the best.
//
// trials.csv: "trial,state,<key>...,steps,tokens,loss,run", one line a trial. state:
//   done     trained to the end
//   stopped  successive halving left it after `steps`
//   failed   ended with an error, which is in the sweep's folder failed/
//   pending  not begun, or not at its end yet
// loss: the last validation loss, empty if there is none; run: the run's folder, relative to the
// sweep's. No cell holds a comma.
//
// Thread rules: pure.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace quest::train {

struct TrialRow {
  std::string trial, state;
  std::vector<std::string> values;  // of SweepTable::keys
  int64_t steps = 0, tokens = 0;    // trained; 0 and empty below before that
  std::optional<double> loss;
  std::string run;
};

struct SweepTable {
  std::vector<std::string> keys;  // swept settings
  std::vector<TrialRow> rows;
};

std::string trials_csv(const SweepTable& table);
// Throws kIo, or kData with the line.
SweepTable read_trials_csv(const std::filesystem::path& path);

// By loss; behind those that are done the ones that halving stopped, longest trained first. Rows
// without a loss are left out.
std::vector<const TrialRow*> ranking(const SweepTable& table);

// The `top` best trials, the best of each value of each swept setting if there are several
// settings, and what failed with its error. errors: by trial.
std::string best_of_text(const SweepTable& table, const std::map<std::string, std::string>& errors,
                         size_t top);

}  // namespace quest::train
