#include "quest/plot/chart_axis.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "quest/base/error.h"

namespace quest::plot {
namespace {

constexpr double kLetterEm = 0.7;  // width of a letter, rounded up

std::string with_unit(double value, std::string_view space,
                      const std::array<std::string_view, 5>& units) {
  size_t unit = 0;
  while (unit + 1 < units.size() && value >= 999.5) {
    value /= 1000;
    ++unit;
  }
  return fmt::format("{:.3g}{}{}", value, units[unit].empty() ? "" : space, units[unit]);
}

std::string tic_text(Numbers numbers, double value) {
  switch (numbers) {
    case Numbers::kBytes:
      return byte_text(value);
    case Numbers::kCounts:
      return count_text(value);
    case Numbers::kPlain:
    case Numbers::kPowersOfTwo:
      break;
  }
  return fmt::format("{:g}", value);
}

std::vector<Tic> powers_of_two(const Axis& axis, Range shown) {
  std::vector<Tic> tics;
  const int first = static_cast<int>(std::ceil(std::log2(shown.low) - 1e-9));
  const int last = static_cast<int>(std::floor(std::log2(shown.high) + 1e-9));
  const int stride = 1 + (last - first) / 6;
  for (int power = first; power <= last; power += stride) {
    const double at = std::exp2(power);
    tics.push_back({at, tic_text(axis.numbers, at)});
  }
  return tics;
}

std::vector<Tic> decades(const Axis& axis, Range shown, const std::vector<int>& factors) {
  std::vector<Tic> tics;
  for (int power = static_cast<int>(std::floor(std::log10(shown.low)));
       std::pow(10.0, power) <= shown.high; ++power) {
    for (const int factor : factors) {
      const double at = factor * std::pow(10.0, power);
      if (at >= shown.low && at <= shown.high) tics.push_back({at, tic_text(axis.numbers, at)});
    }
  }
  return tics;
}

}  // namespace

Range shown_range(const Axis& axis, Range data) {
  if (axis.log) {
    const double margin = data.high > data.low ? std::pow(data.high / data.low, 0.04) : 1.5;
    data = {data.low / margin, data.high * margin};
  } else {
    const double span = data.high - data.low;
    const double margin = span > 0 ? 0.04 * span : data.high == 0 ? 1 : 0.1 * std::fabs(data.high);
    data = {data.low - margin, data.high + margin};
  }
  return {axis.low.value_or(data.low), axis.high.value_or(data.high)};
}

std::vector<Tic> tics_of(const Axis& axis, Range shown, double room) {
  if (!axis.log) return {};
  if (axis.numbers == Numbers::kPowersOfTwo) return powers_of_two(axis, shown);
  const auto fits = [&](const std::vector<Tic>& tics) {
    size_t longest = 0;
    for (const Tic& tic : tics) longest = std::max(longest, tic.text.size());
    return static_cast<double>(tics.size()) * (kLetterEm * static_cast<double>(longest) + 0.5) <=
           room;
  };
  std::vector<Tic> tics = decades(axis, shown, {1, 2, 5});
  if (tics.size() < 2) return decades(axis, shown, {1, 2, 3, 4, 5, 6, 7, 8, 9});
  if (!fits(tics)) tics = decades(axis, shown, {1});
  while (!fits(tics) && tics.size() > 2) {
    std::vector<Tic> thinned;
    for (size_t i = 0; i < tics.size(); i += 2) thinned.push_back(tics[i]);
    tics = thinned;
  }
  return tics;
}

std::string count_text(double count) { return with_unit(count, "", {"", "K", "M", "B", "T"}); }

std::string byte_text(double bytes) { return with_unit(bytes, " ", {"B", "KB", "MB", "GB", "TB"}); }

}  // namespace quest::plot
