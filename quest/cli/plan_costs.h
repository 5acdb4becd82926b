// What a model of N parameters takes when it is deployed: bytes of the packed model, seconds a
// token by speeds that were measured. For `quest plan`.
//
//   const std::vector<MeasuredSpeed> speeds = read_speeds({"w4a4-30M.json", "w4a4-800M.json"});
//   const DeployedCosts costs = deployed_costs("w4a4", settings, speeds);
//   costs.costs.memory_bytes(400e6);
//
// Bytes: those of the packed layout (quest/packed/packed_layout.h) at the paper's shapes (presets
// of quest/train/train_config.h) exactly but for the file's header; blocks, embedding and head each
// go on between and beyond the shapes as a power of N. Key-value cache and scratch are not in it.
// Seconds a token written: bytes that a step reads (all but the embedding, of which it reads a
// row) by the bytes a second that were reached. Seconds a token read: operations of the blocks, 2
// N, by operations a second. Both rates lie on a straight line in logarithms between measured
// sizes, and stay as they were at the outermost one beyond.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "quest/packed/packed_layout.h"
#include "quest/scaling/budget_plan.h"

namespace quest::cli {

struct DeploymentSettings {
  int64_t vocabulary = 32000;
  TableFormats tables;
  bool tied = false;  // the head is the embedding
};

// Of one file that `quest-run bench --json` wrote, or of one object in a list of such.
struct MeasuredSpeed {
  std::string recipe;
  double bytes_per_step = 0, step_seconds = 0;        // written, a token of every sequence
  double operations_per_token = 0, read_seconds = 0;  // a token read
  std::string conditions;  // threads, batch, depth, prompt and level: the same for all in one plan
  std::string source;
};
// Throws kIo, kData (a key is missing or not above 0; two of one recipe and size; a larger model
// that was faster), kUsage (measured under different conditions).
std::vector<MeasuredSpeed> read_speeds(const std::vector<std::string>& paths);

// The paper's sizes: N of each preset, ascending.
std::vector<double> preset_sizes(const DeploymentSettings& settings);

struct DeployedCosts {
  scaling::FormatCosts costs;
  std::optional<double> weight_bits;  // storage_bits of a weight; none: no recipe has this name
  // Measured models: N. Outside of them a speed is that of the nearest.
  std::optional<scaling::Interval> measured_sizes;
};
// A format that is no recipe, or has no packed form, has no memory_bytes; one that was not measured
// no seconds. Throws kUsage for tables that no packed model can have.
DeployedCosts deployed_costs(const std::string& format, const DeploymentSettings& settings,
                             const std::vector<MeasuredSpeed>& speeds);

}  // namespace quest::cli
