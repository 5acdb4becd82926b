// gemm_lowbit without VNNI, for 256- and 512-bit vectors; included by x86/gemm_lowbit_avx2.cpp and
// x86/gemm_lowbit_avx512.cpp (internal linkage: see gemm_lowbit_driver.h).
//
// Two exact routes:
//  * small numbers: vpmaddubsw adds two products into 16 bits. With pair = 2 * largest tile entry *
//    largest |code| of a, the sums of 32767 / pair groups fit in 16 bits without saturation; they
//    are then widened with vpmaddwd. Worth it from 4 groups on.
//  * otherwise the tile's bytes 0 and 2, then 1 and 3 of each group are widened in the register to
//    16 bits and multiplied by vpmaddwd, which cannot overflow.
#pragma once

#include <immintrin.h>

#include "quest/kernels/x86/gemm_lowbit_driver.h"

namespace quest::kernels::detail {
namespace {

inline constexpr int64_t kMinSmallGroups = 4;
inline constexpr int64_t kMaxChunk = 256;  // groups; bounds the widened codes on the stack

// V wraps one vector type: see the two including files. The two inner loops are alone in their
// functions: with more around them GCC 12 spills accumulators. V::pin ties a sum to one register
// where that makes GCC copy less.
template <class V>
struct MaddKernel {
  static constexpr int kRows = 4;
  static constexpr int kVectorColumns = static_cast<int>(sizeof(typename V::Int)) / 4;
  static constexpr int kVectors = V::kVectors;  // columns of a pass, in vectors
  static constexpr int kPassColumns = kVectors * kVectorColumns;
  using Int = typename V::Int;

  static void sums(const GemmTask& task, const int8_t* a, int rows, const uint8_t* tile,
                   int32_t* out) {
    for (int i = 0; i < kRows * kTileColumns; ++i) out[i] = 0;
    const int64_t pair = int64_t{2} * task.w_max_tile * task.a_max_code;
    const int64_t exact_groups = pair == 0 ? kMaxChunk : 32767 / pair;
    const bool small = exact_groups >= kMinSmallGroups;
    switch (rows) {
      case 4:
        return small ? sum_small<4>(task, a, exact_groups, tile, out)
                     : sum_wide<4>(task, a, tile, out);
      case 3:
        return small ? sum_small<3>(task, a, exact_groups, tile, out)
                     : sum_wide<3>(task, a, tile, out);
      case 2:
        return small ? sum_small<2>(task, a, exact_groups, tile, out)
                     : sum_wide<2>(task, a, tile, out);
      default:
        return small ? sum_small<1>(task, a, exact_groups, tile, out)
                     : sum_wide<1>(task, a, tile, out);
    }
  }

 private:
  template <int kCount>
  static void sum_small(const GemmTask& task, const int8_t* a, int64_t exact_groups,
                        const uint8_t* tile, int32_t* out) {
    const int64_t chunk = exact_groups < kMaxChunk ? exact_groups : kMaxChunk;
    const int64_t groups = task.k / 4;
    for (int64_t g = 0; g < groups; g += chunk) {
      const int64_t count = groups - g < chunk ? groups - g : chunk;
      for (int c = 0; c < kTileColumns; c += kPassColumns) {
        add_small<kCount>(a + 4 * g, task.k, count, tile + (g * kTileColumns + c) * 4, out + c);
      }
    }
    if (task.k % 4 == 0) return;
    int8_t last[4 * kCount] = {};
    for (int r = 0; r < kCount; ++r) {
      for (int64_t i = 4 * groups; i < task.k; ++i) last[4 * r + i % 4] = a[r * task.k + i];
    }
    for (int c = 0; c < kTileColumns; c += kPassColumns) {
      add_small<kCount>(last, 4, 1, tile + (groups * kTileColumns + c) * 4, out + c);
    }
  }

  template <int kCount>
  static void sum_wide(const GemmTask& task, const int8_t* a, const uint8_t* tile, int32_t* out) {
    // Codes 0 and 2 of each group as 16-bit pairs, and codes 1 and 3.
    alignas(64) int32_t even[kCount * kMaxChunk];
    alignas(64) int32_t odd[kCount * kMaxChunk];
    for (int64_t k = 0; k < task.k; k += 4 * kMaxChunk) {
      const int64_t count = task.k - k < 4 * kMaxChunk ? task.k - k : 4 * kMaxChunk;
      for (int r = 0; r < kCount; ++r) {
        widen(a + r * task.k + k, count, even + r * kMaxChunk, odd + r * kMaxChunk);
      }
      for (int c = 0; c < kTileColumns; c += kPassColumns) {
        add_wide<kCount>(even, odd, (count + 3) / 4, tile + k * kTileColumns + c * 4, out + c);
      }
    }
  }

  // Splits `count` codes; those past the end count as 0.
  static void widen(const int8_t* a, int64_t count, int32_t* even, int32_t* odd) {
    constexpr int64_t kBytes = sizeof(Int);
    for (int64_t i = 0; i < count; i += kBytes) {
      Int bytes;
      if (count - i >= kBytes) {
        bytes = V::load(a + i);
      } else {
        int8_t rest[kBytes] = {};
        for (int64_t j = i; j < count; ++j) rest[j - i] = a[j];
        bytes = V::load(rest);
      }
      V::store(even + i / 4, V::sign_extend_low_bytes(bytes));
      V::store(odd + i / 4, V::sign_extend_high_bytes(bytes));
    }
  }

  template <int kCount>
  __attribute__((noinline)) static void add_small(const int8_t* a, int64_t stride, int64_t count,
                                                  const uint8_t* w, int32_t* out) {
    Int acc[kCount][kVectors];
    clear<kCount>(acc);
    for (int64_t g = 0; g < count; ++g, w += 4 * kTileColumns, a += 4) {
      Int columns[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) columns[j] = V::load(w + j * sizeof(Int));
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        const Int codes = V::broadcast(load_full_group(a + r * stride));
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
          acc[r][j] = V::add16(acc[r][j], V::maddubs(columns[j], codes));
          V::pin(acc[r][j]);
        }
      }
    }
    const Int ones = V::broadcast(0x00010001);
#pragma GCC unroll 4
    for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        add_to(out + r * kTileColumns + j * kVectorColumns, V::madd16(acc[r][j], ones));
      }
    }
  }

  template <int kCount>
  __attribute__((noinline)) static void add_wide(const int32_t* even, const int32_t* odd,
                                                 int64_t count, const uint8_t* w, int32_t* out) {
    Int acc[kCount][kVectors];
    clear<kCount>(acc);
    const Int low_bytes = V::broadcast(0x00ff00ff);
    for (int64_t g = 0; g < count; ++g, w += 4 * kTileColumns) {
      Int w_even[kVectors], w_odd[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        const Int bytes = V::load(w + j * sizeof(Int));
        w_even[j] = V::bit_and(bytes, low_bytes);
        w_odd[j] = V::shift_right16_by_8(bytes);
      }
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        const Int a_even = V::broadcast(even[r * kMaxChunk + g]);
        const Int a_odd = V::broadcast(odd[r * kMaxChunk + g]);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
          acc[r][j] = V::add32(acc[r][j], V::madd16(w_even[j], a_even));
          acc[r][j] = V::add32(acc[r][j], V::madd16(w_odd[j], a_odd));
          V::pin(acc[r][j]);
        }
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        add_to(out + r * kTileColumns + j * kVectorColumns, acc[r][j]);
      }
    }
  }

  template <int kCount>
  static inline __attribute__((always_inline)) void clear(Int (&acc)[kCount][kVectors]) {
#pragma GCC unroll 4
    for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) acc[r][j] = V::zero();
    }
  }

  static void add_to(int32_t* out, Int value) { V::store(out, V::add32(V::load(out), value)); }
};

}  // namespace
}  // namespace quest::kernels::detail
