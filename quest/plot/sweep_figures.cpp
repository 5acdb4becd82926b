// Figures 10 and 12 and Table 4: heat maps over two settings.
#include <algorithm>
#include <set>

#include <fmt/ranges.h>

#include "quest/base/error.h"
#include "quest/plot/figure_groups.h"
#include "quest/plot/sweep_table.h"

namespace quest::plot {
namespace {

// The keys of the axes: those asked for, else the two that vary.
std::pair<std::string, std::string> axis_keys(const SweepTable& table,
                                              const FigureOptions& options) {
  if (!options.x_key.empty() && !options.y_key.empty()) return {options.x_key, options.y_key};
  std::vector<std::string> varied = varied_keys(table);
  std::string names;
  for (const std::string& key : varied) names += (names.empty() ? "" : ", ") + key;
  const std::string given = options.x_key + options.y_key;  // at most one of them
  std::erase(varied, given);
  QUEST_CHECK(varied.size() == (given.empty() ? 2 : 1), ErrorKind::kUsage,
              "choose the two settings of the heat map with --x KEY --y KEY; the sweep varies {}",
              names.empty() ? "none" : names);
  if (given.empty()) return {varied[0], varied[1]};
  return options.x_key.empty() ? std::pair{varied[0], given} : std::pair{given, varied[0]};
}

// One for each own sweep, or the mean of all.
std::vector<HeatMap> own_maps(const FigureOptions& options) {
  std::vector<SweepTable> sweeps;
  std::vector<std::string> names;
  for (size_t i = 0; i < options.own.size(); ++i) {
    sweeps.push_back(read_sweep_table(options.own[i]));
    names.push_back(own_label(options, i));
  }
  std::vector<HeatMap> maps;
  const size_t each = options.mean ? sweeps.size() : 1;
  for (size_t i = 0; i < sweeps.size(); i += each) {
    const auto [x, y] = axis_keys(sweeps[i], options);
    maps.push_back(sweep_heat_map(std::span(sweeps).subspan(i, each), x, y, options.perplexity));
    maps.back().title = each > 1 ? fmt::format("mean of {}", fmt::join(names, ", ")) : names[i];
  }
  return maps;
}

std::string value_name(const FigureOptions& options) {
  return options.perplexity ? "validation perplexity" : "validation loss (nats per token)";
}

void arrange(Figure& figure) {
  size_t columns = 1, rows = 1;
  for (const auto& panel : figure.panels) {
    columns = std::max(columns, std::get<HeatMap>(panel).x_tics.size());
    rows = std::max(rows, std::get<HeatMap>(panel).y_tics.size());
  }
  figure.columns = static_cast<int>(std::min<size_t>(2, figure.panels.size()));
  const int panel_rows = static_cast<int>((figure.panels.size() + 1) / 2);
  figure.width = std::clamp(figure.columns * (350 + 120 * static_cast<int>(columns)), 900, 2400);
  figure.height = std::clamp(panel_rows * (280 + 90 * static_cast<int>(rows)), 640, 2400);
}

}  // namespace

Figure sweep_map(const PaperData&, const FigureOptions& options) {
  Figure figure;
  figure.title = value_name(options);
  figure.title[0] = 'V';
  figure.note = "darker is better; of trials that share both settings the best; –: none finished";
  for (const HeatMap& map : own_maps(options)) figure.panels.emplace_back(map);
  arrange(figure);
  return figure;
}

Figure lsq_weight_decay(const PaperData& paper, const FigureOptions& options) {
  Figure figure;
  figure.title = "Table 4: weight decay of LSQ's step";
  figure.note = "darker is better, within a column";
  if (!options.own_only) {
    const std::string_view key = "table4_lsq_weight_decay_ppl";
    const Json& table = paper.figure(key);
    const std::string where = paper.where(key);
    QUEST_CHECK(table.is_object() && !table.empty(), ErrorKind::kData, "{}: is no object", where);
    HeatMap map{.title = "paper, 30M parameters: perplexity on C4",
                .x_label = "bits of weights and activations",
                .y_label = "weight decay",
                .digits = 2,
                .shade_by_column = true};
    std::set<double> widths;
    for (const auto& [decay, row] : table.items()) {
      for (const auto& [bits, value] : number_pairs(row, where)) widths.insert(bits);
    }
    for (const double bits : widths) map.x_tics.push_back(fmt::format("{:g}", bits));
    for (const auto& [decay, row] : table.items()) {
      map.y_tics.push_back(decay);
      map.rows.emplace_back(widths.size());
      for (const auto& [bits, value] : number_pairs(row, where)) {
        map.rows.back()[static_cast<size_t>(std::distance(widths.begin(), widths.find(bits)))] =
            value;
      }
    }
    figure.panels.emplace_back(map);
  }
  for (HeatMap& map : own_maps(options)) {
    map.title += options.perplexity ? ": perplexity" : ": loss";
    map.shade_by_column = true;
    figure.panels.emplace_back(map);
  }
  arrange(figure);
  return figure;
}

}  // namespace quest::plot
