#include "quest/train/sweep.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "quest/base/error.h"
#include "quest/base/philox.h"
#include "quest/base/white_space.h"

namespace quest::train {
namespace {

// The setting of a key or of a short flag; throws kUsage for one that does not exist.
std::string full_key(std::string_view name) {
  TrainConfig config;
  for (const Setting& s : list_settings(config)) {
    if (s.key == name || s.flags == "--" + std::string(name)) return s.key;
  }
  apply_setting(config, name, "");  // throws, naming the nearest
  return std::string(name);
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  for (size_t begin = 0;;) {
    const size_t end = text.find(separator, begin);
    parts.emplace_back(trimmed(text.substr(begin, end - begin)));
    if (end == std::string_view::npos) return parts;
    begin = end + 1;
  }
}

template <class T>
std::optional<T> number(std::string_view text) {
  T value{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "key=rest" with the key in full.
std::pair<std::string, std::string_view> split_axis(std::string_view text, const char* flag) {
  const size_t equals = text.find('=');
  QUEST_CHECK(equals != std::string_view::npos, ErrorKind::kUsage,
              "{} is '{}', must be KEY=VALUES such as optimizer.lr=1e-4,3e-4", flag, text);
  std::string key = full_key(trimmed(text.substr(0, equals)));
  for (const char* own : {"run.folder", "run.name", "run.parent", "run.threads"}) {
    QUEST_CHECK(key != own, ErrorKind::kUsage, "{}: {} cannot be swept, the sweep itself sets it",
                flag, key);
  }
  return {std::move(key), trimmed(text.substr(equals + 1))};
}

std::vector<std::string> parse_values(std::string_view text, const std::string& key) {
  std::vector<std::string> values = split(text, ',');
  std::set<std::string_view> seen;
  for (const std::string& value : values) {
    QUEST_CHECK(!value.empty(), ErrorKind::kUsage, "{}: an empty value in '{}'", key, text);
    QUEST_CHECK(value.find_first_of("\"\n\r") == std::string::npos, ErrorKind::kUsage,
                "{}: the value '{}' holds a quote or a line's end", key, value);
    QUEST_CHECK(seen.insert(value).second, ErrorKind::kUsage, "{}: the value '{}' is given twice",
                key, value);
  }
  return values;
}

template <class Axis>
void put(std::vector<Axis>& axes, Axis axis) {
  const auto same = std::find_if(axes.begin(), axes.end(),
                                 [&](const Axis& other) { return other.key == axis.key; });
  if (same == axes.end()) {
    axes.push_back(std::move(axis));
  } else {
    *same = std::move(axis);
  }
}

std::string text_of(const TomlValue& value) {
  const auto* text = std::get_if<std::string>(&value);
  return text ? *text : toml_text(value);
}

std::vector<int64_t> parse_rungs(const std::string& text) {
  std::vector<int64_t> rungs;
  for (const std::string& part : split(text, ',')) {
    const std::optional<int64_t> steps = number<int64_t>(part);
    QUEST_CHECK(steps, ErrorKind::kUsage, "rungs is '{}', must be steps such as 100,300,900", text);
    rungs.push_back(*steps);
  }
  return rungs;
}

void take_entry(const TomlEntry& entry, std::string_view rest, Sweep& sweep) {
  const auto whole = [&](int64_t low) {
    const auto* value = std::get_if<int64_t>(&entry.value);
    QUEST_CHECK(value && *value >= low, ErrorKind::kUsage,
                "{} is {}, must be a whole number of at least {}", entry.key,
                toml_text(entry.value), low);
    return *value;
  };
  if (rest.starts_with("grid.")) {
    put(sweep.grid, parse_grid(std::string(rest.substr(5)) + "=" + text_of(entry.value)));
  } else if (rest.starts_with("random.")) {
    put(sweep.random, parse_random(std::string(rest.substr(7)) + "=" + text_of(entry.value)));
  } else if (rest == "trials") {
    sweep.trials = whole(0);
  } else if (rest == "seed") {
    sweep.seed = whole(0);
  } else if (rest == "eta") {
    sweep.eta = whole(2);
  } else if (rest == "rungs") {
    sweep.rungs = parse_rungs(text_of(entry.value));
  } else if (rest == "halving") {
    const auto* value = std::get_if<bool>(&entry.value);
    QUEST_CHECK(value, ErrorKind::kUsage, "{} is {}, must be true or false", entry.key,
                toml_text(entry.value));
    sweep.halving = *value;
  } else {
    QUEST_THROW(ErrorKind::kUsage,
                "unknown setting '{}'; [sweep] has trials, seed, halving, eta, rungs, and the "
                "tables [sweep.grid] and [sweep.random]",
                entry.key);
  }
}

std::string random_text(const RandomAxis& axis) {
  if (axis.kind == "choice") return fmt::format("{}", fmt::join(axis.values, ","));
  return fmt::format("{}:{}:{}", axis.kind, axis.low, axis.high);
}

// The value of one draw, as a setting's text.
std::string draw(const RandomAxis& axis, size_t index, int64_t seed, int64_t number_of_draw) {
  const Philox random(static_cast<uint64_t>(seed), 1000 + index);
  const auto at = static_cast<uint64_t>(number_of_draw);
  if (axis.kind == "choice") return axis.values[random.below(at, axis.values.size())];
  if (axis.kind == "int") {
    const auto count = static_cast<uint64_t>(axis.high - axis.low) + 1;
    return fmt::format(
        "{}", static_cast<int64_t>(axis.low) + static_cast<int64_t>(random.below(at, count)));
  }
  const double part = random.uniform(at);
  const double value =
      axis.kind == "log"
          ? std::exp(std::log(axis.low) + part * (std::log(axis.high) - std::log(axis.low)))
          : axis.low + part * (axis.high - axis.low);
  return fmt::format("{:.4g}", value);  // short to read; digits beyond decide nothing
}

bool is_length(std::string_view key) {
  return key == "train.steps" || key == "train.tokens" || key == "train.epochs";
}

void check_axes(const Sweep& sweep) {
  QUEST_CHECK(!sweep.grid.empty() || !sweep.random.empty(), ErrorKind::kUsage,
              "a sweep needs at least one axis: --grid KEY=a,b or --random KEY=log:low:high");
  QUEST_CHECK(sweep.random.empty() || sweep.trials > 0, ErrorKind::kUsage,
              "random axes need the number of draws: --trials");
  QUEST_CHECK(!sweep.random.empty() || sweep.trials == 0, ErrorKind::kUsage,
              "--trials {} is of random axes (--random), there are none: the grid says how many "
              "trials there are",
              sweep.trials);
  std::set<std::string_view> keys;
  const auto add = [&](const std::string& key) {
    QUEST_CHECK(keys.insert(key).second, ErrorKind::kUsage, "{} is on two axes", key);
    QUEST_CHECK(!sweep.halving || !is_length(key), ErrorKind::kUsage,
                "{} cannot be swept with halving, whose rungs say how long to train", key);
  };
  for (const GridAxis& axis : sweep.grid) add(axis.key);
  for (const RandomAxis& axis : sweep.random) add(axis.key);
}

}  // namespace

GridAxis parse_grid(std::string_view text) {
  const auto [key, values] = split_axis(text, "--grid");
  return {key, parse_values(values, key)};
}

RandomAxis parse_random(std::string_view text) {
  const auto [key, range] = split_axis(text, "--random");
  const std::vector<std::string> parts = split(range, ':');
  RandomAxis axis;
  axis.key = key;
  axis.kind = parts.front();
  if (axis.kind != "log" && axis.kind != "uniform" && axis.kind != "int") {
    axis.kind = "choice";
    axis.values = parse_values(range, key);
    return axis;
  }
  const std::optional<double> low = parts.size() == 3 ? number<double>(parts[1]) : std::nullopt;
  const std::optional<double> high = parts.size() == 3 ? number<double>(parts[2]) : std::nullopt;
  QUEST_CHECK(low && high && std::isfinite(*low) && std::isfinite(*high), ErrorKind::kUsage,
              "--random {} is '{}', must be {}:LOW:HIGH", key, range, axis.kind);
  QUEST_CHECK(*low < *high, ErrorKind::kUsage, "--random {}: {} is not below {}", key, *low, *high);
  QUEST_CHECK(axis.kind != "log" || *low > 0, ErrorKind::kUsage,
              "--random {}: log needs ends above 0, the lower is {}", key, *low);
  QUEST_CHECK(axis.kind != "int" || (*low == std::floor(*low) && *high == std::floor(*high) &&
                                     std::fabs(*low) < 1e15 && std::fabs(*high) < 1e15),
              ErrorKind::kUsage, "--random {}: int needs whole numbers, not {} and {}", key, *low,
              *high);
  axis.low = *low;
  axis.high = *high;
  return axis;
}

void take_sweep(TomlTable& table, Sweep& sweep) {
  constexpr std::string_view kPrefix = "sweep.";
  TomlTable rest;
  for (TomlEntry& entry : table) {
    if (!entry.key.starts_with(kPrefix)) {
      rest.push_back(std::move(entry));
      continue;
    }
    try {
      take_entry(entry, std::string_view(entry.key).substr(kPrefix.size()), sweep);
    } catch (const Error& error) {
      throw Error(error.kind(), entry.place + ": " + error.what());
    }
  }
  table = std::move(rest);
}

std::string sweep_to_toml(const Sweep& sweep) {
  std::string out = fmt::format("[sweep]\ntrials = {}\nseed = {}\nhalving = {}\neta = {}\n",
                                sweep.trials, sweep.seed, sweep.halving, sweep.eta);
  if (!sweep.rungs.empty()) out += fmt::format("rungs = \"{}\"\n", fmt::join(sweep.rungs, ","));
  if (!sweep.grid.empty()) out += "[sweep.grid]\n";
  for (const GridAxis& axis : sweep.grid) {
    out += fmt::format("{} = {}\n", axis.key,
                       toml_text(fmt::format("{}", fmt::join(axis.values, ","))));
  }
  if (!sweep.random.empty()) out += "[sweep.random]\n";
  for (const RandomAxis& axis : sweep.random) {
    out += fmt::format("{} = {}\n", axis.key, toml_text(random_text(axis)));
  }
  return out;
}

std::vector<Trial> plan_trials(const Sweep& sweep) {
  check_axes(sweep);
  std::vector<Trial> trials;
  const int64_t draws = sweep.random.empty() ? 1 : sweep.trials;
  int64_t points = 1;
  for (const GridAxis& axis : sweep.grid) points *= static_cast<int64_t>(axis.values.size());
  QUEST_CHECK(points * draws <= 100000, ErrorKind::kUsage, "a sweep of {} trials is too large",
              points * draws);
  for (int64_t i = 0; i < draws * points; ++i) {
    Trial trial;
    trial.name = fmt::format("{:03}", i + 1);
    int64_t rest = i % points;
    for (size_t a = sweep.grid.size(); a-- > 0;) {
      const auto& values = sweep.grid[a].values;
      const auto count = static_cast<int64_t>(values.size());
      trial.settings.emplace(trial.settings.begin(), sweep.grid[a].key,
                             values[static_cast<size_t>(rest % count)]);
      rest /= count;
    }
    for (size_t a = 0; a < sweep.random.size(); ++a) {
      trial.settings.emplace_back(sweep.random[a].key,
                                  draw(sweep.random[a], a, sweep.seed, i / points));
    }
    trials.push_back(std::move(trial));
  }
  return trials;
}

std::string settings_text(const Trial& trial) {
  std::string out;
  for (const auto& [key, value] : trial.settings) {
    out += fmt::format("{}{}={}", out.empty() ? "" : " ", key, value);
  }
  return out;
}

TrainConfig trial_config(const TrainConfig& base, const Trial& trial) {
  TrainConfig config = base;
  try {
    for (const Setting& s : list_settings(config)) {
      for (const auto& [key, value] : trial.settings) {
        if (key == s.key) apply_setting(config, key, value);
      }
    }
  } catch (const Error& error) {
    QUEST_THROW(error.kind(), "trial {} ({}): {}", trial.name, settings_text(trial), error.what());
  }
  return config;
}

std::vector<Rung> halving_rungs(const Sweep& sweep, int64_t trials, int64_t total_steps) {
  QUEST_CHECK(sweep.eta >= 2, ErrorKind::kUsage, "eta is {}, must be at least 2", sweep.eta);
  std::vector<int64_t> steps = sweep.rungs;
  if (steps.empty()) {
    QUEST_CHECK(
        total_steps > 0, ErrorKind::kUsage,
        "halving needs the steps of its rungs (--rungs 100,300,900) or train.steps (--steps)");
    steps.push_back(total_steps);
    for (int64_t left = trials; left >= sweep.eta && steps.front() / sweep.eta > 0;
         left /= sweep.eta) {
      steps.insert(steps.begin(), steps.front() / sweep.eta);
    }
  }
  std::vector<Rung> rungs;
  int64_t count = trials;
  for (const int64_t s : steps) {
    QUEST_CHECK(s > (rungs.empty() ? 0 : rungs.back().steps), ErrorKind::kUsage,
                "rungs are {}: steps above 0 that rise are expected", fmt::join(steps, ","));
    rungs.push_back({s, count});
    count = std::max<int64_t>(1, count / sweep.eta);
  }
  return rungs;
}

std::vector<size_t> promoted(std::span<const std::optional<double>> losses, int64_t count) {
  std::vector<size_t> order;
  for (size_t i = 0; i < losses.size(); ++i) {
    if (losses[i]) order.push_back(i);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return *losses[a] < *losses[b]; });
  order.resize(std::min(order.size(), static_cast<size_t>(count)));
  std::sort(order.begin(), order.end());
  return order;
}

bool goes_on_from_checkpoint(const TrainConfig& config) {
  return config.schedule.name == "constant" &&
         (config.schedule.warmup_steps > 0 || config.schedule.warmup_fraction == 0);
}

}  // namespace quest::train
