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
  static void weigh(const float* scores, float factor, float offset, float* totals,
                    bfloat16* weights) {
    for (int c = 0; c < 32; ++c) {
      const float weight = std::exp2(std::fma(scores[c], factor, -offset));
      totals[c % 16] += weight;
      weights[c] = bfloat16(weight);
    }
  }
  static void differentiate(const float* scores, const float* grad_weights, float factor,
                            const float* offsets, const float* deltas, bfloat16* weights,
                            bfloat16* slopes) {
    for (int c = 0; c < 32; ++c) {
      const float weight = std::exp2(std::fma(scores[c], factor, -offsets[c]));
      weights[c] = bfloat16(weight);
      slopes[c] = bfloat16(weight * (grad_weights[c] - deltas[c]));
    }
  }
  static void scale(const float* sums, float factor, bfloat16* out) {
    for (int c = 0; c < 32; ++c) out[c] = bfloat16(sums[c] * factor);
  }
  static float dot(const bfloat16* a, const bfloat16* b, int64_t count) {
    float sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += static_cast<float>(a[i]) * static_cast<float>(b[i]);
    return sum;
  }
};

}  // namespace quest::testing
