// What experiments (experiments.h) are put together from: the training of a scale, tables of
// losses, checks.
//
// Thread rules: everything here is pure.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quest/cli/experiments.h"

namespace quest::cli {

inline constexpr std::string_view kRecipe = "quant.recipe";

// The training of a scale, without a recipe.
train::TrainConfig base_config(Scale scale);
// A part of the scale's training, for what shows early.
void shorten(train::TrainConfig& config, int64_t part);
// The scale's training with each of the recipes.
Training recipes_at(Scale scale, std::vector<std::string> recipes);

// That the run was trained with; empty if all runs of the experiment have the same.
std::string recipe_of(const TrainedRun& run);
// In the order of the runs, each once.
std::vector<std::string> seeds_of(std::span<const TrainedRun> runs);
// The losses of all runs, to be compared with a stored expectation.
void add_losses(std::span<const TrainedRun> runs, Findings& out);

// Of a table of losses: a row for each label, a column for each seed.
struct Row {
  std::string label;
  std::vector<double> values;  // by seed
};
// Markdown, with the mean if there are several seeds. format: of a value, for fmt.
std::string table_text(const std::string& first, const std::vector<std::string>& seeds,
                       const std::vector<Row>& rows, const char* format = "{:.4f}");
// "A below B" for every seed. allowance: what A may be above B, relative.
Check below(const Row& low, const Row& high, const std::vector<std::string>& seeds,
            double allowance = 0);

}  // namespace quest::cli
