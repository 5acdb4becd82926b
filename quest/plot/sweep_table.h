// The trials of a sweep, read from the trials.csv of its folder. The first line names the columns:
// trial, state, a column for each setting that the sweep varies, steps, tokens, loss, run. A cell
// that holds a comma or a quotation mark is in quotation marks. A trial without a loss (failed, or
// pending before its first result) has an empty one.
//
//   SweepTable table = read_sweep_table("sweeps/lr");
//   HeatMap map = sweep_heat_map({&table, 1}, "optimizer.lr", "quant.weight.trust_scale", false);
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quest/plot/chart.h"

namespace quest::plot {

struct SweepTrial {
  std::string state;                            // "done", "failed", "stopped", "pending"
  std::map<std::string, std::string> settings;  // key to value, as written
  std::optional<double> loss;                   // validation loss, nats a token; final if done
};

struct SweepTable {
  std::vector<std::string> keys;  // of the settings, in the order of the columns
  std::vector<SweepTrial> trials;
};

// `source` starts the messages. Throws kData for a missing or double column, a line of another
// length, a loss that is no number, no trials.
SweepTable parse_sweep_table(std::string_view text, std::string_view source);

// FOLDER/trials.csv, or the file given. Throws kIo, kData.
SweepTable read_sweep_table(const std::filesystem::path& sweep);

// The keys that take more than one value.
std::vector<std::string> varied_keys(const SweepTable& table);

// The best loss (or perplexity, exp of it) of the trials of each pair of values that are done;
// empty where none is: the loss of a trial that halving stopped is one of fewer steps. Of several
// sweeps (of other seeds) the mean of that loss, empty where one of them has none. Values are in
// numerical order, or in the files' if one is no number. Throws kUsage for a key that a sweep does
// not have, listing its keys.
HeatMap sweep_heat_map(std::span<const SweepTable> sweeps, const std::string& x_key,
                       const std::string& y_key, bool perplexity);

// A line for each sweep: the loss of the trials that are done against one setting, on a logarithmic
// axis; the best of those that share a value. Throws kUsage for a key that a sweep does not have,
// kData for a value of it that is no positive number.
struct NamedSweep {
  std::string name;  // in the legend
  SweepTable table;
};
Chart sweep_chart(std::span<const NamedSweep> sweeps, const std::string& key);

}  // namespace quest::plot
