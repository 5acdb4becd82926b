#include "quest/plot/sweep_table.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/white_space.h"

namespace quest::plot {
namespace {

// Columns that are no settings.
const std::set<std::string, std::less<>> kOwnColumns = {"trial",  "state", "steps",
                                                        "tokens", "loss",  "run"};

std::vector<std::string> csv_cells(std::string_view line, const std::string& where) {
  std::vector<std::string> cells(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '"' && quoted && i + 1 < line.size() && line[i + 1] == '"') {
      cells.back() += '"';
      ++i;
    } else if (line[i] == '"') {
      quoted = !quoted;
    } else if (line[i] == ',' && !quoted) {
      cells.emplace_back();
    } else {
      cells.back() += line[i];
    }
  }
  QUEST_CHECK(!quoted, ErrorKind::kData, "{}: a quotation mark is not closed", where);
  return cells;
}

std::optional<double> number_of(std::string_view text) {
  double value = 0;
  const char* last = text.data() + text.size();
  const auto [end, code] = std::from_chars(text.data(), last, value);
  if (code != std::errc() || end != last || !std::isfinite(value)) return std::nullopt;
  return value;
}

SweepTrial trial_of(const std::vector<std::string>& columns, const std::vector<std::string>& cells,
                    const std::string& where) {
  QUEST_CHECK(cells.size() == columns.size(), ErrorKind::kData,
              "{}: {} values, the first line names {} columns", where, cells.size(),
              columns.size());
  SweepTrial trial;
  for (size_t i = 0; i < columns.size(); ++i) {
    if (!kOwnColumns.contains(columns[i])) trial.settings[columns[i]] = cells[i];
    if (columns[i] == "state") trial.state = cells[i];
    if (columns[i] != "loss" || cells[i].empty()) continue;
    trial.loss = number_of(cells[i]);
    // A loss that is not finite is that of a trial that diverged: an empty cell of the map.
    QUEST_CHECK(trial.loss || cells[i] == "nan" || cells[i] == "inf", ErrorKind::kData,
                "{}: loss is '{}', must be a number or empty", where, cells[i]);
  }
  return trial;
}

SweepTable table_of(const std::vector<std::string>& columns, std::string_view source) {
  SweepTable table;
  std::set<std::string> seen;
  for (const std::string& column : columns) {
    QUEST_CHECK(seen.insert(column).second, ErrorKind::kData, "{}: two columns are called '{}'",
                source, column);
    if (!kOwnColumns.contains(column)) table.keys.push_back(column);
  }
  for (const char* needed : {"state", "loss"}) {
    QUEST_CHECK(seen.contains(needed), ErrorKind::kData,
                "{}: the first line names no column {}; is it the trials.csv of a sweep?", source,
                needed);
  }
  return table;
}

// The different values of a key, in the order of an axis.
std::vector<std::string> axis_values(std::span<const SweepTable> sweeps, const std::string& key) {
  std::vector<std::string> values;
  bool numbers = true;
  for (const SweepTable& table : sweeps) {
    for (const SweepTrial& trial : table.trials) {
      const std::string& value = trial.settings.at(key);
      if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
      numbers = numbers && number_of(value).has_value();
    }
  }
  if (numbers) {
    std::stable_sort(values.begin(), values.end(), [](const std::string& a, const std::string& b) {
      return *number_of(a) < *number_of(b);
    });
  }
  return values;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text.empty() ? "none" : text;
}

// Of the trials of a pair of values that are done.
std::optional<double> best_loss(const SweepTable& table, const std::string& x_key,
                                const std::string& x, const std::string& y_key,
                                const std::string& y) {
  std::optional<double> best;
  for (const SweepTrial& trial : table.trials) {
    if (trial.state != "done" || !trial.loss) continue;
    if (trial.settings.at(x_key) != x || trial.settings.at(y_key) != y) continue;
    best = std::min(best.value_or(*trial.loss), *trial.loss);
  }
  return best;
}

void check_key(const SweepTable& table, const std::string& key) {
  QUEST_CHECK(std::find(table.keys.begin(), table.keys.end(), key) != table.keys.end(),
              ErrorKind::kUsage, "the sweep has no setting '{}'; it has {}", key,
              joined(table.keys));
}

}  // namespace

SweepTable parse_sweep_table(std::string_view text, std::string_view source) {
  std::vector<std::string> columns;
  SweepTable table;
  int64_t number = 0;
  while (!text.empty()) {
    ++number;
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = trimmed(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty()) continue;
    const std::string where = fmt::format("{} line {}", source, number);
    if (columns.empty()) {
      columns = csv_cells(line, where);
      table = table_of(columns, source);
    } else {
      table.trials.push_back(trial_of(columns, csv_cells(line, where), where));
    }
  }
  QUEST_CHECK(!table.trials.empty(), ErrorKind::kData, "{}: there are no trials in it", source);
  return table;
}

SweepTable read_sweep_table(const std::filesystem::path& sweep) {
  const std::filesystem::path file =
      std::filesystem::is_directory(sweep) ? sweep / "trials.csv" : sweep;
  return parse_sweep_table(read_file(file), file.string());
}

std::vector<std::string> varied_keys(const SweepTable& table) {
  std::vector<std::string> varied;
  for (const std::string& key : table.keys) {
    if (axis_values({&table, 1}, key).size() > 1) varied.push_back(key);
  }
  return varied;
}

HeatMap sweep_heat_map(std::span<const SweepTable> sweeps, const std::string& x_key,
                       const std::string& y_key, bool perplexity) {
  QUEST_ASSERT(!sweeps.empty(), "a heat map of no sweep");
  for (const SweepTable& table : sweeps) {
    for (const std::string& key : {x_key, y_key}) check_key(table, key);
  }
  QUEST_CHECK(x_key != y_key, ErrorKind::kUsage, "--x and --y are both {}; give two settings",
              x_key);
  HeatMap map;
  map.x_label = x_key;
  map.y_label = y_key;
  map.x_tics = axis_values(sweeps, x_key);
  map.y_tics = axis_values(sweeps, y_key);
  map.digits = perplexity ? 2 : 3;
  for (const std::string& y : map.y_tics) {
    std::vector<std::optional<double>>& row = map.rows.emplace_back();
    for (const std::string& x : map.x_tics) {
      double sum = 0;
      size_t found = 0;
      for (const SweepTable& table : sweeps) {
        const std::optional<double> loss = best_loss(table, x_key, x, y_key, y);
        sum += loss.value_or(0);
        found += loss.has_value();
      }
      row.emplace_back();
      if (found < sweeps.size()) continue;
      const double mean = sum / static_cast<double>(found);
      row.back() = perplexity ? std::exp(mean) : mean;
    }
  }
  return map;
}

Chart sweep_chart(std::span<const NamedSweep> sweeps, const std::string& key) {
  Chart chart;
  chart.x = {.label = key, .log = true};
  chart.y = {.label = "validation loss (nats per token)"};
  std::map<double, std::string> tics;
  for (const NamedSweep& sweep : sweeps) {
    check_key(sweep.table, key);
    std::map<double, double> losses;
    for (const SweepTrial& trial : sweep.table.trials) {
      if (trial.state != "done" || !trial.loss) continue;
      const std::string& text = trial.settings.at(key);
      const std::optional<double> value = number_of(text);
      QUEST_CHECK(value && *value > 0, ErrorKind::kData,
                  "{}: {} is '{}', must be a positive number for a logarithmic axis", sweep.name,
                  key, text);
      tics[*value] = text;
      const auto at = losses.emplace(*value, *trial.loss).first;
      at->second = std::min(at->second, *trial.loss);
    }
    Series line{.name = sweep.name,
                .color = static_cast<int>(chart.series.size()),
                .marker = Marker::kDiamond,
                .dash = 2};
    for (const auto& [x, y] : losses) line.points.push_back({x, y});
    chart.series.push_back(line);
  }
  for (const auto& [at, text] : tics) chart.x.tics.push_back({at, text});
  return chart;
}

}  // namespace quest::plot
