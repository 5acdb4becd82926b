// Figures 6 and 7: measured times of low-bit products as speed over BF16.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>

#include "quest/base/error.h"
#include "quest/plot/figure_groups.h"
#include "quest/quant/quant_spec.h"

namespace quest::plot {
namespace {

constexpr int kOwnColors[] = {3, 4, 5, 6};

constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

// Columns of seconds against a count in the first: row[0] is the count, row[1] the baseline.
struct Timings {
  std::vector<std::string> columns;  // without the first
  std::vector<std::vector<double>> rows;
};

// null: not measured, in any column behind the first two.
std::vector<std::vector<double>> number_rows(const Json& list, size_t width,
                                             const std::string& where) {
  QUEST_CHECK(list.is_array() && !list.empty(), ErrorKind::kData,
              "{}: must be a list of rows of {} numbers", where, width);
  std::vector<std::vector<double>> rows;
  for (const Json& row : list) {
    QUEST_CHECK(row.is_array() && row.size() == width, ErrorKind::kData,
                "{}: a row must have {} numbers", where, width);
    rows.emplace_back();
    for (const Json& value : row) {
      if (value.is_null() && rows.back().size() >= 2) {
        rows.back().push_back(kNotMeasured);
        continue;
      }
      QUEST_CHECK(value.is_number() && value.get<double>() > 0, ErrorKind::kData,
                  "{}: {} is no positive number", where, value.dump());
      rows.back().push_back(value.get<double>());
    }
  }
  return rows;
}

std::vector<std::string> columns_of(const Json& object, size_t fewest, const std::string& where) {
  QUEST_CHECK(object.is_object(), ErrorKind::kData, "{}: expected an object, found {}", where,
              object.type_name());
  const auto columns = json_get<std::vector<std::string>>(object, "columns", where);
  QUEST_CHECK(columns.size() >= fewest, ErrorKind::kData,
              "{}: {} columns; the baseline and at least one column to compare with it are needed",
              where, columns.size());
  return columns;
}

// Layers by their name "NxK".
std::map<std::string, Timings> layer_timings(const Json& object, const std::string& where) {
  const std::vector<std::string> columns = columns_of(object, 3, where);
  QUEST_CHECK(object.contains("layers") && object.at("layers").is_object(), ErrorKind::kData,
              "{}: no object 'layers' in it", where);
  std::map<std::string, Timings> layers;
  for (const auto& [name, rows] : object.at("layers").items()) {
    layers[name] = {{columns.begin() + 1, columns.end()},
                    number_rows(rows, columns.size(), where + "." + name)};
  }
  return layers;
}

// "1.6B": "1600M", as the paper's panels are called; other names as they are.
std::string size_name(const std::string& name) {
  double billions = 0;
  const char* last = name.data() + name.size();
  const auto [end, code] = std::from_chars(name.data(), last, billions);
  const bool is_size = code == std::errc() && end + 1 == last && *end == 'B';
  return is_size ? fmt::format("{:.0f}M", 1000 * billions) : name;
}

std::map<std::string, Timings> prefill_timings(const Json& object, const std::string& where) {
  const std::vector<std::string> columns = columns_of(object, 2, where);
  const auto batches = json_get<std::vector<double>>(object, "batch_sizes", where);
  std::map<std::string, Timings> models;
  for (const auto& [key, rows] : object.items()) {
    constexpr std::string_view kPrefix = "model_";
    if (!key.starts_with(kPrefix)) continue;
    Timings timings{columns, number_rows(rows, columns.size(), where + "." + key)};
    QUEST_CHECK(timings.rows.size() == batches.size(), ErrorKind::kData,
                "{}.{}: {} rows for {} batch_sizes", where, key, timings.rows.size(),
                batches.size());
    for (size_t i = 0; i < batches.size(); ++i) {
      timings.rows[i].insert(timings.rows[i].begin(), batches[i]);
    }
    models[size_name(key.substr(kPrefix.size()))] = timings;
  }
  QUEST_CHECK(!models.empty(), ErrorKind::kData, "{}: no 'model_NAME' in it", where);
  return models;
}

// "7680x2560" as N and K; zeros if it is no such name.
std::pair<int64_t, int64_t> shape_of(const std::string& name) {
  int64_t n = 0, k = 0;
  const char* last = name.data() + name.size();
  const auto [middle, code] = std::from_chars(name.data(), last, n);
  if (code != std::errc() || middle == last || *middle != 'x') return {0, 0};
  const auto [end, second] = std::from_chars(middle + 1, last, k);
  return second == std::errc() && end == last ? std::pair{n, k} : std::pair<int64_t, int64_t>{0, 0};
}

// Which of a Llama block's products has this shape, hidden size C: 0 QKV (3C x C), 1 attention
// output (C x C), 2 gate and up, 3 down.
int role_of(int64_t n, int64_t k) { return n == 3 * k ? 0 : n == k ? 1 : n > k ? 2 : 3; }

std::string layer_title(const std::string& name) {
  constexpr const char* kRoles[] = {"Q, K, V", "attention output", "gate and up", "down"};
  const auto [n, k] = shape_of(name);
  return n == 0 ? name : fmt::format("{}: {}×{}", kRoles[role_of(n, k)], n, k);
}

// By hidden size, then in the order of the block.
bool comes_before(const std::string& a, const std::string& b) {
  const auto rank = [](const std::string& name) {
    const auto [n, k] = shape_of(name);
    return std::tuple{std::min(n, k), role_of(n, k), name};
  };
  return rank(a) < rank(b);
}

// "1600M": "1.6B parameters".
std::string model_title(const std::string& name) {
  int64_t millions = 0;
  const char* last = name.data() + name.size();
  const auto [end, code] = std::from_chars(name.data(), last, millions);
  if (code != std::errc() || end + 1 != last || *end != 'M') return name;
  return millions < 1000 ? fmt::format("{}M parameters", millions)
                         : fmt::format("{:.2g}B parameters", static_cast<double>(millions) / 1000);
}

bool is_recipe(const std::string& name) {
  try {
    recipe_from_name(name);
    return true;
  } catch (const Error&) {
    return false;
  }
}

std::string column_label(const std::string& column) {
  if (column == "int4") return "INT4";
  if (column == "int4_with_hadamard") return "INT4 with Hadamard";
  if (column == "no_linear_layers") return "linear layers left out (the limit)";
  constexpr std::string_view kKept = "_int8_weights";
  if (column.ends_with(kKept)) {
    return column_label(column.substr(0, column.size() - kKept.size())) + ", weights kept as int8";
  }
  if (is_recipe(column)) return format_label(column);
  std::string label = column;
  std::replace(label.begin(), label.end(), '_', ' ');
  return label;
}

// baseline / column, for each column behind the baseline.
void add_speedups(Chart& chart, const Timings& timings, const std::string& prefix,
                  const std::vector<int>& colors, bool own) {
  for (size_t i = 1; i < timings.columns.size(); ++i) {
    const bool limit = timings.columns[i] == "no_linear_layers";
    Series series{.name = prefix + column_label(timings.columns[i]),
                  .look = limit ? Look::kLine : Look::kLineMarkers,
                  .color = colors[(i - 1) % colors.size()],
                  .marker = own      ? Marker::kDiamond
                            : i == 1 ? Marker::kCircle
                                     : Marker::kTriangle,
                  .dash = limit ? 3
                          : own ? 2
                                : 1};
    for (const std::vector<double>& row : timings.rows) {
      if (!std::isnan(row[i + 1])) series.points.push_back({row[0], row[1] / row[i + 1]});
    }
    if (series.points.empty()) continue;
    chart.series.push_back(series);
  }
}

struct Source {
  std::string prefix;  // of its series
  std::vector<int> colors;
  bool own = false;
  std::map<std::string, Timings> panels;
};

// --label, or the GPU that `quest bench` names in the file, or the file.
std::string source_label(const FigureOptions& options, size_t i, const Json& json) {
  const bool names_gpu = json.is_object() && json.contains("gpu") && json.at("gpu").is_string();
  if (!options.labels.empty() || !names_gpu) return own_label(options, i);
  std::string gpu = json.at("gpu").get<std::string>();
  constexpr std::string_view kMaker = "NVIDIA ";
  return gpu.starts_with(kMaker) ? gpu.substr(kMaker.size()) : gpu;
}

template <class Read>
std::vector<Source> sources_of(const PaperData& paper, std::string_view key,
                               const FigureOptions& options, Read read) {
  std::vector<Source> sources;
  if (!options.own_only) {
    sources.push_back({"RTX 4090, ", {0, 1, 6}, false, read(paper.figure(key), paper.where(key))});
  }
  for (size_t i = 0; i < options.own.size(); ++i) {
    const int color = kOwnColors[2 * i % std::size(kOwnColors)];
    const int second = kOwnColors[(2 * i + 1) % std::size(kOwnColors)];
    const Json json = read_json(options.own[i]);
    sources.push_back({fmt::format("own, {}: ", source_label(options, i, json)),
                       {color, second, 2},
                       true,
                       read(json, options.own[i])});
  }
  return sources;
}

Chart speed_chart(const std::string& panel, const std::string& title, const std::string& x_label,
                  const std::vector<Source>& sources) {
  Chart chart;
  chart.title = title;
  chart.x = {.label = x_label, .log = true, .numbers = Numbers::kPowersOfTwo};
  chart.y = {.label = "times BF16's speed", .low = 0.0};
  chart.lines.push_back({.at = 1});
  for (const Source& source : sources) {
    const auto at = source.panels.find(panel);
    if (at != source.panels.end()) {
      add_speedups(chart, at->second, source.prefix, source.colors, source.own);
    }
  }
  return chart;
}

std::vector<std::string> panels_of(const std::vector<Source>& sources) {
  std::map<std::string, int> names;
  for (const Source& source : sources) {
    for (const auto& [name, timings] : source.panels) names[name] = 0;
  }
  std::vector<std::string> result;
  for (const auto& [name, unused] : names) result.push_back(name);
  return result;
}

}  // namespace

Figure layer_speedup(const PaperData& paper, const FigureOptions& options) {
  const std::vector<Source> sources =
      sources_of(paper, "figure6_layer_seconds_rtx4090", options, layer_timings);
  std::vector<std::string> panels = panels_of(sources);
  std::stable_sort(panels.begin(), panels.end(), comes_before);
  Figure figure;
  figure.title = fmt::format("Figure 6: speed of linear layers{}",
                             options.own.empty() ? ", weights and activations in INT4" : "");
  for (const std::string& name : panels) {
    figure.panels.emplace_back(speed_chart(name, layer_title(name), "batch (tokens)", sources));
  }
  figure.same_y = true;
  figure.columns = static_cast<int>(std::min<size_t>(4, figure.panels.size()));
  figure.width = std::min(1900, 700 * figure.columns);
  const auto rows = static_cast<int>((figure.panels.size() + 3) / 4);
  figure.height = rows == 1 ? 700 : 540 * rows;
  if (!options.own_only) figure.note = "the paper's bars are those of 4096 tokens";
  return figure;
}

Figure prefill_speedup(const PaperData& paper, const FigureOptions& options) {
  const std::vector<Source> sources =
      sources_of(paper, "figure7_prefill_seconds_rtx4090", options, prefill_timings);
  Figure figure;
  figure.title = fmt::format("Figure 7: speed of prefill{}",
                             options.own.empty() ? ", linear layers in INT4" : "");
  if (!options.own_only) figure.note = "paper: 512 tokens a sequence";
  std::vector<std::string> panels = panels_of(sources);
  std::stable_sort(panels.begin(), panels.end(), [](const std::string& a, const std::string& b) {
    return std::pair{a.size(), a} < std::pair{b.size(), b};  // 800M before 1600M
  });
  for (const std::string& name : panels) {
    figure.panels.emplace_back(speed_chart(name, model_title(name), "batch (sequences)", sources));
  }
  figure.same_y = true;
  figure.columns = static_cast<int>(std::min<size_t>(2, figure.panels.size()));
  figure.width = figure.columns == 1 ? 1200 : 1600;
  figure.height = 800 * static_cast<int>((figure.panels.size() + 1) / 2);
  return figure;
}

}  // namespace quest::plot
