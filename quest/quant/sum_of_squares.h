// The one reduction tree of a row's sum of squares, the same on every device.
//
// The row is cut into chunks of 128 values, the last padded with zeros. Within a chunk the squares
// are added pairwise, neighbours first: s[i] = s[2i] + s[2i+1], seven times (low index bits first;
// on a GPU a thread holds 8 consecutive values and then exchanges with its neighbours). The chunk
// sums, padded with zeros to a power of two P, are added as p[i] += p[i + h] for h = P/2, ..., 1.
// Every operation is one IEEE rounding; no fused multiply-add.
//
//   const float rms = std::sqrt(sum_of_squares<float>(row) / float(row.size()));
#pragma once

#include <cstddef>
#include <span>

namespace quest {

inline constexpr size_t kSumChunk = 128;

// Real is float or double. 0 for an empty row.
template <class Real>
Real sum_of_squares(std::span<const Real> row);

// The second half of the tree, for kernels that make the chunk sums themselves. Overwrites the
// sums; count is at least 1 and at most the span's size.
template <class Real>
Real sum_of_chunks(std::span<Real> chunk_sums, size_t count);

}  // namespace quest
