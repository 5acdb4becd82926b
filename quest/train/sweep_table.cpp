#include "quest/train/sweep_table.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"

namespace quest::train {
namespace {

constexpr size_t kManyValues = 20;  // of one setting: no table by value

std::vector<std::string> cells_of(std::string_view line) {
  std::vector<std::string> cells;
  for (size_t begin = 0;;) {
    const size_t comma = line.find(',', begin);
    cells.emplace_back(line.substr(begin, comma - begin));
    if (comma == std::string_view::npos) return cells;
    begin = comma + 1;
  }
}

template <class T>
T number(const std::string& text, const char* column, const std::string& where) {
  T value{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  QUEST_CHECK(code == std::errc() && end == text.data() + text.size(), ErrorKind::kData,
              "{}: {} is '{}', must be a number", where, column, text);
  return value;
}

TrialRow row_of(const std::vector<std::string>& cells, size_t keys, const std::string& where) {
  QUEST_CHECK(cells.size() == keys + 6, ErrorKind::kData,
              "{}: {} values, the first line names {} columns", where, cells.size(), keys + 6);
  TrialRow row;
  row.trial = cells[0];
  row.state = cells[1];
  static const std::set<std::string> states = {"done", "stopped", "failed", "pending"};
  QUEST_CHECK(states.count(row.state) == 1, ErrorKind::kData,
              "{}: state is '{}', must be done, stopped, failed or pending", where, row.state);
  const auto rest = cells.begin() + 2 + static_cast<std::ptrdiff_t>(keys);
  row.values.assign(cells.begin() + 2, rest);
  row.steps = number<int64_t>(rest[0], "steps", where);
  row.tokens = number<int64_t>(rest[1], "tokens", where);
  if (!rest[2].empty()) {
    row.loss = number<double>(rest[2], "loss", where);
    QUEST_CHECK(std::isfinite(*row.loss), ErrorKind::kData, "{}: loss is {}", where, rest[2]);
  }
  row.run = rest[3];
  return row;
}

using Lines = std::vector<std::vector<std::string>>;

// Columns as wide as their cells; numbers to the right.
std::string aligned(const Lines& lines, const std::set<size_t>& right) {
  std::vector<size_t> widths;
  for (const auto& line : lines) {
    widths.resize(std::max(widths.size(), line.size()));
    for (size_t i = 0; i < line.size(); ++i) widths[i] = std::max(widths[i], line[i].size());
  }
  std::string out;
  for (const auto& line : lines) {
    std::string text;
    for (size_t i = 0; i < line.size(); ++i) {
      text += right.count(i) != 0 ? fmt::format("{:>{}}  ", line[i], widths[i])
                                  : fmt::format("{:<{}}  ", line[i], widths[i]);
    }
    out += text.substr(0, text.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

std::string counts_text(const SweepTable& table) {
  std::string out = fmt::format("{} trial{}", table.rows.size(), table.rows.size() == 1 ? "" : "s");
  const char* before = ": ";
  for (const char* state : {"done", "stopped", "failed", "pending"}) {
    const auto count = std::count_if(table.rows.begin(), table.rows.end(),
                                     [&](const TrialRow& row) { return row.state == state; });
    if (count == 0) continue;
    out += fmt::format("{}{} {}", before, count, state);
    before = ", ";
  }
  return out + "\n";
}

std::string top_text(const SweepTable& table, const std::vector<const TrialRow*>& ranked,
                     size_t top) {
  Lines lines = {{"", "trial"}};
  for (const std::string& key : table.keys) lines[0].push_back(key);
  for (const char* name : {"steps", "loss", "run"}) lines[0].push_back(name);
  for (size_t i = 0; i < std::min(top, ranked.size()); ++i) {
    const TrialRow& row = *ranked[i];
    auto& line = lines.emplace_back();
    line = {std::to_string(i + 1), row.trial};
    line.insert(line.end(), row.values.begin(), row.values.end());
    line.insert(line.end(), {std::to_string(row.steps), fmt::format("{:.4f}", *row.loss), row.run});
  }
  const size_t keys = table.keys.size();
  std::string out = aligned(lines, {0, keys + 2, keys + 3});
  if (ranked.size() > top) out += fmt::format("and {} more in trials.csv\n", ranked.size() - top);
  return out;
}

// The best trial of each value of one setting, in order of first appearance.
std::string by_value_text(const SweepTable& table, const std::vector<const TrialRow*>& ranked,
                          size_t key) {
  std::vector<std::string> values;
  for (const TrialRow& row : table.rows) {
    if (std::find(values.begin(), values.end(), row.values[key]) == values.end()) {
      values.push_back(row.values[key]);
    }
  }
  if (values.size() < 2 || values.size() > kManyValues) return "";
  Lines lines = {{"best by " + table.keys[key], "loss", "trial", "with"}};
  for (const std::string& value : values) {
    const auto best = std::find_if(ranked.begin(), ranked.end(),
                                   [&](const TrialRow* row) { return row->values[key] == value; });
    if (best == ranked.end()) {
      lines.push_back({value, "-"});
      continue;
    }
    std::string others;
    for (size_t k = 0; k < table.keys.size(); ++k) {
      if (k != key) others += fmt::format("{}={} ", table.keys[k], (*best)->values[k]);
    }
    lines.push_back({value, fmt::format("{:.4f}", *(*best)->loss), (*best)->trial, others});
  }
  return fmt::format("\n{}", aligned(lines, {1}));
}

}  // namespace

std::string trials_csv(const SweepTable& table) {
  std::string out = "trial,state";
  for (const std::string& key : table.keys) out += "," + key;
  out += ",steps,tokens,loss,run\n";
  for (const TrialRow& row : table.rows) {
    out += row.trial + "," + row.state;
    for (const std::string& value : row.values) out += "," + value;
    out += fmt::format(",{},{},{},{}\n", row.steps, row.tokens,
                       row.loss ? fmt::format("{}", *row.loss) : "", row.run);
  }
  return out;
}

SweepTable read_trials_csv(const std::filesystem::path& path) {
  const std::string text = read_file(path);
  SweepTable table;
  int64_t line = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::vector<std::string> cells = cells_of(text.substr(begin, end - begin));
    const std::string where = fmt::format("{} line {}", path.string(), ++line);
    begin = end + 1;
    if (line > 1) {
      table.rows.push_back(row_of(cells, table.keys.size(), where));
      continue;
    }
    const std::vector<std::string> last = {"steps", "tokens", "loss", "run"};
    QUEST_CHECK(cells.size() >= 6 && cells[0] == "trial" && cells[1] == "state" &&
                    std::equal(last.begin(), last.end(), cells.end() - 4),
                ErrorKind::kData, "{}: must be trial,state,<setting>...,steps,tokens,loss,run",
                where);
    table.keys.assign(cells.begin() + 2, cells.end() - 4);
  }
  QUEST_CHECK(line > 0, ErrorKind::kData, "{} is empty", path.string());
  return table;
}

std::vector<const TrialRow*> ranking(const SweepTable& table) {
  std::vector<const TrialRow*> rows;
  for (const TrialRow& row : table.rows) {
    if (row.loss && (row.state == "done" || row.state == "stopped")) rows.push_back(&row);
  }
  // Halving compares at equal steps; in a sweep over steps the lowest loss is the best.
  std::stable_sort(rows.begin(), rows.end(), [](const TrialRow* a, const TrialRow* b) {
    if (a->state != b->state) return a->state == "done";
    if (a->state == "stopped" && a->steps != b->steps) return a->steps > b->steps;
    return *a->loss < *b->loss;
  });
  return rows;
}

std::string best_of_text(const SweepTable& table, const std::map<std::string, std::string>& errors,
                         size_t top) {
  const std::vector<const TrialRow*> ranked = ranking(table);
  std::string out = counts_text(table);
  if (!ranked.empty()) out += fmt::format("\n{}", top_text(table, ranked, top));
  for (size_t key = 0; key < table.keys.size() && table.keys.size() > 1 && !ranked.empty(); ++key) {
    out += by_value_text(table, ranked, key);
  }
  Lines failed;
  for (const TrialRow& row : table.rows) {
    if (row.state != "failed") continue;
    const auto error = errors.find(row.trial);
    std::string settings;
    for (size_t k = 0; k < table.keys.size(); ++k) {
      settings += fmt::format("{}{}={}", k == 0 ? "" : " ", table.keys[k], row.values[k]);
    }
    failed.push_back({row.trial, settings, error == errors.end() ? "" : error->second});
  }
  if (!failed.empty()) out += "\nfailed\n" + aligned(failed, {});
  return out;
}

}  // namespace quest::train
