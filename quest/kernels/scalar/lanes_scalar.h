// 16 float lanes in plain C++: the interface and the results of x86/lanes_avx512.h (see there for
// the contract), for any CPU. What a body over lanes means is what it computes with these.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/base/float16.h"
#include "quest/kernels/x86/lane.h"

namespace quest::kernels::scalar {

struct Lanes {
  static constexpr int kWidth = 16;
  static constexpr int kAccumulators = 4;
  struct F {
    float v[kWidth];
  };
  struct I {
    int32_t v[kWidth];
  };
  struct M {
    bool v[kWidth];
  };

  QUEST_LANE F zero() { return set1(0.0f); }
  QUEST_LANE F set1(float x) {
    F f;
    for (float& value : f.v) value = x;
    return f;
  }
  QUEST_LANE F load(const float* p) {
    F f;
    for (int i = 0; i < kWidth; ++i) f.v[i] = p[i];
    return f;
  }
  QUEST_LANE F load_partial(const float* p, int n) {
    F f = zero();
    for (int i = 0; i < n; ++i) f.v[i] = p[i];
    return f;
  }
  QUEST_LANE F load_half(const uint16_t* p) {
    F f;
    for (int i = 0; i < kWidth; ++i) f.v[i] = half_to_float(p[i]);
    return f;
  }
  QUEST_LANE void store(float* p, F x) {
    for (int i = 0; i < kWidth; ++i) p[i] = x.v[i];
  }
  QUEST_LANE void store_partial(float* p, F x, int n) {
    for (int i = 0; i < n; ++i) p[i] = x.v[i];
  }
  QUEST_LANE void store_half(uint16_t* p, F x) {
    for (int i = 0; i < kWidth; ++i) p[i] = float_to_half(x.v[i]);
  }

  QUEST_LANE F add(F a, F b) {
    for (int i = 0; i < kWidth; ++i) a.v[i] += b.v[i];
    return a;
  }
  QUEST_LANE F sub(F a, F b) {
    for (int i = 0; i < kWidth; ++i) a.v[i] -= b.v[i];
    return a;
  }
  QUEST_LANE F mul(F a, F b) {
    for (int i = 0; i < kWidth; ++i) a.v[i] *= b.v[i];
    return a;
  }
  QUEST_LANE F div(F a, F b) {
    for (int i = 0; i < kWidth; ++i) a.v[i] /= b.v[i];
    return a;
  }
  QUEST_LANE F fma(F a, F b, F c) {
    for (int i = 0; i < kWidth; ++i) c.v[i] = __builtin_fmaf(a.v[i], b.v[i], c.v[i]);
    return c;
  }
  QUEST_LANE F min(F a, F b) {
    for (int i = 0; i < kWidth; ++i) a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
    return a;
  }
  QUEST_LANE F max(F a, F b) {
    for (int i = 0; i < kWidth; ++i) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
    return a;
  }
  QUEST_LANE F abs(F a) {
    for (int i = 0; i < kWidth; ++i) a.v[i] = __builtin_fabsf(a.v[i]);
    return a;
  }
  QUEST_LANE F round_even(F a) {
    for (int i = 0; i < kWidth; ++i) a.v[i] = __builtin_rintf(a.v[i]);
    return a;
  }

  QUEST_LANE M from_bits(uint16_t b) {
    M m;
    for (int i = 0; i < kWidth; ++i) m.v[i] = (b >> i & 1) != 0;
    return m;
  }
  QUEST_LANE F select(M m, F if_true, F if_false) {
    for (int i = 0; i < kWidth; ++i) if_false.v[i] = m.v[i] ? if_true.v[i] : if_false.v[i];
    return if_false;
  }

  QUEST_LANE I set1_int(int32_t x) {
    I f;
    for (int32_t& value : f.v) value = x;
    return f;
  }
  QUEST_LANE I add_int(I a, I b) {
    for (int i = 0; i < kWidth; ++i) a.v[i] += b.v[i];
    return a;
  }
  template <int n>
  QUEST_LANE I shift_left(I a) {
    for (int i = 0; i < kWidth; ++i) {
      a.v[i] = static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << n);
    }
    return a;
  }
  QUEST_LANE I to_int(F a) {  // nearest, ties to even; out of range and NaN as the CPU's: INT32_MIN
    I f;
    for (int i = 0; i < kWidth; ++i) {
      const float rounded = __builtin_rintf(a.v[i]);
      const bool fits = rounded >= -0x1p31f && rounded < 0x1p31f;
      f.v[i] = fits ? static_cast<int32_t>(rounded) : INT32_MIN;
    }
    return f;
  }
  QUEST_LANE F to_float(I a) {
    F f;
    for (int i = 0; i < kWidth; ++i) f.v[i] = static_cast<float>(a.v[i]);
    return f;
  }
  QUEST_LANE F as_float(I a) { return __builtin_bit_cast(F, a); }
  QUEST_LANE I load_i8(const int8_t* p) {
    I f;
    for (int i = 0; i < kWidth; ++i) f.v[i] = p[i];
    return f;
  }
  QUEST_LANE void store_i8(int8_t* p, I a) {  // lanes within int8
    for (int i = 0; i < kWidth; ++i) p[i] = static_cast<int8_t>(a.v[i]);
  }

  QUEST_LANE float sum(F a) {
    for (int half = kWidth / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
    }
    return a.v[0];
  }
  QUEST_LANE float sum_neighbours_128(const F* s) {
    float sums[8 * kWidth];
    for (int i = 0; i < 8 * kWidth; ++i) sums[i] = s[i / kWidth].v[i % kWidth];
    for (int n = 4 * kWidth; n > 0; n /= 2) {
      for (int i = 0; i < n; ++i) sums[i] = sums[2 * i] + sums[2 * i + 1];
    }
    return sums[0];
  }
  QUEST_LANE float maximum(F a) {
    for (int half = kWidth / 2; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    }
    return a.v[0];
  }
};

}  // namespace quest::kernels::scalar
