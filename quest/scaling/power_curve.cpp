#include "quest/scaling/power_curve.h"

#include <algorithm>
#include <cmath>

#include "quest/base/error.h"

namespace quest::scaling {

PowerCurve::PowerCurve(std::vector<std::pair<double, double>> points, Beyond beyond)
    : beyond_(beyond) {
  QUEST_CHECK(!points.empty(), ErrorKind::kUsage, "a curve needs at least one point");
  std::sort(points.begin(), points.end());
  for (const auto& [x, y] : points) {
    QUEST_CHECK(x > 0 && y > 0 && std::isfinite(x) && std::isfinite(y), ErrorKind::kUsage,
                "a curve's point is ({}, {}), must be positive", x, y);
    QUEST_CHECK(logs_.empty() || std::log(x) > logs_.back().first, ErrorKind::kUsage,
                "two points of a curve have the same place {}", x);
    logs_.emplace_back(std::log(x), std::log(y));
  }
  first_ = points.front().first;
  last_ = points.back().first;
}

double PowerCurve::operator()(double x) const {
  if (logs_.size() == 1) return std::exp(logs_.front().second);
  double at = std::log(x);
  if (beyond_ == Beyond::kStays) at = std::clamp(at, logs_.front().first, logs_.back().first);
  const auto above = std::upper_bound(logs_.begin() + 1, logs_.end() - 1, std::pair(at, HUGE_VAL));
  const auto& [x1, y1] = *above;
  const auto& [x0, y0] = *(above - 1);
  return std::exp(y0 + (at - x0) / (x1 - x0) * (y1 - y0));
}

}  // namespace quest::scaling
