// Finished training runs as rows of a table: what a scaling law is fitted to.
//
//   std::vector<ScalingRun> runs = read_run_table("data/paper/runs.csv");
//   runs.push_back(read_run_summary("runs/w4a4-5c6c8677"));
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quest::scaling {

struct ScalingRun {
  std::string format;  // a recipe's name: "bf16", "w4a4", "w4a16", "fp4", "w2a2_nohadamard"
  double params = 0;   // without embedding and head
  double tokens = 0;   // trained on
  double loss = 0;     // on the validation text, nats a token
  std::string source;  // "runs.csv line 7", or the run's folder: for messages
};

// A CSV file whose first line names its columns, in any order: `format`, or `weight_format`,
// `activation_format` and `hadamard` (0 or 1) as in data/paper/runs.csv; `params` or
// `params_non_embedding`; `tokens`; `loss` or `val_loss`. Other columns are not read. Throws kIo,
// or kData with the line for what is missing, not a finite number, or not positive.
std::vector<ScalingRun> read_run_table(const std::filesystem::path& path);

// summary.json of a run's folder. Throws kIo or kData; a run that has not ended has none.
ScalingRun read_run_summary(const std::filesystem::path& run);

// All runs of `inputs`, in their order: a folder is a finished run, a file a table.
std::vector<ScalingRun> read_runs(std::span<const std::string> inputs);

// Runs that equal an earlier one in format, params, tokens and loss: (the earlier, this) by index.
std::vector<std::pair<size_t, size_t>> repeated_runs(std::span<const ScalingRun> runs);

// The recipe's name of a row of the paper's table: "int4" and "int4" with Hadamard -> "w4a4".
// Throws kData for a name that is no such format.
std::string format_of(std::string_view weight_format, std::string_view activation_format,
                      bool hadamard);

}  // namespace quest::scaling
