// The operations of deploy.h over 16 lanes L (scalar/lanes_scalar.h, x86/lanes_avx2.h,
// x86/lanes_avx512.h). L::kAccumulators decides only how many results are computed side by side,
// never the order of one of them.
#pragma once

#include "quest/kernels/deploy_attend.h"
#include "quest/kernels/deploy_levels.h"
#include "quest/kernels/x86/chunk_lanes.h"
#include "quest/kernels/x86/exp.h"
#include "quest/kernels/x86/rms_norm_body.h"
#include "quest/kernels/x86/swiglu_body.h"

namespace quest::kernels::detail {

template <class L>
void square_chunks_lanes(const float* x, int64_t c, float* chunk_sums) {
  for (int64_t start = 0; start < c; start += kChunk) {
    typename L::F v[kVectors];
    load_chunk<L>(x + start, c - start, v);
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) v[i] = L::mul(v[i], v[i]);
    *chunk_sums++ = L::sum_neighbours_128(v);
  }
}

template <class L>
void add_lanes(const float* x, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + L::kWidth <= n; i += L::kWidth) {
    L::store(y + i, L::add(L::load(y + i), L::load(x + i)));
  }
  for (; i < n; ++i) y[i] += x[i];
}

template <class L>
float largest_lanes(const float* x, int64_t n) {
  using F = typename L::F;
  F largest = L::set1(x[0]);
  int64_t i = 0;
  for (; i + L::kWidth <= n; i += L::kWidth) largest = L::max(largest, L::load(x + i));
  float result = L::maximum(largest);
  for (; i < n; ++i) result = result > x[i] ? result : x[i];
  return result;
}

// Chunks of 1024 values: in each, 16 lanes add up in order and then as a tree; chunks add up in
// double.
template <class L>
double sum_exp_lanes(const float* x, int64_t n, float largest) {
  using F = typename L::F;
  constexpr int64_t kChunk = 1024;
  const F shift = L::set1(largest);
  double total = 0;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t end = begin + kChunk < n ? begin + kChunk : n;
    F sum = L::zero();
    int64_t i = begin;
    for (; i + L::kWidth <= end; i += L::kWidth) {
      sum = L::add(sum, exp_lanes<L>(L::sub(L::load(x + i), shift)));
    }
    if (i < end) {
      const int rest = static_cast<int>(end - i);
      const typename L::M inside = L::from_bits(static_cast<uint16_t>((1u << rest) - 1u));
      const F values = exp_lanes<L>(L::sub(L::load_partial(x + i, rest), shift));
      sum = L::add(sum, L::select(inside, values, L::zero()));
    }
    total += static_cast<double>(L::sum(sum));
  }
  return total;
}

template <class L>
struct DeployTable {
  static constexpr DeployLevel kLevel{
      &square_chunks_lanes<L>, &scale_lanes<L, float>, &swiglu_lanes<L, float>, &add_lanes<L>,
      &largest_lanes<L>,       &sum_exp_lanes<L>,      &append_kv_lanes<L>,     &attend_lanes<L>};
};

}  // namespace quest::kernels::detail
