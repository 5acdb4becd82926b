// 16 float lanes for AVX-512 (F, BW, DQ, VL). The same interface as lanes_avx2.h, so that a kernel
// body is written once as a template over it and compiled once per level.
//
// Include only from files compiled with the level's flags. Everything lives in the level's
// namespace and is always inlined: functions of one level must never be merged by the linker with
// another level's. For the same reason bodies use no inline functions of the standard library,
// which the linker could take from here for a CPU without AVX-512; they work on plain pointers.
//
//   using L = avx512::Lanes;
//   L::F x = L::load(p);                                       // 16 values of float or bfloat16
//   L::store(q, L::select(L::gt(x, L::zero()), x, L::zero()));
#pragma once

#include <cstdint>
// GCC 12 takes its own _mm512_undefined_ps for a mistake (GCC bug 105593), at the place of
// inlining: for the rest of the file.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include "quest/base/bfloat16.h"
#include "quest/kernels/x86/lane.h"

namespace quest::kernels::avx512 {

struct Lanes {
  static constexpr int kWidth = 16;
  static constexpr int kAccumulators = 16;  // F that a loop may keep in registers beside operands
  using F = __m512;                         // 16 floats
  using I = __m512i;                        // 16 int32
  using M = __mmask16;                      // one truth value per lane

  // Constants and memory. Pointers need no alignment. Partial: the first n lanes, 1 <= n <= 15; a
  // load gives 0 in the others, and no byte past the n values is touched.
  QUEST_LANE F zero() { return _mm512_setzero_ps(); }
  QUEST_LANE F set1(float x) { return _mm512_set1_ps(x); }
  QUEST_LANE F load(const float* p) { return _mm512_loadu_ps(p); }
  QUEST_LANE F load(const bfloat16* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  QUEST_LANE F load_partial(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  QUEST_LANE F load_partial(const bfloat16* p, int n) {
    return widen(_mm256_maskz_loadu_epi16(first(n), p));
  }
  QUEST_LANE F load_half(const uint16_t* p) {  // IEEE half precision, exact
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  QUEST_LANE void store_half(uint16_t* p, F x) {  // nearest, ties to even
    constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, kMode));
  }
  QUEST_LANE void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  QUEST_LANE void store(bfloat16* p, F x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x));
  }
  QUEST_LANE void store_partial(float* p, F x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
  QUEST_LANE void store_partial(bfloat16* p, F x, int n) {
    _mm256_mask_storeu_epi16(p, first(n), narrow(x));
  }
  QUEST_LANE void prefetch(const void* p) {
    _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
  }

  // Arithmetic, one IEEE rounding each. min and max return b if an operand is NaN.
  QUEST_LANE F add(F a, F b) { return _mm512_add_ps(a, b); }
  QUEST_LANE F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  QUEST_LANE F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  QUEST_LANE F div(F a, F b) { return _mm512_div_ps(a, b); }
  QUEST_LANE F sqrt(F a) { return _mm512_sqrt_ps(a); }
  QUEST_LANE F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }  // a*b + c
  QUEST_LANE F min(F a, F b) { return _mm512_min_ps(a, b); }
  QUEST_LANE F max(F a, F b) { return _mm512_max_ps(a, b); }
  QUEST_LANE F abs(F a) { return _mm512_abs_ps(a); }
  QUEST_LANE F round_even(F a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }

  // Comparisons are false where an operand is NaN.
  QUEST_LANE M gt(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  QUEST_LANE M ge(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
  QUEST_LANE M lt(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  QUEST_LANE M le(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ); }
  QUEST_LANE M eq(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  QUEST_LANE M mask_and(M a, M b) { return static_cast<M>(a & b); }
  QUEST_LANE M mask_or(M a, M b) { return static_cast<M>(a | b); }
  QUEST_LANE uint16_t bits(M m) { return m; }  // bit i is lane i
  QUEST_LANE M from_bits(uint16_t b) { return b; }
  QUEST_LANE F select(M m, F if_true, F if_false) {
    return _mm512_mask_blend_ps(m, if_false, if_true);
  }
  QUEST_LANE F zero_unless(M m, F a) { return _mm512_maskz_mov_ps(m, a); }

  // Lane i takes lane i ^ s.
  QUEST_LANE F swap1(F a) { return _mm512_permute_ps(a, 0xB1); }
  QUEST_LANE F swap2(F a) { return _mm512_permute_ps(a, 0x4E); }
  QUEST_LANE F swap4(F a) { return _mm512_shuffle_f32x4(a, a, 0xB1); }
  QUEST_LANE F swap8(F a) { return _mm512_shuffle_f32x4(a, a, 0x4E); }

  // Integers.
  QUEST_LANE I set1_int(int32_t x) { return _mm512_set1_epi32(x); }
  QUEST_LANE I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
  QUEST_LANE I sub_int(I a, I b) { return _mm512_sub_epi32(a, b); }
  QUEST_LANE I and_int(I a, I b) { return _mm512_and_si512(a, b); }
  QUEST_LANE I or_int(I a, I b) { return _mm512_or_si512(a, b); }
  QUEST_LANE I xor_int(I a, I b) { return _mm512_xor_si512(a, b); }
  template <int n>
  QUEST_LANE I shift_left(I a) {
    return _mm512_slli_epi32(a, n);
  }
  template <int n>
  QUEST_LANE I shift_right(I a) {  // fills with zeros
    return _mm512_srli_epi32(a, n);
  }
  QUEST_LANE I select_int(M m, I if_true, I if_false) {
    return _mm512_mask_blend_epi32(m, if_false, if_true);
  }
  QUEST_LANE I to_int(F a) { return _mm512_cvtps_epi32(a); }  // nearest, ties to even
  QUEST_LANE F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  QUEST_LANE I as_int(F a) { return _mm512_castps_si512(a); }  // the bits
  QUEST_LANE F as_float(I a) { return _mm512_castsi512_ps(a); }
  QUEST_LANE I load_int(const int32_t* p) { return _mm512_loadu_si512(p); }
  QUEST_LANE void store_int(int32_t* p, I a) { _mm512_storeu_si512(p, a); }
  QUEST_LANE I load_i8(const int8_t* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  QUEST_LANE void store_i8(int8_t* p, I a) {  // lanes within int8
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
  }
  QUEST_LANE F lookup16(F table, I index) { return _mm512_permutexvar_ps(index, table); }  // 0..15

  // Sum over lanes: i + (i ^ 8), then ^ 4, ^ 2, ^ 1. The same order at every level.
  QUEST_LANE float sum(F a) {
    a = add(a, swap8(a));
    a = add(a, swap4(a));
    a = add(a, swap2(a));
    a = add(a, swap1(a));
    return _mm512_cvtss_f32(a);
  }
  QUEST_LANE float maximum(F a) {
    a = max(a, swap8(a));
    a = max(a, swap4(a));
    a = max(a, swap2(a));
    a = max(a, swap1(a));
    return _mm512_cvtss_f32(a);
  }
  // Sum of 128 consecutive values, neighbours first (the chunk tree of
  // quest/quant/sum_of_squares.h).
  QUEST_LANE float sum_neighbours_128(const F* s) {
    const F a = sum_quads(s[0], s[1], s[2], s[3]);  // 128-bit lane j: sums of quad j of s[0..3]
    const F b = sum_quads(s[4], s[5], s[6], s[7]);
    const F c = add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
    const F d = add(c, swap4(c));  // sums of 16: s[0..3] in lanes 0-3, s[4..7] in lanes 8-11
    const F e = add(d, swap1(d));
    const F f = add(e, swap2(e));
    return _mm512_cvtss_f32(add(f, swap8(f)));
  }

 private:
  QUEST_LANE M first(int n) { return static_cast<M>((1u << n) - 1u); }
  QUEST_LANE F widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  // Nearest even; NaN keeps its upper bits and becomes quiet.
  QUEST_LANE __m256i narrow(F x) {
    const I u = _mm512_castps_si512(x);
    const I upper = _mm512_srli_epi32(u, 16);
    const I odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
    const I rounded = _mm512_srli_epi32(
        _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    const M nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(
        _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x40)));
  }
  QUEST_LANE F sum_pairs(F a, F b) {
    return add(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
  }
  QUEST_LANE F sum_quads(F a, F b, F c, F d) { return sum_pairs(sum_pairs(a, b), sum_pairs(c, d)); }
};

}  // namespace quest::kernels::avx512
