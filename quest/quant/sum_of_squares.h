// The one reduction tree of a row's sum of squares, the same on every device.
//
// The row is cut into chunks of 128 values, the last padded with zeros. Within a chunk the squares are
// added pairwise, neighbours first: s[i] = s[2i] + s[2i+1], seven times (low index bits first; on a GPU
// a thread holds 8 consecutive values and then exchanges with its neighbours). The chunk sums, padded
// with zeros to a power of two P, are added as p[i] += p[i + h] for h = P/2, ..., 1. Every operation is
// one IEEE rounding; no fused multiply-add.
#pragma once

#include <span>

namespace quest {

template <class Real>
Real sum_of_squares(std::span<const Real> row);

}  // namespace quest
