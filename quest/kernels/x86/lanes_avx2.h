// 16 float lanes for AVX2 with FMA, as two registers of 8. The same interface and the same results
// as lanes_avx512.h: see there for the contract and for the rules of including it.
#pragma once

#include <cstdint>
#include <immintrin.h>

#include "quest/base/bfloat16.h"
#include "quest/kernels/x86/lane.h"

namespace quest::kernels::avx2 {

struct Lanes {
  static constexpr int kWidth = 16;
  static constexpr int kAccumulators = 4;
  struct F {
    __m256 lo, hi;
  };
  struct I {
    __m256i lo, hi;
  };
  struct M {  // all bits of a lane set or clear
    __m256 lo, hi;
  };

  QUEST_LANE F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  QUEST_LANE F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  QUEST_LANE F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  QUEST_LANE F load(const bfloat16* p) {
    const __m128i* q = reinterpret_cast<const __m128i*>(p);
    return {widen(_mm_loadu_si128(q)), widen(_mm_loadu_si128(q + 1))};
  }
  template <class T>
  QUEST_LANE F load_partial(const T* p, int n) {
    alignas(32) uint8_t values[kWidth * sizeof(T)] = {};
    __builtin_memcpy(values, p, sizeof(T) * static_cast<unsigned>(n));
    return load(reinterpret_cast<const T*>(values));
  }
  QUEST_LANE F load_half(const uint16_t* p) {
    const __m128i* q = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
  }
  QUEST_LANE void store_half(uint16_t* p, F x) {
    __m128i* q = reinterpret_cast<__m128i*>(p);
    _mm_storeu_si128(q, _mm256_cvtps_ph(x.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(q + 1, _mm256_cvtps_ph(x.hi, _MM_FROUND_TO_NEAREST_INT));
  }
  QUEST_LANE void store(float* p, F x) {
    _mm256_storeu_ps(p, x.lo);
    _mm256_storeu_ps(p + 8, x.hi);
  }
  QUEST_LANE void store(bfloat16* p, F x) {
    const __m256i packed = _mm256_packus_epi32(narrow(x.lo), narrow(x.hi));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xD8));
  }
  template <class T>
  QUEST_LANE void store_partial(T* p, F x, int n) {
    alignas(32) uint8_t values[kWidth * sizeof(T)];
    store(reinterpret_cast<T*>(values), x);
    __builtin_memcpy(p, values, sizeof(T) * static_cast<unsigned>(n));
  }
  QUEST_LANE void prefetch(const void* p) {
    _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
  }

  QUEST_LANE F add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
  QUEST_LANE F sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
  QUEST_LANE F mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
  QUEST_LANE F div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
  QUEST_LANE F sqrt(F a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
  QUEST_LANE F fma(F a, F b, F c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
  }
  QUEST_LANE F min(F a, F b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
  QUEST_LANE F max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
  QUEST_LANE F abs(F a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
  }
  QUEST_LANE F round_even(F a) {
    constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.lo, kMode), _mm256_round_ps(a.hi, kMode)};
  }

  QUEST_LANE M gt(F a, F b) { return compare<_CMP_GT_OQ>(a, b); }
  QUEST_LANE M ge(F a, F b) { return compare<_CMP_GE_OQ>(a, b); }
  QUEST_LANE M lt(F a, F b) { return compare<_CMP_LT_OQ>(a, b); }
  QUEST_LANE M le(F a, F b) { return compare<_CMP_LE_OQ>(a, b); }
  QUEST_LANE M eq(F a, F b) { return compare<_CMP_EQ_OQ>(a, b); }
  QUEST_LANE M mask_and(M a, M b) { return {_mm256_and_ps(a.lo, b.lo), _mm256_and_ps(a.hi, b.hi)}; }
  QUEST_LANE M mask_or(M a, M b) { return {_mm256_or_ps(a.lo, b.lo), _mm256_or_ps(a.hi, b.hi)}; }
  QUEST_LANE uint16_t bits(M m) {
    return static_cast<uint16_t>(_mm256_movemask_ps(m.lo) | _mm256_movemask_ps(m.hi) << 8);
  }
  QUEST_LANE M from_bits(uint16_t b) {
    const __m256i lane_bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const auto spread = [&](int byte) __attribute__((always_inline)) {
      const __m256i set = _mm256_and_si256(_mm256_set1_epi32(byte), lane_bit);
      return _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lane_bit));
    };
    return {spread(b & 0xff), spread(b >> 8)};
  }
  QUEST_LANE F select(M m, F if_true, F if_false) {
    return {_mm256_blendv_ps(if_false.lo, if_true.lo, m.lo),
            _mm256_blendv_ps(if_false.hi, if_true.hi, m.hi)};
  }
  QUEST_LANE F zero_unless(M m, F a) {
    return {_mm256_and_ps(m.lo, a.lo), _mm256_and_ps(m.hi, a.hi)};
  }

  QUEST_LANE F swap1(F a) { return {_mm256_permute_ps(a.lo, 0xB1), _mm256_permute_ps(a.hi, 0xB1)}; }
  QUEST_LANE F swap2(F a) { return {_mm256_permute_ps(a.lo, 0x4E), _mm256_permute_ps(a.hi, 0x4E)}; }
  QUEST_LANE F swap4(F a) {
    return {_mm256_permute2f128_ps(a.lo, a.lo, 1), _mm256_permute2f128_ps(a.hi, a.hi, 1)};
  }
  QUEST_LANE F swap8(F a) { return {a.hi, a.lo}; }

  QUEST_LANE I set1_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  QUEST_LANE I add_int(I a, I b) {
    return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
  }
  QUEST_LANE I sub_int(I a, I b) {
    return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
  }
  QUEST_LANE I and_int(I a, I b) {
    return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)};
  }
  QUEST_LANE I or_int(I a, I b) {
    return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)};
  }
  QUEST_LANE I xor_int(I a, I b) {
    return {_mm256_xor_si256(a.lo, b.lo), _mm256_xor_si256(a.hi, b.hi)};
  }
  template <int n>
  QUEST_LANE I shift_left(I a) {
    return {_mm256_slli_epi32(a.lo, n), _mm256_slli_epi32(a.hi, n)};
  }
  template <int n>
  QUEST_LANE I shift_right(I a) {
    return {_mm256_srli_epi32(a.lo, n), _mm256_srli_epi32(a.hi, n)};
  }
  QUEST_LANE I select_int(M m, I if_true, I if_false) {
    return as_int(select(m, as_float(if_true), as_float(if_false)));
  }
  QUEST_LANE I to_int(F a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
  QUEST_LANE F to_float(I a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
  QUEST_LANE I as_int(F a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
  QUEST_LANE F as_float(I a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
  QUEST_LANE I load_int(const int32_t* p) {
    const __m256i* q = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
  }
  QUEST_LANE void store_int(int32_t* p, I a) {
    __m256i* q = reinterpret_cast<__m256i*>(p);
    _mm256_storeu_si256(q, a.lo);
    _mm256_storeu_si256(q + 1, a.hi);
  }
  QUEST_LANE I load_i8(const int8_t* p) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))};
  }
  QUEST_LANE void store_i8(int8_t* p, I a) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xD8);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(p),
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }
  QUEST_LANE F lookup16(F table, I index) {
    const auto half = [&](__m256i i) __attribute__((always_inline)) {
      return _mm256_blendv_ps(_mm256_permutevar8x32_ps(table.lo, i),
                              _mm256_permutevar8x32_ps(table.hi, i),
                              _mm256_castsi256_ps(_mm256_slli_epi32(i, 28)));
    };
    return {half(index.lo), half(index.hi)};
  }

  QUEST_LANE float sum(F a) {
    const __m256 eight = _mm256_add_ps(a.lo, a.hi);
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    s = _mm_add_ps(s, _mm_permute_ps(s, 0x4E));
    s = _mm_add_ps(s, _mm_permute_ps(s, 0xB1));
    return _mm_cvtss_f32(s);
  }
  QUEST_LANE float maximum(F a) {
    const __m256 eight = _mm256_max_ps(a.lo, a.hi);
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    s = _mm_max_ps(s, _mm_permute_ps(s, 0x4E));
    s = _mm_max_ps(s, _mm_permute_ps(s, 0xB1));
    return _mm_cvtss_f32(s);
  }
  QUEST_LANE float sum_neighbours_128(const F* s) {
    const __m256 a = sum_eights(s[0], s[1], s[2], s[3]);  // 8 sums of 8 values each, in order
    const __m256 b = sum_eights(s[4], s[5], s[6], s[7]);
    const __m256 c = _mm256_hadd_ps(a, b);  // sums of 16: 0 1 4 5 | 2 3 6 7
    const __m256 d = _mm256_hadd_ps(c, c);  // sums of 32: 0 2 . . | 1 3 . .
    const __m128 e = _mm_add_ps(_mm256_castps256_ps128(d), _mm256_extractf128_ps(d, 1));
    return _mm_cvtss_f32(_mm_hadd_ps(e, e));
  }

 private:
  template <int kind>
  QUEST_LANE M compare(F a, F b) {
    return {_mm256_cmp_ps(a.lo, b.lo, kind), _mm256_cmp_ps(a.hi, b.hi, kind)};
  }
  QUEST_LANE __m256 widen(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  QUEST_LANE __m256i narrow(__m256 x) {  // bfloat16 in the lower half of each lane
    const __m256i u = _mm256_castps_si256(x);
    const __m256i upper = _mm256_srli_epi32(u, 16);
    const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(
        _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    const __m256i quiet = _mm256_or_si256(upper, _mm256_set1_epi32(0x40));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, quiet, nan);
  }
  // Sums of the eights of 4 x 16 values, in order.
  QUEST_LANE __m256 sum_eights(F a, F b, F c, F d) {
    const __m256 u = _mm256_hadd_ps(_mm256_hadd_ps(a.lo, a.hi), _mm256_hadd_ps(b.lo, b.hi));
    const __m256 w = _mm256_hadd_ps(_mm256_hadd_ps(c.lo, c.hi), _mm256_hadd_ps(d.lo, d.hi));
    return _mm256_add_ps(_mm256_permute2f128_ps(u, w, 0x20), _mm256_permute2f128_ps(u, w, 0x31));
  }
};

}  // namespace quest::kernels::avx2
