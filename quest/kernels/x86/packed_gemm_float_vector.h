// Floats of as many rows as Vector (packed_gemm_lines.h) has lanes of 32 bits; included by
// x86/packed_gemm_float.h and x86/table_gemm_*.h (internal linkage: see gemm_lowbit_driver.h).
#pragma once

#include "quest/kernels/x86/packed_gemm_lines.h"

namespace quest::kernels::detail {
namespace {

#ifdef __AVX512BW__
struct FloatVector {
  using Float = __m512;
  static QUEST_INLINE Float zero() { return _mm512_setzero_ps(); }
  static QUEST_INLINE Float broadcast(float x) { return _mm512_set1_ps(x); }
  static QUEST_INLINE Float load(const float* p) { return _mm512_loadu_ps(p); }
  static QUEST_INLINE void store(float* p, Float x) { _mm512_storeu_ps(p, x); }
  static QUEST_INLINE Float fma(Float x, Float y, Float z) { return _mm512_fmadd_ps(x, y, z); }
  static QUEST_INLINE Float from_bits(Int x) { return reinterpret_cast<Float>(x); }
  static QUEST_INLINE Float convert(Int x) { return _mm512_maskz_cvtepi32_ps(0xffff, x); }
  // ((x0 + x8) + (x4 + x12)) + ...: halves added to each other.
  static QUEST_INLINE float halves_sum(const Float* x) {
    const __m256 half = _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, x[0], 0),
                                      _mm512_maskz_extractf32x8_ps(0xff, x[0], 1));
    return halves_sum(half);
  }
  static QUEST_INLINE float halves_sum(__m256 x) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  static QUEST_INLINE Float load_bf16(const void* p) {
    const __m256i bits = _mm256_loadu_si256(static_cast<const __m256i*>(p));
    return from_bits(
        _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, bits), 16));
  }
  // 2 u - 15 of the 4 bits u at kAt, from 4 to 16: see packed_gemm_float.h.
  template <int kAt>
  static QUEST_INLINE Float uniform_four(Int line) {
    constexpr uint32_t kExponent = (127u + 24 - kAt) << 23;
    constexpr float kSubtract = static_cast<float>((1 << (24 - kAt)) + 15);  // exact
    const Int bits = _mm512_ternarylogic_epi32(line, Vector::broadcast(15u << kAt),
                                               Vector::broadcast(kExponent), 0xea);  // & then |
    return _mm512_sub_ps(from_bits(bits), broadcast(kSubtract));
  }
  template <int kBits>  // of 16 levels
  static QUEST_INLINE Float lookup(Float levels, Float, Int index) {
    return _mm512_maskz_permutexvar_ps(0xffff, index, levels);
  }
};
#else
struct FloatVector {
  using Float = __m256;
  static QUEST_INLINE Float zero() { return _mm256_setzero_ps(); }
  static QUEST_INLINE Float broadcast(float x) { return _mm256_set1_ps(x); }
  static QUEST_INLINE Float load(const float* p) { return _mm256_loadu_ps(p); }
  static QUEST_INLINE void store(float* p, Float x) { _mm256_storeu_ps(p, x); }
  static QUEST_INLINE Float fma(Float x, Float y, Float z) { return _mm256_fmadd_ps(x, y, z); }
  static QUEST_INLINE Float from_bits(Int x) { return reinterpret_cast<Float>(x); }
  static QUEST_INLINE Float convert(Int x) { return _mm256_cvtepi32_ps(x); }
  static QUEST_INLINE float halves_sum(const Float* x) {
    const __m256 half = _mm256_add_ps(x[0], x[1]);
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  static QUEST_INLINE Float load_bf16(const void* p) {
    const __m128i bits = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return from_bits(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  template <int kAt>
  static QUEST_INLINE Float uniform_four(Int line) {
    constexpr uint32_t kExponent = (127u + 24 - kAt) << 23;
    constexpr float kSubtract = static_cast<float>((1 << (24 - kAt)) + 15);
    const Int bits = Vector::bit_or(Vector::bit_and(line, Vector::broadcast(15u << kAt)),
                                    Vector::broadcast(kExponent));
    return _mm256_sub_ps(from_bits(bits), broadcast(kSubtract));
  }
  template <int kBits>
  static QUEST_INLINE Float lookup(Float low, Float high, Int index) {
    const Float from_low = _mm256_permutevar8x32_ps(low, index);
    if constexpr (kBits < 4) return from_low;
    return _mm256_blendv_ps(from_low, _mm256_permutevar8x32_ps(high, index),
                            _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
  }
};
#endif
// 16 floats.
inline constexpr int kFloatVectors = Vector::kVectors;
using Float = FloatVector::Float;
inline constexpr int kLanes = static_cast<int>(sizeof(Float) / 4);

}  // namespace
}  // namespace quest::kernels::detail
