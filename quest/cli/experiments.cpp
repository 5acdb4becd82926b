#include "quest/cli/experiments.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "quest/base/error.h"
#include "quest/plot/diagnostics.h"

namespace quest::cli {
namespace {

using train::Sweep;
using train::TrainConfig;

constexpr std::string_view kRecipe = "quant.recipe";

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

// A part of the scale's training, for what shows early.
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

// The run of a recipe and seed, trained with it (or rounded with it afterwards).
const TrainedRun& run_of(std::span<const TrainedRun> runs, const std::string& recipe,
                         const std::string& seed, bool rounded = false) {
  for (const TrainedRun& run : runs) {
    if (run.seed != seed || run.rounded.empty() == rounded) continue;
    if ((rounded ? run.rounded : recipe_of(run)) == recipe) return run;
  }
  QUEST_THROW(ErrorKind::kData, "there is no run of {} with seed {}", recipe, seed);
}

void add_losses(std::span<const TrainedRun> runs, Findings& out) {
  for (const TrainedRun& run : runs) out.values[value_name(run)] = run.loss;
}

// A table of losses: a row for each label, a column for each seed, with the mean if there are
// several.
struct Row {
  std::string label;
  std::vector<double> values;  // by seed
};
std::string table_text(const std::string& first, const std::vector<std::string>& seeds,
                       const std::vector<Row>& rows, const char* format = "{:.4f}") {
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

Row loss_row(std::span<const TrainedRun> runs, const std::vector<std::string>& seeds,
             const std::string& recipe, const std::string& label, bool rounded = false) {
  Row row{label, {}};
  for (const std::string& seed : seeds) {
    row.values.push_back(run_of(runs, recipe, seed, rounded).loss);
  }
  return row;
}

// "A below B" for every seed.
Check below(const Row& low, const Row& high, const std::vector<std::string>& seeds,
            double allowance = 0) {
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

// Figure 3. The methods, lowest loss first.
std::vector<int> fig3_bits(Scale scale) {
  if (scale == Scale::kTiny) return {1, 2};
  return {1, 2, 3, 4};
}

Training fig3_training(Scale scale) {
  std::vector<std::string> recipes = {"bf16"}, rounded;
  for (const int bits : fig3_bits(scale)) {
    const std::string name = fmt::format("w{}a{}", bits, bits);
    for (const char* method : {"", "_lsq", "_nohadamard_ste"}) recipes.push_back(name + method);
    rounded.push_back(name);
  }
  Training t = recipes_at(scale, std::move(recipes));
  t.rounded_after = std::move(rounded);
  return t;
}

Findings judge_fig3(Scale, std::span<const TrainedRun> runs) {
  Findings out;
  add_losses(runs, out);
  const std::vector<std::string> seeds = seeds_of(runs);
  std::vector<Row> rows = {loss_row(runs, seeds, "bf16", "BF16")};
  for (int bits = 4; bits >= 1; --bits) {
    const std::string name = fmt::format("w{}a{}", bits, bits);
    const auto has = [&](const TrainedRun& run) { return recipe_of(run) == name; };
    if (std::none_of(runs.begin(), runs.end(), has)) continue;
    const std::string at = fmt::format("{} bit{}, ", bits, bits > 1 ? "s" : "");
    const Row quest = loss_row(runs, seeds, name, at + "QuEST");
    const Row lsq = loss_row(runs, seeds, name + "_lsq", at + "LSQ");
    const Row ste = loss_row(runs, seeds, name + "_nohadamard_ste", at + "STE");
    const Row rounding =
        loss_row(runs, seeds, name, at + "BF16 rounded after training", /*rounded=*/true);
    out.checks.push_back(below(quest, lsq, seeds));
    out.checks.push_back(below(lsq, ste, seeds));
    out.checks.push_back(below(quest, rounding, seeds));
    rows.insert(rows.end(), {quest, lsq, ste, rounding});
  }
  out.table = table_text("validation loss", seeds, rows);
  return out;
}

// Figures 2 and 8 look into runs with diagnostics.
Training diagnosed(Scale scale, std::vector<std::string> recipes, int64_t part) {
  Training t = recipes_at(scale, std::move(recipes));
  shorten(t.base, part);
  const int64_t steps =
      t.base.train.steps > 0
          ? t.base.train.steps
          : t.base.train.tokens / (t.base.train.batch_size * t.base.train.sequence_length);
  t.base.diagnostics.every = std::max<int64_t>(1, steps / 4);
  t.base.diagnostics.batch_size = 8;
  return t;
}

Training fig2_training(Scale scale) {
  return diagnosed(scale, {"w4a4", "w4a4_nohadamard", "w4a4_nohadamard_ste"}, 4);
}

plot::DiagnosticsLine last_line(const TrainedRun& run) {
  const plot::RunDiagnostics d = plot::read_run_diagnostics(run.folder);
  return d.lines.back();
}

Findings judge_fig2(Scale, std::span<const TrainedRun> runs) {
  Findings out;
  const std::vector<std::string> seeds = seeds_of(runs);
  std::vector<Row> rows, means;
  for (const char* recipe : {"w4a4", "w4a4_nohadamard", "w4a4_nohadamard_ste"}) {
    Row mean{std::string(recipe), {}};
    std::map<double, Row> by_depth;
    for (const std::string& seed : seeds) {
      const TrainedRun& run = run_of(runs, recipe, seed);
      const std::vector<plot::GradientCosine> cosines = last_line(run).cosine;
      QUEST_CHECK(!cosines.empty(), ErrorKind::kData, "{}: the diagnostics have no gradients",
                  run.folder.string());
      double sum = 0;
      for (const plot::GradientCosine& c : cosines) {
        sum += c.mean;
        Row& row = by_depth[c.depth];
        row.label = fmt::format("{}, block {} {}", recipe, std::floor(c.depth),
                                c.depth > std::floor(c.depth) ? "MLP" : "attention");
        row.values.push_back(c.mean);
      }
      mean.values.push_back(sum / static_cast<double>(cosines.size()));
      out.values[value_name(run)] = mean.values.back();
    }
    for (auto& [depth, row] : by_depth) rows.push_back(std::move(row));
    means.push_back(std::move(mean));
  }
  for (Row& mean : means) mean.label += ", mean cosine";
  // "STE below QuEST": the order of means.
  out.checks = {below(means[2], means[0], seeds), below(means[1], means[0], seeds)};
  rows.insert(rows.end(), means.begin(), means.end());
  out.table = table_text("cosine with the unquantized gradient", seeds, rows);
  return out;
}

Training fig8_training(Scale scale) { return diagnosed(scale, {"w8a8", "w8a8_nohadamard"}, 2); }

Findings judge_fig8(Scale, std::span<const TrainedRun> runs) {
  Findings out;
  const std::vector<std::string> seeds = seeds_of(runs);
  Row with{"with Hadamard", {}}, without{"without", {}}, gaussian{"N(0,1)", {}};
  // Rows are measured by their own RMS: short ones have fewer large values than N(0,1). The paper's
  // own curve with the transform reaches 1.8 times the share of N(0,1), at step 5500.
  Check near{"with Hadamard at most twice the share of Gaussian data:", true};
  for (const std::string& seed : seeds) {
    const TrainedRun& hadamard = run_of(runs, "w8a8", seed);
    const TrainedRun& plain = run_of(runs, "w8a8_nohadamard", seed);
    const plot::MaskedShare share = last_line(hadamard).weight;
    with.values.push_back(100 * share.masked.value_or(NAN));
    gaussian.values.push_back(100 * share.gaussian.value_or(NAN));
    without.values.push_back(100 * last_line(plain).weight.masked.value_or(NAN));
    const double ratio = with.values.back() / gaussian.values.back();
    near.holds &= ratio <= 2;
    near.text += fmt::format(" {:.2f} times", ratio);
    out.values[value_name(hadamard)] = with.values.back();
    out.values[value_name(plain)] = without.values.back();
  }
  out.checks = {below(with, without, seeds), near};
  out.table =
      table_text("masked weights (%) at the end", seeds, {gaussian, with, without}, "{:.4f}");
  return out;
}

// Rows of runs that differ in two settings, by label; their losses are values too.
std::map<std::string, Row> rows_by_label(std::span<const TrainedRun> runs,
                                         const std::function<std::string(const TrainedRun&)>& label,
                                         Findings& out) {
  add_losses(runs, out);
  std::map<std::string, Row> rows;
  for (const TrainedRun& run : runs) {
    Row& row = rows[label(run)];
    row.label = label(run);
    row.values.push_back(run.loss);
  }
  return rows;
}

std::vector<Row> listed(const std::map<std::string, Row>& rows) {
  std::vector<Row> out;
  for (const auto& [label, row] : rows) out.push_back(row);
  return out;
}

// A row is the best of all, or little worse, for every seed. best_name: "best of all".
Check near_best(const std::string& text, const Row& row, const std::string& best_name,
                const std::map<std::string, Row>& rows, double allowance) {
  Check check{fmt::format("{} at most {:g} % above the {}:", text, 100 * allowance, best_name),
              true};
  for (size_t i = 0; i < row.values.size(); ++i) {
    double best = INFINITY;
    for (const auto& [label, other] : rows) best = std::min(best, other.values[i]);
    check.holds &= row.values[i] <= (1 + allowance) * best;
    check.text += fmt::format("{} {:.4f}, best {:.4f}", i == 0 ? "" : ";", row.values[i], best);
  }
  return check;
}

// Figure 10: the outer trust factor of both sides.
constexpr std::string_view kWeightTrust = "quant.weight.trust_scale",
                           kInputTrust = "quant.activation.trust_scale";

Training fig10_training(Scale scale) {
  Training t;
  t.base = base_config(scale);
  shorten(t.base, 3);
  train::apply_setting(t.base, kRecipe, "w2a2");
  const std::vector<std::string> factors = {"0.25", "1.0", "4.0"};
  t.sweep.grid = {{std::string(kWeightTrust), factors}, {std::string(kInputTrust), factors}};
  return t;
}

Findings judge_fig10(Scale, std::span<const TrainedRun> runs) {
  Findings out;
  const std::vector<std::string> seeds = seeds_of(runs);
  const auto label = [](const TrainedRun& run) {
    return fmt::format("s of weights {}, of activations {}",
                       run.settings.at(std::string(kWeightTrust)),
                       run.settings.at(std::string(kInputTrust)));
  };
  const std::map<std::string, Row> rows = rows_by_label(runs, label, out);
  const Row& one = rows.at("s of weights 1.0, of activations 1.0");
  out.checks = {near_best("s = 1 on both sides", one, "best of all", rows, 0.01),
                below(one, rows.at("s of weights 0.25, of activations 0.25"), seeds)};
  out.table = table_text("W2A2, validation loss", seeds, listed(rows));
  return out;
}

Training fig11_training(Scale scale) {
  return recipes_at(scale, {"w4a4", "fp4", "int4_4of8", "w2a2"});
}

Findings judge_fig11(Scale scale, std::span<const TrainedRun> runs) {
  Findings out;
  add_losses(runs, out);
  const std::vector<std::string> seeds = seeds_of(runs);
  const Row int4 = loss_row(runs, seeds, "w4a4", "INT4");
  const Row fp4 = loss_row(runs, seeds, "fp4", "FP4");
  const Row sparse = loss_row(runs, seeds, "int4_4of8", "4:8 sparse INT4");
  const Row int2 = loss_row(runs, seeds, "w2a2", "INT2");
  out.checks = {below(int4, int2, seeds), below(fp4, int2, seeds), below(sparse, int2, seeds)};
  // eff is 0.69, 0.63 and 0.38: what a model can hold in the end, which 2 tokens per parameter do
  // not show.
  if (scale != Scale::kTiny) {
    out.checks.push_back(below(int4, sparse, seeds));
    out.checks.push_back(below(fp4, sparse, seeds));
    out.checks.push_back(below(int4, fp4, seeds, 0.005));
  }
  out.table = table_text("validation loss", seeds, {int4, fp4, sparse, int2});
  return out;
}

// Figure 12: two settings of the training of W4A4, the scale's own in the middle.
constexpr std::string_view kRate = "optimizer.lr", kDecay = "optimizer.weight_decay";

std::vector<std::string> multiples(double of, std::initializer_list<double> factors) {
  std::vector<std::string> out;
  for (const double factor : factors) out.push_back(fmt::format("{:g}", factor * of));
  return out;
}

Training fig12_training(Scale scale) {
  Training t;
  t.base = base_config(scale);
  shorten(t.base, 3);
  train::apply_setting(t.base, kRecipe, "w4a4");
  t.sweep.grid = {{std::string(kRate), multiples(t.base.optimizer.lr, {0.25, 1, 4})},
                  {std::string(kDecay), multiples(t.base.optimizer.weight_decay, {0.1, 1, 10})}};
  return t;
}

std::string fig12_label(const std::string& rate, const std::string& decay) {
  return fmt::format("learning rate {}, weight decay {}", rate, decay);
}

Findings judge_fig12(Scale scale, std::span<const TrainedRun> runs) {
  Findings out;
  const std::vector<std::string> seeds = seeds_of(runs);
  const auto label = [](const TrainedRun& run) {
    return fig12_label(run.settings.at(std::string(kRate)), run.settings.at(std::string(kDecay)));
  };
  const std::map<std::string, Row> rows = rows_by_label(runs, label, out);
  const std::vector<train::GridAxis> grid = fig12_training(scale).sweep.grid;
  const std::string &rate = grid[0].values[1], &decay = grid[1].values[1];
  const auto row = [&](const std::string& r, const std::string& d) -> const Row& {
    return rows.at(fig12_label(r, d));
  };
  const Row& own = row(rate, decay);
  std::map<std::string, Row> same_rate;
  for (const std::string& d : grid[1].values) same_rate[d] = row(rate, d);
  out.checks = {
      near_best("weight decay " + decay, own, "best at learning rate " + rate, same_rate, 0.02),
      below(own, row(grid[0].values[0], decay), seeds)};
  // The rate of scale small is the paper's, low for so small a model.
  if (scale != Scale::kSmall) {
    out.checks.push_back(
        near_best("learning rate and weight decay of the scale", own, "best of all", rows, 0.02));
    out.checks.push_back(below(own, row(grid[0].values[2], decay), seeds));
  }
  out.table = table_text("W4A4, validation loss", seeds, listed(rows));
  return out;
}

// Table 4: the weight decay of LSQ's step.
constexpr std::string_view kStepDecay = "optimizer.quantizer_weight_decay";

const std::vector<std::string> kStepDecays = {"0.001", "0.01", "0.1", "1"};

Training table4_training(Scale scale) {
  Training t = recipes_at(scale, {"w2a2_lsq", "w3a3_lsq", "w4a4_lsq"});
  shorten(t.base, 3);
  t.sweep.grid.push_back({std::string(kStepDecay), kStepDecays});
  return t;
}

// The worst is little above the best, for every seed.
Check little_apart(const std::string& what, const std::vector<Row>& rows, double allowance) {
  Check check{fmt::format("{}: the worst at most {:g} % above the best:", what, 100 * allowance),
              true};
  for (size_t i = 0; i < rows.front().values.size(); ++i) {
    double best = INFINITY, worst = -INFINITY;
    for (const Row& row : rows) {
      const double loss = std::isfinite(row.values[i]) ? row.values[i] : INFINITY;
      best = std::min(best, loss);
      worst = std::max(worst, loss);
    }
    check.holds &= std::isfinite(worst) && worst <= (1 + allowance) * best;
    check.text += fmt::format("{} {:.2f} %", i == 0 ? "" : ",", 100 * (worst / best - 1));
  }
  return check;
}

Findings judge_table4(Scale scale, std::span<const TrainedRun> runs) {
  Findings out;
  const std::vector<std::string> seeds = seeds_of(runs);
  const auto label_of = [](int bits, const std::string& decay) {
    return fmt::format("{} bits, decay {}", bits, decay);
  };
  const auto label = [&](const TrainedRun& run) {
    return label_of(recipe_from_name(recipe_of(run)).weight.bits,
                    run.settings.at(std::string(kStepDecay)));
  };
  const std::map<std::string, Row> rows = rows_by_label(runs, label, out);
  // Tiny runs end where losses fall steeply: equal ones are up to 2.5 % apart, as far as widths.
  const double allowance = scale == Scale::kTiny ? 0.04 : 0.02;
  for (const int bits : {2, 3, 4}) {
    std::vector<Row> decays;
    for (const std::string& decay : kStepDecays) decays.push_back(rows.at(label_of(bits, decay)));
    out.checks.push_back(little_apart(fmt::format("{} bits by decay", bits), decays, allowance));
    if (scale == Scale::kTiny) continue;
    // decays is of kStepDecays; 0.1 and 1 are the paper's best and worst.
    if (scale == Scale::kPaper) out.checks.push_back(below(decays[2], decays[3], seeds));
    for (const std::string& decay : kStepDecays) {
      if (bits == 4) continue;
      out.checks.push_back(
          below(rows.at(label_of(bits + 1, decay)), rows.at(label_of(bits, decay)), seeds));
    }
  }
  out.table = table_text("LSQ, validation loss", seeds, listed(rows));
  return out;
}

Training w1a1_training(Scale scale) {
  Training t;
  t.base = base_config(scale);
  shorten(t.base, 3);
  train::apply_setting(t.base, kRecipe, "w1a1");
  const double lr = t.base.optimizer.lr;
  train::GridAxis rates{"optimizer.lr", {}};
  for (const double factor : {0.25, 0.5, 1.0, 2.0}) {
    rates.values.push_back(fmt::format("{:g}", factor * lr));
  }
  t.sweep.grid = {rates};
  return t;
}

Findings judge_w1a1(Scale, std::span<const TrainedRun> runs) {
  Findings out;
  const std::vector<std::string> seeds = seeds_of(runs);
  std::map<double, Row> rows;
  double best = INFINITY, worst = -INFINITY;
  for (const TrainedRun& run : runs) {
    const std::string lr = run.settings.at("optimizer.lr");
    Row& row = rows[std::stod(lr)];
    row.label = "learning rate " + lr;
    row.values.push_back(run.loss);
    best = std::min(best, run.loss);
    worst = std::isfinite(run.loss) ? std::max(worst, run.loss) : INFINITY;
    out.values[value_name(run)] = run.loss;
  }
  std::vector<Row> listed;
  for (auto& [lr, row] : rows) listed.push_back(std::move(row));
  out.checks = {
      {fmt::format("W1A1 trains at every learning rate and seed: the worst loss is {:.3f} "
                   "times the best (at most 1.15)",
                   worst / best),
       worst <= 1.15 * best}};
  out.table = table_text("W1A1, validation loss", seeds, listed);
  return out;
}

std::vector<Experiment> make_experiments() {
  return {
      {.name = "table1",
       .claim = "eff(P) of every precision, refitted from the paper's 104 runs",
       .figure = "fig4",
       .tolerance = 0.02,
       .training = nullptr,
       .judge = nullptr},
      {.name = "fig2",
       .claim = "the gradient of QuEST is nearer to the unquantized one than that of STE",
       .figure = "fig2",
       .tolerance = 0.05,
       .training = fig2_training,
       .judge = judge_fig2},
      {.name = "fig3",
       .claim = "QuEST below LSQ below STE, and below rounding after training",
       .figure = "fig3",
       .training = fig3_training,
       .judge = judge_fig3},
      {.name = "fig8",
       .claim = "with the Hadamard transform W8A8 masks at most twice what Gaussian data would, "
                "without it more than with it",
       .figure = "fig8",
       .tolerance = 0.5,
       .training = fig8_training,
       .judge = judge_fig8},
      {.name = "fig10",
       .claim = "the trust region of half a step (s = 1) is a good one",
       .figure = "fig10",
       .title = "Figure 10: validation loss of W2A2 by trust factor s",
       .training = fig10_training,
       .judge = judge_fig10},
      {.name = "fig11",
       .claim = "the method carries over to FP4 and 4:8 sparse INT4: below INT2, and (not at tiny "
                "scale) "
                "INT4 below FP4 below sparse",
       .figure = "fig11",
       .training = fig11_training,
       .judge = judge_fig11},
      {.name = "fig12",
       .claim = "learning rate and weight decay of the recipe are near the best ones for W4A4 (not "
                "at small scale, whose learning rate is low); these two settings are our choice",
       .figure = "fig12",
       .title = "Figure 12: validation loss of W4A4",
       .tolerance = 0.06,
       .training = fig12_training,
       .judge = judge_fig12},
      {.name = "table4",
       .claim = "the weight decay of LSQ's step matters little, and (not at tiny scale) more bits "
                "are better at each",
       .figure = "table4",
       .perplexity = true,
       .tolerance = 0.04,
       .training = table4_training,
       .judge = judge_table4},
      {.name = "w1a1-stability",
       .claim = "W1A1 does not diverge over an eightfold range of learning rates, nor by the seed",
       .figure = "",
       .title = "W1A1: loss against learning rate",
       .lines_over = "optimizer.lr",
       .tolerance = 0.03,
       .training = w1a1_training,
       .judge = judge_w1a1},
  };
}

}  // namespace

Scale scale_from_name(std::string_view name) {
  if (name == "tiny") return Scale::kTiny;
  if (name == "small") return Scale::kSmall;
  QUEST_CHECK(name == "paper", ErrorKind::kUsage, "scale is \"{}\", allowed: tiny, small, paper",
              name);
  return Scale::kPaper;
}

std::string_view scale_name(Scale scale) {
  return scale == Scale::kTiny ? "tiny" : scale == Scale::kSmall ? "small" : "paper";
}

std::span<const Experiment> experiments() {
  static const std::vector<Experiment> all = make_experiments();
  return all;
}

const Experiment& experiment(std::string_view name) {
  std::string list;
  for (const Experiment& e : experiments()) {
    if (e.name == name) return e;
    list += fmt::format("\n  {:<15} {}", e.name, e.claim);
  }
  QUEST_THROW(ErrorKind::kUsage, "there is no experiment \"{}\". Experiments are:{}", name, list);
}

std::string value_name(const TrainedRun& run) { return run_label(run) + " seed " + run.seed; }

std::string run_label(const TrainedRun& run) {
  std::string name;
  for (const auto& [key, value] : run.settings) {
    const bool recipe = key == kRecipe && run.settings.size() == 1;
    name += (name.empty() ? "" : " ") + (recipe ? value : key + "=" + value);
  }
  if (!run.rounded.empty()) name += " rounded to " + run.rounded;
  return name;
}

Findings judge_law(const scaling::ScalingLaw& fitted, const scaling::ScalingLaw& reference) {
  constexpr double kTolerance = 0.02;
  Findings out;
  out.table = "| format | eff | authors' | difference |\n|---|---|---|---|\n";
  double worst = 0;
  std::string worst_name;
  for (const auto& [name, theirs] : reference.eff) {
    const double ours = fitted.efficiency(name), off = ours / theirs - 1;
    out.table +=
        fmt::format("| {} | {:.4f} | {:.4f} | {:+.2f} % |\n", name, ours, theirs, 100 * off);
    out.values[name] = ours;
    if (std::abs(off) > worst) {
      worst = std::abs(off);
      worst_name = name;
    }
  }
  out.checks = {
      {fmt::format("every eff within 2 % of the authors' fit: largest difference {:.2f} %{}",
                   100 * worst, worst_name.empty() ? "" : ", " + worst_name),
       worst <= kTolerance}};
  return out;
}

std::vector<std::string> differences(const std::map<std::string, double>& found,
                                     const std::map<std::string, Expected>& expected) {
  std::vector<std::string> out;
  for (const auto& [name, wanted] : expected) {
    const auto ours = found.find(name);
    if (ours == found.end()) continue;  // another seed, or fewer of them
    const double off = ours->second / wanted.value - 1;
    if (!(std::abs(off) <= wanted.tolerance)) {
      out.push_back(fmt::format("{}: {:.5g}, expected {:.5g} within {:.3g} %", name, ours->second,
                                wanted.value, 100 * wanted.tolerance));
    }
  }
  return out;
}

std::string verdict_text(bool passed, std::string_view orders_only) {
  if (!passed) return "NOT reproduced";
  return orders_only.empty() ? "reproduced"
                             : fmt::format("reproduced (orders only: {})", orders_only);
}

}  // namespace quest::cli
