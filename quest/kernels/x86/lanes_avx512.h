// 16 floats in one 512-bit register: the vector type of kernels written once for all levels
// (x86/<operation>_body.h as templates over F32x16). lanes_avx2.h has the same interface and gives
// the same bits; each lives in a namespace of its own, so that code compiled for one level is never
// linked into another. Include it only from files compiled for this level.
//
//   F32x16 x = F32x16::load(p);                    // const float* or const bfloat16* (exact)
//   x = fma(x, x, F32x16::broadcast(1.0f));        // one rounding
//   Mask16 m = less_equal(abs(x), limit);          // bit i: lane i
//   x.store(q);                                    // float*, or bfloat16* rounded to nearest even
#pragma once

#include <cstdint>
#include <immintrin.h>

#include "quest/base/bfloat16.h"

namespace quest::kernels::avx512 {

using Mask16 = uint16_t;

struct F32x16 {
  __m512 v;

  static constexpr int kSize = 16;

  static F32x16 zero() { return {_mm512_setzero_ps()}; }
  static F32x16 broadcast(float x) { return {_mm512_set1_ps(x)}; }
  static F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static F32x16 load(const bfloat16* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  // The first `count` (0 to 16) values; the other lanes are `fill`. Reads nothing past them.
  static F32x16 load_partial(const float* p, int64_t count, float fill = 0.0f) {
    return {_mm512_mask_loadu_ps(_mm512_set1_ps(fill), first(count), p)};
  }
  static F32x16 load_partial(const bfloat16* p, int64_t count, float fill = 0.0f) {
    const F32x16 x = widen(_mm256_maskz_loadu_epi16(first(count), p));
    return {_mm512_mask_mov_ps(_mm512_set1_ps(fill), first(count), x.v)};
  }

  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(bfloat16* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow()); }
  // Writes the first `count` lanes and nothing else.
  void store_partial(float* p, int64_t count) const { _mm512_mask_storeu_ps(p, first(count), v); }
  void store_partial(bfloat16* p, int64_t count) const {
    _mm256_mask_storeu_epi16(p, first(count), narrow());
  }

 private:
  static Mask16 first(int64_t count) { return static_cast<Mask16>((1u << count) - 1u); }
  static F32x16 widen(__m256i bits) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
  // The rounding of base/bfloat16.h.
  __m256i narrow() const {
    const __m512i u = _mm512_castps_si512(v);
    const __m512i high = _mm512_srli_epi32(u, 16);
    const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_srli_epi32(
        _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
    const __m512i quiet = _mm512_or_si512(high, _mm512_set1_epi32(0x40));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, nan, quiet));
  }
};

inline F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
// a * b + c with one rounding.
inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32x16 sqrt(F32x16 a) { return {_mm512_sqrt_ps(a.v)}; }
inline F32x16 abs(F32x16 a) { return {_mm512_abs_ps(a.v)}; }
// If either lane is NaN, the result is b's lane.
inline F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
// To the nearest integer, ties to even.
inline F32x16 round_even(F32x16 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}

// Comparisons with NaN are false.
inline Mask16 less(F32x16 a, F32x16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ); }
inline Mask16 less_equal(F32x16 a, F32x16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ); }
inline Mask16 equal(F32x16 a, F32x16 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ); }
// Lane i: yes where bit i of the mask is set, else no.
inline F32x16 select(Mask16 mask, F32x16 yes, F32x16 no) {
  return {_mm512_mask_mov_ps(no.v, mask, yes.v)};
}

// x * 2^n for integral n in [-252, 254], in two factors: subnormal results are rounded once more at
// most, overflow gives infinity.
inline F32x16 scale_by_power_of_two(F32x16 x, F32x16 n) {
  const __m512i whole = _mm512_cvtps_epi32(n.v);
  const __m512i half = _mm512_srai_epi32(whole, 1);
  const __m512i rest = _mm512_sub_epi32(whole, half);
  const __m512i bias = _mm512_set1_epi32(127);
  const __m512 first = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(half, bias), 23));
  const __m512 second = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(rest, bias), 23));
  return {_mm512_mul_ps(_mm512_mul_ps(x.v, first), second)};
}

// Sum and maximum over the lanes as a tree: lane i with i + 8, then i + 4, i + 2, i + 1.
inline float reduce_add(F32x16 a) {
  const __m256 high = _mm512_extractf32x8_ps(a.v, 1);
  const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), high);
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
inline float reduce_max(F32x16 a) {
  const __m256 high = _mm512_extractf32x8_ps(a.v, 1);
  const __m256 s8 = _mm256_max_ps(_mm512_castps512_ps256(a.v), high);
  const __m128 s4 = _mm_max_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_max_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_max_ss(s2, _mm_movehdup_ps(s2)));
}

}  // namespace quest::kernels::avx512
