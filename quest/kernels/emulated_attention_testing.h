// What attention on AMX tiles needs besides tiles (x86/attention_amx_kernel.h), as plain loops.
// Tests only; header only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "quest/kernels/emulated_tiles_testing.h"

namespace quest::testing {

struct EmulatedAttention : EmulatedTiles {
  static void raise_maximum(const float* scores, float* maxima) {
    for (int c = 0; c < 32; ++c) maxima[c % 16] = std::max(maxima[c % 16], scores[c]);
  }
  static float largest(const float* maxima) { return *std::max_element(maxima, maxima + 16); }
  static float total(const float* totals) {
    float sum = 0;
    for (int c = 0; c < 16; ++c) sum += totals[c];
    return sum;
  }
  // 32 values as kPieces pieces, a block of 1024 apart.
  template <int kPieces>
  static void store_pieces(const float* values, bfloat16* out) {
    if constexpr (kPieces == 1) {
      round_row(values, out);
    } else {
      split_line(values, out);
    }
  }
  template <int kPieces>
  static void weigh(const float* scores, float factor, float offset, float* totals,
                    bfloat16* weights) {
    float weight[32];
    for (int c = 0; c < 32; ++c) {
      weight[c] = std::exp2(std::fma(scores[c], factor, -offset));
      totals[c % 16] += weight[c];
    }
    store_pieces<kPieces>(weight, weights);
  }
  template <int kPieces>
  static void differentiate(const float* scores, const float* grad_weights, float factor,
                            const float* offsets, const float* deltas, bfloat16* weights,
                            bfloat16* slopes) {
    float weight[32], slope[32];
    for (int c = 0; c < 32; ++c) {
      weight[c] = std::exp2(std::fma(scores[c], factor, -offsets[c]));
      slope[c] = weight[c] * (grad_weights[c] - deltas[c]);
    }
    store_pieces<kPieces>(weight, weights);
    store_pieces<kPieces>(slope, slopes);
  }
  template <class T>
  static void scale(const float* sums, float factor, T* out) {
    for (int c = 0; c < 32; ++c) out[c] = T(sums[c] * factor);
  }
  template <class T>
  static float dot(const T* a, const T* b, int64_t count) {
    float sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += static_cast<float>(a[i]) * static_cast<float>(b[i]);
    return sum;
  }
};

}  // namespace quest::testing
