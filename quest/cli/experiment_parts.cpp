#include "quest/cli/experiment_parts.h"

#include <algorithm>

#include <fmt/format.h>

#include "quest/base/error.h"

namespace quest::cli {

using train::TrainConfig;

TrainConfig base_config(Scale scale) {
  TrainConfig c;
  c.checkpoint.every = 0;
  c.checkpoint.keep_best = false;
  c.checkpoint.keep_last = 1;
  c.eval.every = 0;
  if (scale != Scale::kPaper) {
    c.model.preset = "none";
    c.model.num_layers = 4;
    c.model.num_heads = 2;
    c.train.sequence_length = 128;
  }
  if (scale == Scale::kTiny) {
    c.model.hidden_size = 128;
    c.train.batch_size = 16;
    c.train.steps = 1200;
    c.optimizer.lr = 4e-3;
  } else if (scale == Scale::kSmall) {
    // Narrow enough that a GPU gives each run tens of tokens per parameter within a minute: with
    // fewer (the 30M model on one token per parameter) orders are those of the first steps, not of
    // what a format can hold. Heads of 128 and the learning rate are the paper's (its two smallest
    // models have this one); sequences are short: of long ones of code and documentation
    // some runs seem to learn the copying and others not, whatever the method (docs/reproduce.md).
    c.model.hidden_size = 256;
    c.train.batch_size = 256;
    c.train.tokens = 105'000'000;
    c.optimizer.lr = 1.2e-3;
  } else {
    c.train.tokens = 3'000'000'000;
    c.train.micro_batch_size = 64;
    c.checkpoint.every = 1000;
  }
  return c;
}

void shorten(TrainConfig& config, int64_t part) {
  if (config.train.steps > 0) config.train.steps /= part;
  if (config.train.tokens > 0) config.train.tokens /= part;
}

Training recipes_at(Scale scale, std::vector<std::string> recipes) {
  Training t;
  t.base = base_config(scale);
  t.sweep.grid.push_back({std::string(kRecipe), std::move(recipes)});
  return t;
}

std::string recipe_of(const TrainedRun& run) {
  const auto found = run.settings.find(std::string(kRecipe));
  return found == run.settings.end() ? std::string() : found->second;
}

std::vector<std::string> seeds_of(std::span<const TrainedRun> runs) {
  std::vector<std::string> seeds;
  for (const TrainedRun& run : runs) {
    if (std::find(seeds.begin(), seeds.end(), run.seed) == seeds.end()) seeds.push_back(run.seed);
  }
  return seeds;
}

void add_losses(std::span<const TrainedRun> runs, Findings& out) {
  for (const TrainedRun& run : runs) out.values[value_name(run)] = run.loss;
}

std::string table_text(const std::string& first, const std::vector<std::string>& seeds,
                       const std::vector<Row>& rows, const char* format) {
  const bool means = seeds.size() > 1;
  std::string out = "| " + first + " |";
  for (const std::string& seed : seeds) out += " seed " + seed + " |";
  out += means ? " mean |\n|---|" : "\n|---|";
  for (size_t i = 0; i < seeds.size() + means; ++i) out += "---|";
  out += "\n";
  for (const Row& row : rows) {
    out += "| " + row.label + " |";
    double sum = 0;
    for (const double value : row.values) {
      out += fmt::format(fmt::runtime(std::string(" ") + format + " |"), value);
      sum += value;
    }
    if (means) {
      out += fmt::format(fmt::runtime(std::string(" ") + format + " |"),
                         sum / static_cast<double>(row.values.size()));
    }
    out += "\n";
  }
  return out;
}

Check below(const Row& low, const Row& high, const std::vector<std::string>& seeds,
            double allowance) {
  Check check{fmt::format("{} below {}", low.label, high.label), true};
  if (allowance > 0) check.text += fmt::format(" (or at most {:g} % above)", 100 * allowance);
  for (size_t i = 0; i < seeds.size(); ++i) {
    const bool holds = low.values[i] < (1 + allowance) * high.values[i];
    check.holds &= holds;
    check.text += fmt::format("{} {:.4f}{}{:.4f}", i == 0 ? ":" : ",", low.values[i],
                              holds ? " < " : " is NOT below ", high.values[i]);
  }
  return check;
}

}  // namespace quest::cli
