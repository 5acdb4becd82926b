#include "quest/quant/sum_of_squares.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <vector>

namespace quest {

template <class Real>
Real sum_of_chunks(std::span<Real> chunk_sums, size_t count) {
  for (size_t half = std::bit_ceil(count) / 2; half >= 1; half /= 2) {
    for (size_t i = 0; i < half; ++i) {
      // Sums past the count are the padding: adding their zero changes nothing.
      if (i + half < count) chunk_sums[i] += chunk_sums[i + half];
    }
    count = half;
  }
  return chunk_sums[0];
}

template <class Real>
Real sum_of_squares(std::span<const Real> row) {
  if (row.empty()) return Real(0);
  const size_t chunks = (row.size() + kSumChunk - 1) / kSumChunk;
  thread_local std::vector<Real> chunk_sums;
  chunk_sums.resize(chunks);
  for (size_t c = 0; c < chunks; ++c) {
    const std::span<const Real> chunk =
        row.subspan(c * kSumChunk, std::min<size_t>(kSumChunk, row.size() - c * kSumChunk));
    std::array<Real, kSumChunk> s{};
    for (size_t i = 0; i < chunk.size(); ++i) s[i] = chunk[i] * chunk[i];
    for (size_t n = kSumChunk / 2; n >= 1; n /= 2) {
      for (size_t i = 0; i < n; ++i) s[i] = s[2 * i] + s[2 * i + 1];
    }
    chunk_sums[c] = s[0];
  }
  return sum_of_chunks<Real>(chunk_sums, chunks);
}

template float sum_of_chunks<float>(std::span<float>, size_t);
template double sum_of_chunks<double>(std::span<double>, size_t);
template float sum_of_squares<float>(std::span<const float>);
template double sum_of_squares<double>(std::span<const double>);

}  // namespace quest
