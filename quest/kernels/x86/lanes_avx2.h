// 16 floats in two 256-bit registers: the interface and the bits of lanes_avx512.h.
#pragma once

#include <cstdint>
#include <immintrin.h>

#include "quest/base/bfloat16.h"

namespace quest::kernels::avx2 {

using Mask16 = uint16_t;

struct F32x16 {
  __m256 low, high;

  static constexpr int kSize = 16;

  static F32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F32x16 broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F32x16 load(const bfloat16* p) { return {widen(p), widen(p + 8)}; }
  // The first `count` (0 to 16) values; the other lanes are `fill`. Reads nothing past them.
  static F32x16 load_partial(const float* p, int64_t count, float fill = 0.0f) {
    alignas(32) float buffer[kSize];
    for (int i = 0; i < kSize; ++i) buffer[i] = fill;
    for (int64_t i = 0; i < count; ++i) buffer[i] = p[i];
    return load(buffer);
  }
  static F32x16 load_partial(const bfloat16* p, int64_t count, float fill = 0.0f) {
    bfloat16 buffer[kSize];
    for (int64_t i = 0; i < count; ++i) buffer[i].bits = p[i].bits;
    for (int64_t i = count; i < kSize; ++i) buffer[i].bits = 0;
    alignas(32) float values[kSize];
    load(buffer).store(values);
    for (int64_t i = count; i < kSize; ++i) values[i] = fill;
    return load(values);
  }

  void store(float* p) const {
    _mm256_storeu_ps(p, low);
    _mm256_storeu_ps(p + 8, high);
  }
  void store(bfloat16* p) const {
    const __m256i packed = _mm256_packus_epi32(narrow(low), narrow(high));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
  }
  // Writes the first `count` lanes and nothing else.
  void store_partial(float* p, int64_t count) const {
    alignas(32) float buffer[kSize];
    store(buffer);
    for (int64_t i = 0; i < count; ++i) p[i] = buffer[i];
  }
  void store_partial(bfloat16* p, int64_t count) const {
    bfloat16 buffer[kSize];
    store(buffer);
    for (int64_t i = 0; i < count; ++i) p[i].bits = buffer[i].bits;
  }

 private:
  static __m256 widen(const bfloat16* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  // The rounding of base/bfloat16.h, in the low halves of 32-bit lanes.
  static __m256i narrow(__m256 x) {
    const __m256i u = _mm256_castps_si256(x);
    const __m256i high_bits = _mm256_srli_epi32(u, 16);
    const __m256i odd = _mm256_and_si256(high_bits, _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(
        _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
    const __m256i quiet = _mm256_or_si256(high_bits, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, quiet, nan);
  }
};

inline F32x16 operator+(F32x16 a, F32x16 b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline F32x16 operator-(F32x16 a, F32x16 b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline F32x16 operator*(F32x16 a, F32x16 b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline F32x16 operator/(F32x16 a, F32x16 b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
// a * b + c with one rounding.
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline F32x16 sqrt(F32x16 a) { return {_mm256_sqrt_ps(a.low), _mm256_sqrt_ps(a.high)}; }
inline F32x16 abs(F32x16 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
// If either lane is NaN, the result is b's lane.
inline F32x16 min(F32x16 a, F32x16 b) {
  return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline F32x16 max(F32x16 a, F32x16 b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
// To the nearest integer, ties to even.
inline F32x16 round_even(F32x16 a) {
  return {_mm256_round_ps(a.low, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(a.high, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

namespace detail {
inline Mask16 mask_of(__m256 low, __m256 high) {
  return static_cast<Mask16>(_mm256_movemask_ps(low) | (_mm256_movemask_ps(high) << 8));
}
// All ones in lane i of 8 where bit i is set.
inline __m256 lanes_of(int mask) {
  const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i set = _mm256_and_si256(_mm256_set1_epi32(mask), bits);
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, bits));
}
}  // namespace detail

// Comparisons with NaN are false.
inline Mask16 less(F32x16 a, F32x16 b) {
  return detail::mask_of(_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ),
                         _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ));
}
inline Mask16 less_equal(F32x16 a, F32x16 b) {
  return detail::mask_of(_mm256_cmp_ps(a.low, b.low, _CMP_LE_OQ),
                         _mm256_cmp_ps(a.high, b.high, _CMP_LE_OQ));
}
inline Mask16 equal(F32x16 a, F32x16 b) {
  return detail::mask_of(_mm256_cmp_ps(a.low, b.low, _CMP_EQ_OQ),
                         _mm256_cmp_ps(a.high, b.high, _CMP_EQ_OQ));
}
// Lane i: yes where bit i of the mask is set, else no.
inline F32x16 select(Mask16 mask, F32x16 yes, F32x16 no) {
  return {_mm256_blendv_ps(no.low, yes.low, detail::lanes_of(mask)),
          _mm256_blendv_ps(no.high, yes.high, detail::lanes_of(mask >> 8))};
}

namespace detail {
inline __m256 scale_8(__m256 x, __m256 n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i rest = _mm256_sub_epi32(whole, half);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  const __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
  return _mm256_mul_ps(_mm256_mul_ps(x, first), second);
}
}  // namespace detail

// x * 2^n for integral n in [-252, 254], in two factors: subnormal results are rounded once more at
// most, overflow gives infinity.
inline F32x16 scale_by_power_of_two(F32x16 x, F32x16 n) {
  return {detail::scale_8(x.low, n.low), detail::scale_8(x.high, n.high)};
}

// Sum and maximum over the lanes as a tree: lane i with i + 8, then i + 4, i + 2, i + 1.
inline float reduce_add(F32x16 a) {
  const __m256 s8 = _mm256_add_ps(a.low, a.high);
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
inline float reduce_max(F32x16 a) {
  const __m256 s8 = _mm256_max_ps(a.low, a.high);
  const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}

}  // namespace quest::kernels::avx2
