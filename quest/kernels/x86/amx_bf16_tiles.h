// Tiles of bfloat16 with what packs and rounds them: the Tiles of gemm_bf16 and attention (their
// kernel headers say what each function does), on AMX or, for CPUs without, on vectors. Include
// only from x86/*_amx.cpp and x86/*_avx512bf16.cpp.
#pragma once

// GCC 12 takes its own _mm512_undefined_epi32 for a mistake (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#include <cstdint>
#include <cstdlib>
#include <immintrin.h>

#include "quest/base/bfloat16.h"
#include "quest/base/error.h"
#include "quest/kernels/x86/amx_tiles.h"

namespace quest::kernels::detail {
namespace {

// The tile instructions on AVX512-BF16: sums in memory that the L1 cache holds, operands where they
// are (they must not change between load and product).
struct VectorTiles {
  struct State {
    alignas(64) float sums[4][16][16];
    const char* operand[8];
    int64_t stride[8];
  };
  static inline thread_local State state;

  static void begin() {}
  static void end() {}

  template <int kTile>
  static void zero() {
    for (auto& row : state.sums[kTile]) _mm512_store_ps(row, _mm512_setzero_ps());
  }
  template <int kTile>
  static void load(const void* memory, int64_t stride) {
    const char* from = static_cast<const char*>(memory);
    if constexpr (kTile < 4) {
      for (auto& row : state.sums[kTile]) {
        _mm512_store_ps(row, _mm512_loadu_ps(from));
        from += stride;
      }
    } else {
      state.operand[kTile] = from;
      state.stride[kTile] = stride;
    }
  }
  template <int kTile>
  static void store(void* memory, int64_t stride) {
    char* to = static_cast<char*>(memory);
    for (const auto& row : state.sums[kTile]) {
      _mm512_storeu_ps(to, _mm512_load_ps(row));
      to += stride;
    }
  }
  template <int kSums, int kA, int kB>
  static void add_bf16_products() {
    __m512 sums[16];
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) sums[r] = _mm512_load_ps(state.sums[kSums][r]);
    const char* a = state.operand[kA];
    const char* b = state.operand[kB];
    const int64_t a_stride = state.stride[kA], b_stride = state.stride[kB];
    for (int p = 0; p < 16; ++p, a += 4, b += b_stride) {
      const __m512bh pairs = (__m512bh)_mm512_loadu_si512(b);
#pragma GCC unroll 16
      for (int r = 0; r < 16; ++r) {
        int32_t pair;
        __builtin_memcpy(&pair, a + r * a_stride, 4);
        sums[r] = _mm512_dpbf16_ps(sums[r], (__m512bh)_mm512_set1_epi32(pair), pairs);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) _mm512_store_ps(state.sums[kSums][r], sums[r]);
  }
};

template <class Instructions>
struct Bf16TilesOn : Instructions {
  // tile[r][c] = source[c][r], 16 x 16 words of 32 bits.
  static void transpose(const bfloat16* source, int64_t stride, bfloat16* tile) {
    __m512i r[16], t[16];
    const char* from = reinterpret_cast<const char*>(source);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) r[i] = _mm512_loadu_si512(from + i * stride);
      // 2 x 2, then 4 x 4 words within each 128-bit lane
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
      t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
      r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
      r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
      r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    // r[4 i + j], lane l: column 4 l + j of rows 4 i .. 4 i + 3; now the 4 x 4 lanes
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const __m512i low0 = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x44);
      const __m512i high0 = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xee);
      const __m512i low1 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x44);
      const __m512i high1 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xee);
      _mm512_store_si512(tile + 32 * j, _mm512_shuffle_i32x4(low0, low1, 0x88));
      _mm512_store_si512(tile + 32 * (4 + j), _mm512_shuffle_i32x4(low0, low1, 0xdd));
      _mm512_store_si512(tile + 32 * (8 + j), _mm512_shuffle_i32x4(high0, high1, 0x88));
      _mm512_store_si512(tile + 32 * (12 + j), _mm512_shuffle_i32x4(high0, high1, 0xdd));
    }
  }

  // Row p of the tiles: the pairs of source rows 2 p and 2 p + 1, values 0 to 15 and 16 to 31.
  static void interleave(const bfloat16* source, int64_t stride, bfloat16* first,
                         bfloat16* second) {
    alignas(64) uint16_t order[2][32];
    for (uint16_t i = 0; i < 32; ++i) {
      order[0][i] = static_cast<uint16_t>(i / 2 + 32 * (i % 2));
      order[1][i] = static_cast<uint16_t>(16 + i / 2 + 32 * (i % 2));
    }
    const __m512i low = _mm512_load_si512(order[0]), high = _mm512_load_si512(order[1]);
    const char* from = reinterpret_cast<const char*>(source);
    for (int p = 0; p < 16; ++p, from += 2 * stride) {
      const __m512i even = _mm512_loadu_si512(from), odd = _mm512_loadu_si512(from + stride);
      _mm512_store_si512(first + 32 * p, _mm512_permutex2var_epi16(even, low, odd));
      _mm512_store_si512(second + 32 * p, _mm512_permutex2var_epi16(even, high, odd));
    }
  }

  // split_bf16_reference, 16 values at once; the instruction takes subnormal values as zero.
  static void split(const float* x, const float* scales, int64_t scale_stride, int64_t count,
                    bfloat16* high, bfloat16* middle, bfloat16* low) {
    if (count == 32) return split_32(x, scales, scale_stride, high, middle, low);
    for (int64_t i = 0; i < count; i += 16) {
      const int64_t left = count - i < 16 ? count - i : 16;
      const auto lanes = static_cast<__mmask16>((1u << left) - 1);
      const __m512 scale =
          scale_stride == 0 ? _mm512_set1_ps(*scales) : _mm512_maskz_loadu_ps(lanes, scales + i);
      __m512 rest = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), scale);
      for (bfloat16* out : {high, middle, low}) {
        const __m256bh piece = _mm512_cvtneps_pbh(rest);
        _mm256_mask_storeu_epi16(out + i, lanes, reinterpret_cast<__m256i>(piece));
        rest = _mm512_sub_ps(rest, widen(reinterpret_cast<__m256i>(piece)));
      }
    }
  }

  static __m512 widen(__m256i bf16) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bf16), 16));
  }

  // split of 32 values.
  static void split_32(const float* x, const float* scales, int64_t scale_stride, bfloat16* high,
                       bfloat16* middle, bfloat16* low) {
    const __m512 scale0 = scale_stride == 0 ? _mm512_set1_ps(*scales) : _mm512_loadu_ps(scales);
    const __m512 scale1 = scale_stride == 0 ? scale0 : _mm512_loadu_ps(scales + 16);
    store_split(_mm512_mul_ps(_mm512_loadu_ps(x), scale0),
                _mm512_mul_ps(_mm512_loadu_ps(x + 16), scale1), high, middle, low);
  }

  // The pieces of 32 values.
  static void store_split(__m512 rest0, __m512 rest1, bfloat16* high, bfloat16* middle,
                          bfloat16* low) {
    for (bfloat16* out : {high, middle, low}) {
      const auto piece = (__m512i)_mm512_cvtne2ps_pbh(rest1, rest0);
      _mm512_storeu_si512(out, piece);
      rest0 = _mm512_sub_ps(rest0, widen(_mm512_castsi512_si256(piece)));
      rest1 = _mm512_sub_ps(rest1, widen(_mm512_extracti64x4_epi64(piece, 1)));
    }
  }

  static void round_row(const float* sums, bfloat16* out) {
    const __m512bh rounded = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(sums + 16), _mm512_loadu_ps(sums));
    _mm512_storeu_si512(out, reinterpret_cast<__m512i>(rounded));
  }
};

using Bf16Tiles = Bf16TilesOn<AmxTiles>;

// 64-byte aligned memory of a task.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : memory_(static_cast<T*>(
            std::aligned_alloc(64, (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64))) {
    QUEST_CHECK(memory_ != nullptr, ErrorKind::kEnvironment,
                "no memory for {} values of packed matrices", count);
  }
  ~Scratch() { std::free(memory_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* get() const { return memory_; }

 private:
  T* memory_;
};

}  // namespace
}  // namespace quest::kernels::detail
