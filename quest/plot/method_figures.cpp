// Figure 3: quantization-aware training methods by bits.
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <regex>
#include <set>

#include "quest/base/error.h"
#include "quest/plot/chart_axis.h"
#include "quest/plot/figure_groups.h"
#include "quest/quant/quant_spec.h"

namespace quest::plot {
namespace {

using scaling::ScalingRun;

struct Method {
  const char* key;
  const char* name;
  int color;
  Marker marker;
};
constexpr Method kMethods[] = {
    {"ste", "STE", 1, Marker::kDownTriangle},
    {"ao", "AO", 3, Marker::kSquare},
    {"quarot", "QuaRot (post-training)", 4, Marker::kSquare},
    {"lsq", "LSQ", 2, Marker::kTriangle},
    {"quest", "QuEST", 0, Marker::kCircle},
};

Chart bits_chart(const std::string& title) {
  Chart chart;
  chart.title = title;
  chart.x = {.label = "bits of weights and activations"};
  chart.y = {.label = "validation loss (nats per token)"};
  return chart;
}

void set_bit_tics(Chart& chart) {
  double highest = 1, lowest = 16;
  for (const Series& series : chart.series) {
    for (const ChartPoint& p : series.points) {
      highest = std::max(highest, p.x);
      lowest = std::min(lowest, p.x);
    }
  }
  for (int bits = static_cast<int>(std::floor(lowest)); bits <= highest; ++bits) {
    chart.x.tics.push_back({static_cast<double>(bits), std::to_string(bits)});
  }
}

// Runs of one method, of all widths.
struct OwnMethod {
  std::string name;
  int color = 0;
};

// The words of a recipe's name, widths apart: "w4a4_nohadamard_ste" has nohadamard and ste.
std::set<std::string> words_of(std::string_view rest) {
  std::set<std::string> words;
  while (!rest.empty()) {
    const size_t end = std::min(rest.find('_'), rest.size());
    if (end > 0) words.emplace(rest.substr(0, end));
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return words;
}

// What a recipe's name says beside the widths: w4a4 is QuEST, w4a4_nohadamard_ste is STE (the
// paper's baselines have no transform), w4a4_lsq is LSQ, in the paper's colors; others are named as
// they are, quantizers that are registered or of another program by their own names.
OwnMethod method_of(const std::string& format, int next_color) {
  static const std::regex widths("w[0-9]+a([0-9]+)");
  std::smatch match;
  if (!std::regex_search(format, match, widths)) return {format_label(format), next_color};
  std::set<std::string> words = words_of(match.prefix().str() + match.suffix().str());
  const std::optional<QuantRecipe> recipe = known_recipe(format);
  const auto registered = [](const QuantSpec& spec) { return spec.registered != nullptr; };
  if (!recipe && words.empty()) return {format_label(format), next_color};  // w9a9
  if (!recipe || registered(recipe->weight) || registered(recipe->activation)) {
    OwnMethod method{format_label(match.suffix().str()).substr(1), next_color};
    if (method.name == "LSQ") method.color = 2;
    if (match[1] == "16") method = {method.name + ", weights only", next_color};
    return method;
  }
  const bool plain = words.erase("nohadamard") > 0, ste = words.erase("ste") > 0;
  OwnMethod method{plain ? "QuEST without Hadamard" : "QuEST",
                   words.empty() && !plain ? 0 : next_color};
  if (ste) method = {plain ? "STE" : "STE with Hadamard", words.empty() && plain ? 1 : next_color};
  for (const std::string& word : words) method.name += " " + word;
  if (match[1] == "16") method = {method.name + ", weights only", next_color};
  return method;
}

struct OwnRun : ScalingRun {
  bool rounded = false;  // after training, as QuaRot does: in its color
};
constexpr int kRoundedColor = 4;

std::vector<OwnRun> all_own(const FigureOptions& options) {
  std::vector<OwnRun> all;
  for (const ScalingRun& run : own_runs(options)) all.push_back({run, false});
  for (const ScalingRun& run : options.own_rounded) all.push_back({run, true});
  return all;
}

void add_own(Chart& chart, const std::vector<OwnRun>& runs) {
  constexpr int kOtherColors[] = {5, 3, 4, 6};
  std::map<std::string, std::map<double, double>> points;
  std::map<std::string, int> colors;
  std::optional<double> reference;  // BF16: a line for all widths
  size_t others = 0;
  for (const OwnRun& run : runs) {
    if (run.format == scaling::kReferenceFormat) {
      reference = std::min(run.loss, reference.value_or(run.loss));
      continue;
    }
    const int next = kOtherColors[others % std::size(kOtherColors)];
    const OwnMethod method = run.rounded ? OwnMethod{"BF16 rounded after training", kRoundedColor}
                                         : method_of(run.format, next);
    const bool first = colors.emplace(method.name, method.color).second;
    if (first && !run.rounded && method.color == next) ++others;
    const auto at = points[method.name].emplace(format_bits(run.format), run.loss).first;
    at->second = std::min(at->second, run.loss);  // the best of several
  }
  for (const auto& [name, losses] : points) {
    Series series{
        .name = "own " + name, .color = colors[name], .marker = Marker::kDiamond, .dash = 2};
    for (const auto& [bits, loss] : losses) series.points.push_back({bits, loss});
    chart.series.push_back(series);
  }
  if (!reference) return;
  Series line{.name = "own BF16", .look = Look::kLine, .color = 6, .dash = 3};
  double low = 8, high = 1;
  for (const Series& series : chart.series) {
    for (const ChartPoint& p : series.points) {
      low = std::min(low, p.x);
      high = std::max(high, p.x);
    }
  }
  if (low > high) std::swap(low, high);  // BF16 alone
  line.points = {{low, *reference}, {high, *reference}};
  chart.series.push_back(line);
}

using RunsBySize = std::map<double, std::vector<OwnRun>>;

bool same_size(double params, double other) { return std::fabs(params / other - 1) < 0.1; }

RunsBySize by_size(const std::vector<OwnRun>& runs) {
  RunsBySize groups;
  for (const OwnRun& run : runs) {
    const auto same = std::find_if(groups.begin(), groups.end(), [&](const auto& group) {
      return same_size(run.params, group.first);
    });
    (same == groups.end() ? groups[run.params] : same->second).push_back(run);
  }
  return groups;
}

// The paper's panel of a size. Own runs of that size move from `own` into it.
Chart paper_panel(const PaperData& paper, const char* size, double params, RunsBySize& own) {
  const std::string_view key = "figure3_val_loss_by_bits";
  const Json& panels = paper.figure(key);
  const std::string where = paper.where(key) + "." + size;
  QUEST_CHECK(panels.contains(size) && panels.at(size).is_object(), ErrorKind::kData,
              "{} is missing", where);
  Chart chart = bits_chart(fmt::format("{} parameters", size));
  for (const Method& method : kMethods) {
    if (!panels.at(size).contains(method.key)) continue;
    Series series{.name = method.name, .color = method.color, .marker = method.marker};
    for (const auto& [bits, loss] :
         number_pairs(panels.at(size).at(method.key), where + "." + method.key)) {
      series.points.push_back({bits, loss});
    }
    chart.series.push_back(series);
  }
  for (auto group = own.begin(); group != own.end();) {
    const bool fits = same_size(group->first, params);
    if (fits) add_own(chart, group->second);
    group = fits ? own.erase(group) : std::next(group);
  }
  return chart;
}

}  // namespace

Figure loss_by_bits(const PaperData& paper, const FigureOptions& options) {
  Figure figure;
  figure.title = "Figure 3: loss against bits by method";
  const std::string paper_note = "loss on C4 after 100 tokens per parameter";
  const std::string own_note = "own runs: on their own text and tokens";
  figure.note = options.own.empty() ? "validation " + paper_note
                : options.own_only  ? own_note
                                    : "paper: " + paper_note + "; " + own_note;
  RunsBySize own = by_size(all_own(options));
  std::vector<Chart> charts;
  if (!options.own_only) {
    charts.push_back(paper_panel(paper, "30M", 30482560, own));
    charts.push_back(paper_panel(paper, "50M", 49556736, own));
  }
  for (const auto& [params, runs] : own) {
    charts.push_back(bits_chart(fmt::format("own runs, {} parameters", count_text(params))));
    add_own(charts.back(), runs);
  }
  for (Chart& chart : charts) {
    set_bit_tics(chart);
    figure.panels.emplace_back(chart);
  }
  figure.columns = static_cast<int>(std::min<size_t>(3, figure.panels.size()));
  figure.width = figure.columns == 1 ? 1200 : figure.columns == 2 ? 1600 : 1900;
  figure.height = 780 * static_cast<int>((figure.panels.size() + 2) / 3);
  return figure;
}

}  // namespace quest::plot
