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
#include "quest/kernels/gemm_bf16_levels.h"
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
  static void transpose(const void* source, int64_t stride, void* tile) {
    __m512i r[16], t[16];
    const char* from = static_cast<const char*>(source);
    char* const to = static_cast<char*>(tile);
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
      _mm512_store_si512(to + 64 * j, _mm512_shuffle_i32x4(low0, low1, 0x88));
      _mm512_store_si512(to + 64 * (4 + j), _mm512_shuffle_i32x4(low0, low1, 0xdd));
      _mm512_store_si512(to + 64 * (8 + j), _mm512_shuffle_i32x4(high0, high1, 0x88));
      _mm512_store_si512(to + 64 * (12 + j), _mm512_shuffle_i32x4(high0, high1, 0xdd));
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

  // A line of a's tile: the pieces of 32 values.
  static void split_line(const float* x, bfloat16* out) {
    store_split(_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16), out, out + kStepElements,
                out + 2 * kStepElements);
  }

  // A line of b's tile: the pieces of the pairs x[i], x[i + stride] of 16 columns i.
  static void split_pairs(const float* x, int64_t stride, bfloat16* out) {
    __m512 x0 = _mm512_loadu_ps(x), x1 = _mm512_loadu_ps(x + stride);
    constexpr __mmask32 kOddWords = 0xaaaaaaaa;
    for (int piece = 0; piece < 3; ++piece, out += kStepElements) {
      const __m512i word0 = next_piece(piece, x0), word1 = next_piece(piece, x1);
      _mm512_store_si512(out,
                         _mm512_mask_blend_epi16(kOddWords, _mm512_srli_epi32(word0, 16), word1));
    }
  }

  // The pieces of 32 values.
  static void store_split(__m512 x0, __m512 x1, bfloat16* high, bfloat16* middle, bfloat16* low) {
    alignas(64) static constexpr uint16_t kOddWords[32] = {
        1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
        33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    const __m512i odd = _mm512_load_si512(kOddWords);
    bfloat16* const out[] = {high, middle, low};
    for (int piece = 0; piece < 3; ++piece) {
      const __m512i word0 = next_piece(piece, x0), word1 = next_piece(piece, x1);
      _mm512_storeu_si512(out[piece], _mm512_permutex2var_epi16(word0, odd, word1));
    }
  }

  // The next piece of split_bf16_reference, in the upper halves of words (the lower ones are
  // anything); x becomes what is left. The last piece is all that is left.
  static __m512i next_piece(int piece, __m512& x) {
    const __m512i bits = _mm512_castps_si512(x);
    if (piece == 2) return bits;
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_set1_epi32(0x8000));
    const __m512i upper = _mm512_and_si512(rounded, _mm512_set1_epi32(-0x10000));
    x = _mm512_sub_ps(x, _mm512_castsi512_ps(upper));
    return rounded;
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
