// A positive function through measured points, straight between them in ln x and ln y.
//
//   PowerCurve bytes({{30e6, 12e6}, {800e6, 180e6}}, PowerCurve::Beyond::kGoesOn);
//   bytes(100e6);
//
// Thread rules: const after construction.
#pragma once

#include <utility>
#include <vector>

namespace quest::scaling {

class PowerCurve {
 public:
  enum class Beyond {
    kGoesOn,  // as the power law of the two outermost points
    kStays,   // at the outermost value
  };
  // (x, y) in any order, all positive; at least one. Throws kUsage for none, for a value that is
  // not positive and finite, and for two points of one x. A single point is a constant.
  PowerCurve(std::vector<std::pair<double, double>> points, Beyond beyond);

  double operator()(double x) const;
  double first() const { return first_; }  // smallest x
  double last() const { return last_; }    // largest x

 private:
  std::vector<std::pair<double, double>> logs_;
  Beyond beyond_;
  double first_ = 0, last_ = 0;
};

}  // namespace quest::scaling
