#include "quest/scaling/run_table.h"

#include <charconv>
#include <cmath>
#include <map>
#include <optional>
#include <tuple>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/white_space.h"

namespace quest::scaling {
namespace {

constexpr std::string_view kSpaces = " \t\r";                // around a cell
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";  // which spreadsheets begin with

// What no run has: a law through it would be a law of that run's mistake. A loss of 100 nats is ten
// times that of guessing among 32000 tokens.
struct Sound {
  const char* name;
  double most;
  const char* unit;
};
constexpr Sound kSoundParams{"params", 1e18, "parameters"};
constexpr Sound kSoundTokens{"tokens", 1e18, "tokens"};
constexpr Sound kSoundLoss{"loss", 100, "nats a token; leave out runs that diverged"};

void check_sound(std::string_view name, double value, const Sound& sound) {
  QUEST_CHECK(value <= sound.most, ErrorKind::kData, "{} is {:g}, must be at most {:g} {}", name,
              value, sound.most, sound.unit);
}

std::vector<std::string_view> cells_of(std::string_view line) {
  std::vector<std::string_view> cells;
  for (size_t begin = 0;;) {
    const size_t comma = line.find(',', begin);
    cells.push_back(trimmed(line.substr(begin, comma - begin), kSpaces));
    if (comma == std::string_view::npos) return cells;
    begin = comma + 1;
  }
}

class Columns {
 public:
  Columns(std::string_view header, std::string where) : where_(std::move(where)) {
    const std::vector<std::string_view> names = cells_of(header);
    for (size_t i = 0; i < names.size(); ++i) {
      QUEST_CHECK(positions_.emplace(names[i], i).second, ErrorKind::kData,
                  "{}: two columns are called '{}'", where_, names[i]);
    }
    format_ = find({"format"});
    if (!format_) {
      weight_ = required({"weight_format"}, "format, or weight_format and activation_format");
      activation_ = required({"activation_format"}, "activation_format beside weight_format");
      hadamard_ = required({"hadamard"}, "hadamard beside weight_format");
    }
    params_ = required({"params", "params_non_embedding"}, "params or params_non_embedding");
    tokens_ = required({"tokens"}, "tokens");
    loss_ = required({"loss", "val_loss"}, "loss or val_loss");
  }

  ScalingRun run(std::string_view line, const std::string& where) const {
    const std::vector<std::string_view> cells = cells_of(line);
    QUEST_CHECK(cells.size() == positions_.size(), ErrorKind::kData,
                "{}: {} values, the first line names {} columns", where, cells.size(),
                positions_.size());
    ScalingRun run;
    run.source = where;
    try {
      if (format_) {
        run.format = cells[*format_];
        QUEST_CHECK(!run.format.empty(), ErrorKind::kData, "the format is empty");
      } else {
        const std::string_view hadamard = cells[hadamard_];
        QUEST_CHECK(hadamard == "0" || hadamard == "1", ErrorKind::kData,
                    "hadamard is '{}', must be 0 or 1", hadamard);
        run.format = format_of(cells[weight_], cells[activation_], hadamard == "1");
      }
      run.params = positive(cells[params_], kSoundParams);
      run.tokens = positive(cells[tokens_], kSoundTokens);
      run.loss = positive(cells[loss_], kSoundLoss);
    } catch (const Error& error) {
      throw Error(error.kind(), where + ": " + error.what());
    }
    return run;
  }

 private:
  std::optional<size_t> find(std::initializer_list<std::string_view> names) const {
    for (const std::string_view name : names) {
      if (const auto it = positions_.find(name); it != positions_.end()) return it->second;
    }
    return std::nullopt;
  }
  size_t required(std::initializer_list<std::string_view> names, std::string_view wanted) const {
    const std::optional<size_t> at = find(names);
    QUEST_CHECK(at, ErrorKind::kData, "{}: the first line names no column {}", where_, wanted);
    return *at;
  }
  static double positive(std::string_view text, const Sound& sound) {
    double value = 0;
    const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
    QUEST_CHECK(code == std::errc() && end == text.data() + text.size() && std::isfinite(value) &&
                    value > 0,
                ErrorKind::kData, "{} is '{}', must be a positive number", sound.name, text);
    check_sound(sound.name, value, sound);
    return value;
  }

  std::string where_;
  std::map<std::string_view, size_t> positions_;  // into the header line
  std::optional<size_t> format_;
  size_t weight_ = 0, activation_ = 0, hadamard_ = 0, params_ = 0, tokens_ = 0, loss_ = 0;
};

// The bits of "int4"; 16 for "bf16"; 0 for others.
int integer_bits(std::string_view format) {
  if (format == "bf16") return 16;
  if (format.size() == 4 && format.starts_with("int") && format[3] >= '1' && format[3] <= '8') {
    return format[3] - '0';
  }
  return 0;
}

}  // namespace

std::string format_of(std::string_view weight_format, std::string_view activation_format,
                      bool hadamard) {
  std::string name;
  const int weight = integer_bits(weight_format), activation = integer_bits(activation_format);
  if (weight == 16 && activation == 16) return "bf16";
  if (weight != 0 && activation != 0) {
    name = fmt::format("w{}a{}", weight, activation);
  } else if (weight_format == "fp4" && activation_format == "fp4") {
    name = "fp4";
  } else if (weight_format == "int4_sparse_4_8" && activation_format == "int4") {
    name = "int4_4of8";
  }
  QUEST_CHECK(!name.empty(), ErrorKind::kData,
              "weight_format '{}' with activation_format '{}' is not known; there are bf16, int1 "
              "to int8, fp4 with fp4, and int4_sparse_4_8 with int4",
              weight_format, activation_format);
  return hadamard ? name : name + "_nohadamard";
}

std::vector<std::pair<size_t, size_t>> repeated_runs(std::span<const ScalingRun> runs) {
  std::map<std::tuple<std::string_view, double, double, double>, size_t> seen;
  std::vector<std::pair<size_t, size_t>> repeated;
  for (size_t i = 0; i < runs.size(); ++i) {
    const ScalingRun& run = runs[i];
    const auto [first, is_new] =
        seen.try_emplace({run.format, run.params, run.tokens, run.loss}, i);
    if (!is_new) repeated.emplace_back(first->second, i);
  }
  return repeated;
}

std::vector<ScalingRun> read_run_table(const std::filesystem::path& path) {
  const std::string content = read_file(path);
  std::string_view text = content;
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  std::vector<ScalingRun> runs;
  std::optional<Columns> columns;
  int64_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = trimmed(text.substr(begin, end - begin), kSpaces);
    begin = end + 1;
    ++number;
    if (line.empty() || line.starts_with('#')) continue;
    if (!columns) {
      columns.emplace(line, path.string());
    } else {
      runs.push_back(columns->run(line, fmt::format("{} line {}", path.string(), number)));
    }
  }
  QUEST_CHECK(!runs.empty(), ErrorKind::kData, "{}: there are no runs in it", path.string());
  return runs;
}

ScalingRun read_run_summary(const std::filesystem::path& run) {
  const std::filesystem::path path = run / "summary.json";
  QUEST_CHECK(std::filesystem::exists(path), ErrorKind::kIo,
              "{}: no summary.json; is it a run's folder, and has the run ended?", run.string());
  const Json json = read_json(path);
  const std::string where = path.string();
  ScalingRun result;
  result.format = json_get<std::string>(json, "recipe", where);
  result.params = json_get<double>(json, "non_embedding_parameters", where);
  result.tokens = json_get<double>(json, "tokens", where);
  result.loss = json_get<double>(json, "validation_loss", where);
  result.source = run.string();
  for (const auto& [name, value] : {std::pair<const char*, double>{"parameters", result.params},
                                    {"tokens", result.tokens},
                                    {"validation_loss", result.loss}}) {
    QUEST_CHECK(std::isfinite(value) && value > 0, ErrorKind::kData,
                "{}: {} is {}, must be positive", where, name, value);
  }
  check_sound(where + ": validation_loss", result.loss, kSoundLoss);
  return result;
}

std::vector<ScalingRun> read_runs(std::span<const std::string> inputs) {
  std::vector<ScalingRun> runs;
  for (const std::string& input : inputs) {
    if (std::filesystem::is_directory(input)) {
      runs.push_back(read_run_summary(input));
    } else {
      const std::vector<ScalingRun> table = read_run_table(input);
      runs.insert(runs.end(), table.begin(), table.end());
    }
  }
  return runs;
}

}  // namespace quest::scaling
