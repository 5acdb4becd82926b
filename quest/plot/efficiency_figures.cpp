// Figures 4 and 14: which precision makes the best use of memory.
#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/ranges.h>

#include "quest/base/error.h"
#include "quest/plot/chart_axis.h"
#include "quest/plot/figure_groups.h"
#include "quest/quant/quant_spec.h"

namespace quest::plot {
namespace {

using scaling::ScalingLaw;

constexpr double kLowestRatio = 1, kHighestRatio = 1e6;  // tokens per parameter
constexpr int kCurvePoints = 200;
constexpr int kWidths[] = {1, 2, 3, 4, 8, 16};

// A line of formats that differ in width alone, or one format of its own.
struct EfficiencyGroup {
  int color = 0;
  Marker marker = Marker::kCircle;
  std::map<double, double> eff;  // by bits of a weight
};

std::string group_of(const std::string& format) {
  const std::optional<QuantRecipe> known = known_recipe(format);
  if (!known) return format_label(format);
  const QuantRecipe& recipe = *known;
  const bool uniform = recipe.weight.grid == Grid::kUniform;
  if (format == scaling::kReferenceFormat) return "weights and activations";
  if (uniform && !recipe.activation.is_quantized()) {
    return recipe.weight.hadamard ? "weights only" : format_label(format);
  }
  if (uniform && recipe.activation.bits == recipe.weight.bits) {
    const std::string width = fmt::format("w{}a{}", recipe.weight.bits, recipe.weight.bits);
    if (format == width) return "weights and activations";
    if (format == width + "_nohadamard") return "without Hadamard";
  }
  return format_label(format);
}

std::vector<std::pair<std::string, EfficiencyGroup>> groups_of(const ScalingLaw& law) {
  std::vector<std::pair<std::string, EfficiencyGroup>> groups = {
      {"weights and activations", {0, Marker::kCircle, {}}},
      {"weights only", {2, Marker::kTriangle, {}}},
      {"without Hadamard", {1, Marker::kDownTriangle, {}}},
      {"FP4", {3, Marker::kSquare, {}}},
      {"INT4, 4:8 sparse", {4, Marker::kSquare, {}}}};
  for (const auto& [format, eff] : law.eff) {
    const std::optional<double> bits = find_format_bits(format);
    if (!bits) continue;
    const std::string name = group_of(format);
    auto at = std::find_if(groups.begin(), groups.end(),
                           [&](const auto& group) { return group.first == name; });
    if (at == groups.end()) {
      const int color = static_cast<int>(groups.size());
      at = groups.insert(groups.end(), {name, {color, Marker::kSquare, {}}});
    }
    at->second.eff[*bits] = eff;
  }
  return groups;
}

// "; left out, as ...: mine" for the formats that have no place on the axis.
std::string left_out_note(const ScalingLaw& law) {
  std::vector<std::string> names;
  for (const auto& [format, eff] : law.eff) {
    if (!find_format_bits(format)) names.push_back(format);
  }
  if (names.empty()) return "";
  return fmt::format("; left out, as their names do not begin with bits such as w4a4: {}",
                     fmt::join(names, ", "));
}

void add_groups(Chart& chart, const ScalingLaw& law, bool of_a_bit, bool own) {
  for (const auto& [name, group] : groups_of(law)) {
    if (group.eff.empty()) continue;
    Series series{.name = (own ? "own: " : "") + name,
                  .look = group.eff.size() > 1 ? Look::kLineMarkers : Look::kMarkers,
                  .color = group.color,
                  .marker = own ? Marker::kDiamond : group.marker,
                  .dash = own ? 2 : 1};
    for (const auto& [bits, eff] : group.eff) {
      series.points.push_back({bits, of_a_bit ? eff / bits : eff});
    }
    chart.series.push_back(series);
  }
}

double loss_at(const ScalingLaw& law, int bits, double params, double tokens) {
  return law.loss(
      params, tokens,
      bits == 16 ? std::string(scaling::kReferenceFormat) : fmt::format("w{}a{}", bits, bits));
}

// The widths that the law knows.
std::vector<int> known_widths(const ScalingLaw& law) {
  std::vector<int> widths;
  for (const int bits : kWidths) {
    if (bits == 16 || law.eff.contains(fmt::format("w{}a{}", bits, bits))) widths.push_back(bits);
  }
  QUEST_CHECK(widths.size() > 1, ErrorKind::kData,
              "the law knows no format of weights and activations beside bf16; there must be runs "
              "of w1a1, w2a2, w3a3, w4a4 or w8a8 to compare");
  return widths;
}

// Loss above that of the best width. `tokens` of a width: at the ratio x of its own, or those that
// cost as much compute as the 4-bit model at that ratio.
Chart ratio_chart(const ScalingLaw& law, double memory_bytes, bool equal_compute) {
  Chart chart;
  chart.title = equal_compute ? "equal memory and training compute (N·D)" : "equal memory";
  chart.x = {.label = equal_compute ? "tokens per parameter of the 4-bit model"
                                    : "tokens per parameter (D/N)",
             .log = true};
  chart.y = {.label = "loss above the best (nats per token)", .low = -0.01, .high = 0.3};
  const std::vector<int> widths = known_widths(law);
  for (const int bits : widths) {
    chart.series.push_back({.name = bits == 16  ? "BF16"
                                    : bits == 1 ? "1 bit"
                                                : fmt::format("{} bits", bits),
                            .look = Look::kLine,
                            .color = width_color(bits)});
  }
  for (int i = 0; i < kCurvePoints; ++i) {
    const double ratio = std::pow(1e4, i / (kCurvePoints - 1.0));
    std::vector<double> losses;
    for (const int bits : widths) {
      const double params = 8 * memory_bytes / bits;
      const double of_four = 8 * memory_bytes / 4;
      const double tokens = equal_compute ? ratio * of_four * of_four / params : ratio * params;
      losses.push_back(loss_at(law, bits, params, tokens));
    }
    const double best = *std::min_element(losses.begin(), losses.end());
    for (size_t k = 0; k < widths.size(); ++k) {
      chart.series[k].points.push_back({ratio, losses[k] - best});
    }
  }
  return chart;
}

}  // namespace

std::optional<double> crossing_ratio(const ScalingLaw& law, std::string_view better,
                                     std::string_view worse, double memory_bytes) {
  const auto difference = [&](double ratio) {
    const double n = 8 * memory_bytes / format_bits(better);
    const double other = 8 * memory_bytes / format_bits(worse);
    return law.loss(n, ratio * n, better) - law.loss(other, ratio * other, worse);
  };
  double low = kLowestRatio, high = kHighestRatio;
  if (difference(low) <= 0 || difference(high) >= 0) return std::nullopt;
  for (int i = 0; i < 200; ++i) {
    const double middle = std::sqrt(low * high);
    (difference(middle) > 0 ? low : high) = middle;
  }
  return std::sqrt(low * high);
}

Figure efficiency(const PaperData& paper, const FigureOptions& options) {
  Figure figure;
  figure.title = "Figure 4: efficiency of precisions";
  figure.note = "eff(P): a model with precision P is worth eff(P) times its parameters in BF16";
  if (options.own_law) figure.note += left_out_note(*options.own_law);
  for (const bool of_a_bit : {false, true}) {
    Chart chart;
    chart.title = of_a_bit ? "per bit: the highest is best at a given memory" : "per parameter";
    chart.x = {.label = "bits of a weight (P)", .log = true, .numbers = Numbers::kPowersOfTwo};
    chart.y = {.label = of_a_bit ? "eff(P) / P" : "eff(P)", .low = 0.0};
    if (!options.own_only) add_groups(chart, paper.law, of_a_bit, false);
    if (options.own_law) add_groups(chart, *options.own_law, of_a_bit, true);
    figure.panels.emplace_back(chart);
  }
  figure.columns = 2;
  figure.width = 1600;
  figure.height = 800;
  return figure;
}

Figure best_precision(const PaperData& paper, const FigureOptions& options) {
  QUEST_CHECK(std::isfinite(options.memory_bytes) && options.memory_bytes > 0, ErrorKind::kUsage,
              "the memory of the weights is {} bytes, must be positive", options.memory_bytes);
  const ScalingLaw& law = options.own_law ? *options.own_law : paper.law;
  Figure figure;
  figure.title = fmt::format("Figure 14: the best precision of a model of {}",
                             byte_text(options.memory_bytes));
  figure.note =
      options.own_law ? "from the law fitted to the runs of --fit" : "from the authors' law";
  figure.panels.emplace_back(ratio_chart(law, options.memory_bytes, false));
  figure.panels.emplace_back(ratio_chart(law, options.memory_bytes, true));
  figure.note += "; what is above 0.3 is left out";
  if (law.eff.contains("w3a3") && law.eff.contains("w4a4")) {
    if (const auto ratio = crossing_ratio(law, "w4a4", "w3a3", options.memory_bytes)) {
      std::get<Chart>(figure.panels[0]).lines.push_back({.vertical = true, .at = *ratio});
      figure.note +=
          fmt::format("; dashed: from {:.1f} tokens per parameter on 4 bits beat 3", *ratio);
    }
  }
  figure.columns = 2;
  figure.width = 1600;
  figure.height = 800;
  return figure;
}

}  // namespace quest::plot
