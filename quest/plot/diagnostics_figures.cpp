// Figures 2, 8 and 9: what the gradient estimator does to gradients and masks.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "quest/base/error.h"
#include "quest/plot/diagnostics.h"
#include "quest/plot/figure_groups.h"
#include "quest/quant/grid_statistics.h"

namespace quest::plot {
namespace {

constexpr int kOwnColors[] = {3, 4, 5, 6, 0, 1, 2};
constexpr size_t kMostSteps = 10;  // of a heat map

int own_color(size_t i) { return kOwnColors[i % std::size(kOwnColors)]; }

std::vector<RunDiagnostics> own_diagnostics(const FigureOptions& options) {
  std::vector<RunDiagnostics> runs;
  for (size_t i = 0; i < options.own.size(); ++i) {
    runs.push_back(read_run_diagnostics(options.own[i]));
    runs.back().name = own_label(options, i);
  }
  return runs;
}

// A line of means and a band of one standard deviation to each side.
void add_cosines(Chart& chart, const std::string& name, const std::vector<GradientCosine>& values,
                 int color, bool own) {
  Series line{.name = name,
              .color = color,
              .marker = own ? Marker::kDiamond : Marker::kCircle,
              .dash = own ? 2 : 1};
  Series band{.look = Look::kBand, .color = color};
  for (const GradientCosine& v : values) {
    line.points.push_back({v.depth, v.mean});
    band.points.push_back(
        {v.depth, v.mean, std::max(-1.0, v.mean - v.std), std::min(1.0, v.mean + v.std)});
  }
  chart.series.push_back(band);
  chart.series.push_back(line);
}

std::vector<GradientCosine> paper_cosines(const Json& list, const std::string& where) {
  QUEST_CHECK(list.is_array(), ErrorKind::kData, "{} is no list", where);
  std::vector<GradientCosine> values;
  for (const Json& entry : list) {
    const double depth = cosine_depth(json_get<int64_t>(entry, "block", where),
                                      json_get<std::string>(entry, "layer", where), where);
    values.push_back(
        {depth, json_get<double>(entry, "mean", where), json_get<double>(entry, "std", where)});
  }
  std::sort(values.begin(), values.end(),
            [](const auto& a, const auto& b) { return a.depth < b.depth; });
  return values;
}

Series step_series(const std::string& name, int color, bool own) {
  return {.name = name,
          .look = own ? Look::kLineMarkers : Look::kLine,
          .color = color,
          .marker = Marker::kDiamond,
          .dash = own ? 2 : 1};
}

// Percentages: the shares are small.
constexpr double kPercent = 100;

void add_paper_masks(Chart& chart, const PaperData& paper) {
  const std::string_view key = "figure8_masked_fraction_w8a8";
  for (const auto& [name, label, color] :
       {std::tuple{"hadamard", "paper, with Hadamard", 0},
        std::tuple{"no_hadamard", "paper, without Hadamard", 1}}) {
    const Json& object = paper.figure(key);
    QUEST_CHECK(object.contains(name), ErrorKind::kData, "{}: no {}", paper.where(key), name);
    Series series = step_series(label, color, false);
    for (const auto& [step, share] : number_pairs(object.at(name), paper.where(key))) {
      series.points.push_back({step, kPercent * share});
    }
    chart.series.push_back(series);
  }
  const double expected = *gaussian_masked_fraction(recipe_from_name("w8a8").weight);
  Series gaussian{.name = "N(0, 1) on the 8-bit grid", .look = Look::kLine, .color = 6, .dash = 2};
  for (const ChartPoint& p : chart.series.front().points) {
    gaussian.points.push_back({p.x, kPercent * expected});
  }
  chart.series.push_back(gaussian);
}

void add_own_masks(Chart& chart, const RunDiagnostics& run, const std::string& side, int color) {
  Series masked = step_series("own, " + run.name, color, true);
  Series gaussian = step_series("own, " + run.name + ": N(0, 1)", color, true);
  gaussian.look = Look::kLine;
  gaussian.dash = 3;
  for (const DiagnosticsLine& line : run.lines) {
    const MaskedShare& share = side == "input" ? line.input : line.weight;
    const auto step = static_cast<double>(line.step);
    if (share.masked) masked.points.push_back({step, kPercent * *share.masked});
    if (share.gaussian) gaussian.points.push_back({step, kPercent * *share.gaussian});
  }
  QUEST_CHECK(!masked.points.empty(), ErrorKind::kData,
              "{}: its diagnostics tell no masked share of {}s; is that side quantized with a "
              "gradient estimator that masks?",
              run.name, side);
  chart.series.push_back(masked);
  if (!gaussian.points.empty()) chart.series.push_back(gaussian);
}

HeatMap retention_map(const std::string& title) {
  return {.title = title,
          .x_label = "optimizer step",
          .y_label = "masked at step",
          .digits = 2,
          .low_is_dark = false,
          .missing = "",
          .lowest = 0.0,
          .highest = 1.0};
}

// Leaves out the rows and columns without a value: the diagonal has none.
HeatMap without_empty(const HeatMap& full) {
  HeatMap map = full;
  map.rows.clear();
  map.x_tics.clear();
  map.y_tics.clear();
  std::vector<size_t> columns;
  for (size_t x = 0; x < full.x_tics.size(); ++x) {
    if (std::any_of(full.rows.begin(), full.rows.end(),
                    [&](const auto& row) { return row[x].has_value(); })) {
      columns.push_back(x);
      map.x_tics.push_back(full.x_tics[x]);
    }
  }
  for (size_t y = 0; y < full.rows.size(); ++y) {
    std::vector<std::optional<double>> row;
    for (const size_t x : columns) row.push_back(full.rows[y][x]);
    if (std::none_of(row.begin(), row.end(), [](const auto& cell) { return cell.has_value(); })) {
      continue;
    }
    map.rows.push_back(row);
    map.y_tics.push_back(full.y_tics[y]);
  }
  return map;
}

HeatMap paper_retention(const Json& matrix, const std::string& title, const std::string& where) {
  HeatMap map = retention_map(title);
  map.x_tics = json_get<std::vector<std::string>>(matrix, "new_iterations", where);
  map.y_tics = json_get<std::vector<std::string>>(matrix, "old_iterations", where);
  QUEST_CHECK(matrix.contains("retained") && matrix.at("retained").is_array() &&
                  matrix.at("retained").size() == map.y_tics.size(),
              ErrorKind::kData, "{}: retained must have {} rows", where, map.y_tics.size());
  for (const Json& row : matrix.at("retained")) {
    QUEST_CHECK(row.is_array() && row.size() == map.x_tics.size(), ErrorKind::kData,
                "{}: a row of retained must have {} values", where, map.x_tics.size());
    std::vector<std::optional<double>> cells;
    for (const Json& value : row) {
      QUEST_CHECK(value.is_null() || value.is_number(), ErrorKind::kData,
                  "{}: retained has a value that is no number", where);
      cells.push_back(value.is_null() ? std::nullopt : std::optional(value.get<double>()));
    }
    map.rows.push_back(cells);
  }
  return without_empty(map);
}

// At most kMostSteps of them, evenly spread, the first and the last included.
std::vector<int64_t> some_of(const std::set<int64_t>& steps) {
  std::vector<int64_t> all(steps.begin(), steps.end());
  if (all.size() <= kMostSteps) return all;
  std::vector<int64_t> some;
  for (size_t i = 0; i < kMostSteps; ++i) {
    some.push_back(all[i * (all.size() - 1) / (kMostSteps - 1)]);
  }
  return some;
}

HeatMap own_retention(const RunDiagnostics& run) {
  std::map<std::pair<int64_t, int64_t>, double> cells;  // since, now
  std::set<int64_t> now, since;
  for (const DiagnosticsLine& line : run.lines) {
    for (const MasksRetained& entry : line.retained) {
      cells[{entry.since_step, line.step}] = entry.retained;
      now.insert(line.step);
      since.insert(entry.since_step);
    }
  }
  QUEST_CHECK(!cells.empty(), ErrorKind::kData,
              "{}: its diagnostics have no masks_retained: they need two diagnostics, "
              "and weights whose gradients are masked",
              run.name);
  HeatMap map = retention_map("own, " + run.name);
  const std::vector<int64_t> columns = some_of(now), rows = some_of(since);
  for (const int64_t step : columns) map.x_tics.push_back(std::to_string(step));
  for (const int64_t old : rows) {
    map.y_tics.push_back(std::to_string(old));
    map.rows.emplace_back();
    for (const int64_t step : columns) {
      const auto at = cells.find({old, step});
      map.rows.back().push_back(at == cells.end() ? std::nullopt : std::optional(at->second));
    }
  }
  return without_empty(map);
}

}  // namespace

Figure gradient_alignment(const PaperData& paper, const FigureOptions& options) {
  Figure figure;
  figure.title = "Figure 2: quantized backward pass against the true gradient";
  figure.note =
      "line: mean cosine, band: one standard deviation; backpropagation comes from the right";
  Chart chart;
  chart.x = {.label = "depth in blocks (whole numbers: attention, halves: MLP)"};
  chart.y = {.label = "cosine with the unquantized gradient"};
  if (!options.own_only) {
    const std::string_view key = "figure2_gradient_cosine";
    for (const auto& [name, label, color] :
         {std::tuple{"quest", "QuEST", 0},
          std::tuple{"quest_no_hadamard", "QuEST without Hadamard", 2},
          std::tuple{"ste", "STE", 1}}) {
      const Json& object = paper.figure(key);
      QUEST_CHECK(object.contains(name), ErrorKind::kData, "{}: no {}", paper.where(key), name);
      add_cosines(chart, label, paper_cosines(object.at(name), paper.where(key)), color, false);
    }
  }
  const std::vector<RunDiagnostics> own = own_diagnostics(options);
  for (size_t i = 0; i < own.size(); ++i) {
    const auto last =
        std::find_if(own[i].lines.rbegin(), own[i].lines.rend(),
                     [](const DiagnosticsLine& line) { return !line.cosine.empty(); });
    QUEST_CHECK(last != own[i].lines.rend(), ErrorKind::kData,
                "{}: its diagnostics have no gradient_cosine", own[i].name);
    add_cosines(chart, fmt::format("own, {} (step {})", own[i].name, last->step), last->cosine,
                own_color(i), true);
  }
  figure.panels.emplace_back(chart);
  return figure;
}

Figure masked_fraction(const PaperData& paper, const FigureOptions& options) {
  QUEST_CHECK(options.side == "weight" || options.side == "input", ErrorKind::kUsage,
              "the side is '{}', must be weight or input", options.side);
  Figure figure;
  figure.title = options.own_only ? "Figure 8: masked gradients"
                                  : "Figure 8: masked gradients of weights, W8A8";
  Chart chart;
  chart.x = {.label = "optimizer step"};
  chart.y = {.label = "masked share (%)", .low = 0.0};
  if (!options.own_only) add_paper_masks(chart, paper);
  const std::vector<RunDiagnostics> own = own_diagnostics(options);
  for (size_t i = 0; i < own.size(); ++i) add_own_masks(chart, own[i], options.side, own_color(i));
  figure.panels.emplace_back(chart);
  return figure;
}

Figure mask_retention(const PaperData& paper, const FigureOptions& options) {
  Figure figure;
  figure.title = "Figure 9: share of masked weights that are masked again later";
  if (!options.own_only) {
    const std::string_view key = "figure9_mask_retention_w8a8";
    for (const auto& [name, label] : {std::pair{"no_hadamard", "W8A8 without Hadamard"},
                                      std::pair{"hadamard", "W8A8 with Hadamard"}}) {
      const Json& object = paper.figure(key);
      QUEST_CHECK(object.contains(name), ErrorKind::kData, "{}: no {}", paper.where(key), name);
      figure.panels.emplace_back(paper_retention(object.at(name), label, paper.where(key)));
    }
  }
  for (const RunDiagnostics& run : own_diagnostics(options)) {
    figure.panels.emplace_back(own_retention(run));
  }
  figure.columns = static_cast<int>(std::min<size_t>(2, figure.panels.size()));
  figure.width = figure.columns == 1 ? 900 : 1600;
  figure.height = 760 * static_cast<int>((figure.panels.size() + 1) / 2);
  return figure;
}

}  // namespace quest::plot
