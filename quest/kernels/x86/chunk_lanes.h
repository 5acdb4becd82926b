// A chunk of a row's sum of squares (quest/quant/sum_of_squares.h) in 8 vectors of 16 lanes L.
#pragma once

#include <cstdint>

#include "quest/kernels/x86/lane.h"

namespace quest::kernels {
// Internal linkage: each level's file has its own copy.
namespace {

constexpr int64_t kChunk = 128;
constexpr int kVectors = 8;  // of 16 lanes in a chunk

// The values from x on, of which n are left in the row; zeros past its end.
template <class L, class T>
QUEST_LANE void load_chunk(const T* x, int64_t n, typename L::F* v) {
  if (n >= kChunk) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) v[i] = L::load(x + i * L::kWidth);
    return;
  }
  for (int i = 0; i < kVectors; ++i) {
    const int64_t left = n - i * L::kWidth;
    v[i] = left >= L::kWidth ? L::load(x + i * L::kWidth)
           : left > 0        ? L::load_partial(x + i * L::kWidth, static_cast<int>(left))
                             : L::zero();
  }
}

}  // namespace
}  // namespace quest::kernels
