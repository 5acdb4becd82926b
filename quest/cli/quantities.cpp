#include "quest/cli/quantities.h"

#include <charconv>
#include <cmath>
#include <span>
#include <string_view>

#include "quest/base/error.h"

namespace quest::cli {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

double parse(const std::string& text, std::span<const Unit> units, const std::string& flag,
             std::string_view example) {
  double value = 0;
  const char* last = text.data() + text.size();
  const auto [end, code] = std::from_chars(text.data(), last, value);
  const std::string_view unit(end, static_cast<size_t>(last - end));
  for (const Unit& known : units) {
    if (code != std::errc() || unit != known.name) continue;
    if (std::isfinite(value * known.factor) && value > 0) return value * known.factor;
  }
  QUEST_THROW(ErrorKind::kUsage, "{} is '{}', must be a number above 0 such as {}", flag, text,
              example);
}

std::string scaled(double value, std::span<const Unit> units) {
  for (const Unit& unit : units) {
    if (value >= 0.9995 * unit.factor && unit.factor > 1) {  // or it would be shown as 1000
      return fmt::format("{:.{}f}{}", value / unit.factor, value < 10 * unit.factor ? 2 : 1,
                         unit.name);
    }
  }
  return fmt::format("{:.0f}{}", value, units.back().name);
}

}  // namespace

double parse_count(const std::string& text, const std::string& flag) {
  constexpr Unit units[] = {{"", 1}, {"K", 1e3}, {"M", 1e6}, {"B", 1e9}, {"T", 1e12}};
  return parse(text, units, flag, "500M, 1.6B or 3e9");
}

double parse_bytes(const std::string& text, const std::string& flag) {
  constexpr double k = 1024;
  constexpr Unit units[] = {
      {"", 1},      {"B", 1},   {"KB", 1e3},    {"MB", 1e6},        {"GB", 1e9},
      {"TB", 1e12}, {"KiB", k}, {"MiB", k * k}, {"GiB", k * k * k}, {"TiB", k * k * k * k}};
  return parse(text, units, flag, "500MB, 1.5GB or 2GiB");
}

std::string count_text(double count) {
  constexpr Unit units[] = {{"T", 1e12}, {"B", 1e9}, {"M", 1e6}, {"K", 1e3}, {"", 1}};
  return scaled(count, units);
}

std::string bytes_text(double bytes) {
  constexpr Unit units[] = {{" TB", 1e12}, {" GB", 1e9}, {" MB", 1e6}, {" KB", 1e3}, {" B", 1}};
  return scaled(bytes, units);
}

}  // namespace quest::cli
