// Figure 3: quantization-aware training methods by bits.
#include <algorithm>
#include <cmath>
#include <map>
#include <regex>

#include "quest/base/error.h"
#include "quest/plot/chart_axis.h"
#include "quest/plot/figure_groups.h"

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

// "own QuEST" of w4a4, "own nohadamard ste" of w4a4_nohadamard_ste: what stays when the widths are
// taken out of a recipe's name.
std::string family_name(const std::string& format) {
  static const std::regex widths("w[0-9]+a([0-9]+)");
  std::smatch match;
  if (!std::regex_search(format, match, widths)) return "own " + format_label(format);
  std::string rest = match.prefix().str() + match.suffix().str();
  std::replace(rest.begin(), rest.end(), '_', ' ');
  while (rest.starts_with(' ')) rest.erase(0, 1);
  while (rest.ends_with(' ')) rest.pop_back();
  if (match[1] == "16") rest = "weights only" + (rest.empty() ? "" : " " + rest);
  return "own " + (rest.empty() ? "QuEST" : rest);
}

void add_own(Chart& chart, const std::vector<ScalingRun>& runs) {
  std::map<std::string, std::map<double, double>> families;
  for (const ScalingRun& run : runs) {
    auto& points = families[family_name(run.format)];
    const auto [at, first] = points.emplace(format_bits(run.format), run.loss);
    at->second = std::min(at->second, run.loss);  // the best of several
  }
  int color = 0;
  for (const auto& [name, points] : families) {
    Series series{.name = name, .color = color++, .marker = Marker::kDiamond, .dash = 2};
    for (const auto& [bits, loss] : points) series.points.push_back({bits, loss});
    chart.series.push_back(series);
  }
}

}  // namespace

Figure loss_by_bits(const PaperData& paper, const FigureOptions& options) {
  Figure figure;
  figure.title = "Figure 3: loss against bits by method";
  figure.note = "validation loss on C4 after 100 tokens per parameter";
  // Own runs by size: with the paper's of a size within 10 %, else in panels of their own.
  std::map<double, std::vector<ScalingRun>> own;
  for (const ScalingRun& run : own_runs(options)) {
    const auto same = std::find_if(own.begin(), own.end(), [&](const auto& group) {
      return std::fabs(run.params / group.first - 1) < 0.1;
    });
    (same == own.end() ? own[run.params] : same->second).push_back(run);
  }
  if (!options.own_only) {
    const std::string_view key = "figure3_val_loss_by_bits";
    for (const auto& [size, params] :
         {std::pair{"30M", 30482560.0}, std::pair{"50M", 49556736.0}}) {
      const Json& panel = paper.figure(key);
      const std::string where = paper.where(key) + "." + size;
      QUEST_CHECK(panel.contains(size), ErrorKind::kData, "{} is missing", where);
      Chart chart = bits_chart(fmt::format("{} parameters", size));
      for (const Method& method : kMethods) {
        if (!panel.at(size).contains(method.key)) continue;
        Series series{.name = method.name, .color = method.color, .marker = method.marker};
        for (const auto& [bits, loss] :
             number_pairs(panel.at(size).at(method.key), where + "." + method.key)) {
          series.points.push_back({bits, loss});
        }
        chart.series.push_back(series);
      }
      for (auto group = own.begin(); group != own.end();) {
        const bool fits = std::fabs(group->first / params - 1) < 0.1;
        if (fits) add_own(chart, group->second);
        group = fits ? own.erase(group) : std::next(group);
      }
      set_bit_tics(chart);
      figure.panels.emplace_back(chart);
    }
  }
  for (const auto& [params, runs] : own) {
    Chart chart = bits_chart(fmt::format("own runs, {} parameters", count_text(params)));
    add_own(chart, runs);
    set_bit_tics(chart);
    figure.panels.emplace_back(chart);
  }
  if (!own.empty()) figure.note = "paper: validation loss on C4; own runs: on their own text";
  figure.columns = static_cast<int>(std::min<size_t>(3, figure.panels.size()));
  figure.width = figure.columns == 1 ? 1200 : figure.columns == 2 ? 1600 : 1900;
  figure.height = 780 * static_cast<int>((figure.panels.size() + 2) / 3);
  return figure;
}

}  // namespace quest::plot
