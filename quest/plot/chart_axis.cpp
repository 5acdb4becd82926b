#include "quest/plot/chart_axis.h"

#include <array>
#include <cmath>

#include "quest/base/error.h"

namespace quest::plot {
namespace {

constexpr size_t kMostTics = 8;

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

std::vector<Tic> tics_of(const Axis& axis, Range shown) {
  if (!axis.log) return {};
  if (axis.numbers == Numbers::kPowersOfTwo) return powers_of_two(axis, shown);
  std::vector<Tic> tics = decades(axis, shown, {1, 2, 5});
  if (tics.size() > kMostTics) tics = decades(axis, shown, {1});
  if (tics.size() > kMostTics) {
    const size_t stride = (tics.size() + kMostTics - 1) / kMostTics;
    std::vector<Tic> thinned;
    for (size_t i = 0; i < tics.size(); i += stride) thinned.push_back(tics[i]);
    return thinned;
  }
  // Less than one step of 1, 2, 5: all whole factors.
  return tics.size() >= 2 ? tics : decades(axis, shown, {1, 2, 3, 4, 5, 6, 7, 8, 9});
}

std::string count_text(double count) { return with_unit(count, "", {"", "K", "M", "B", "T"}); }

std::string byte_text(double bytes) { return with_unit(bytes, " ", {"B", "KB", "MB", "GB", "TB"}); }

}  // namespace quest::plot
