// The numbers of an axis: which range is shown and where the tics stand. Used inside plot only.
#pragma once

#include <limits>
#include <vector>

#include "quest/plot/chart.h"

namespace quest::plot {

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void include(double value) {
    low = value < low ? value : low;
    high = value > high ? value : high;
  }
  void include(const Range& other) {
    include(other.low);
    include(other.high);
  }
  bool is_empty() const { return low > high; }
};

// `data` with a margin, so that no point lies on the border; the axis' own ends where it has them.
Range shown_range(const Axis& axis, Range data);

// The tics of a logarithmic axis: powers of two, or 1, 2 and 5 times powers of ten, thinned until
// their texts fit into `room` (the axis' length in em). Empty for a linear axis, whose tics gnuplot
// chooses.
std::vector<Tic> tics_of(const Axis& axis, Range shown, double room);

// "1.6B", "30M", "250": counts of parameters and tokens. "410 MB", "1.5 GB" (powers of 1000).
std::string count_text(double count);
std::string byte_text(double bytes);

}  // namespace quest::plot
