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
inline constexpr int64_t kMaxChunk =
    256;  // groups of a chunk; bounds the widened codes on the stack

// V wraps one vector type: see the two including files.
template <class V>
struct MaddKernel {
  static constexpr int kRows = 4;
  static constexpr int kVectorColumns = static_cast<int>(sizeof(typename V::Int)) / 4;
  static constexpr int kVectors = V::kVectors;  // columns of a pass, in vectors
  using Int = typename V::Int;

  static void sums(const GemmTask& task, const int8_t* a, int rows, const uint8_t* tile,
                   int32_t* out) {
    for (int i = 0; i < kRows * kTileColumns; ++i) out[i] = 0;
    switch (rows) {
      case 4:
        return sum_chunks<4>(task, a, tile, out);
      case 3:
        return sum_chunks<3>(task, a, tile, out);
      case 2:
        return sum_chunks<2>(task, a, tile, out);
      default:
        return sum_chunks<1>(task, a, tile, out);
    }
  }

 private:
  template <int kCount>
  static void sum_chunks(const GemmTask& task, const int8_t* a, const uint8_t* tile, int32_t* out) {
    const int64_t pair = int64_t{2} * task.w_max_tile * task.a_max_code;
    const int64_t exact_groups = pair == 0 ? kMaxChunk : 32767 / pair;
    const bool small = exact_groups >= kMinSmallGroups;
    const int64_t chunk = small && exact_groups < kMaxChunk ? exact_groups : kMaxChunk;
    const int64_t groups = (task.k + 3) / 4;
    int32_t codes[kCount * kMaxChunk];
    int32_t wide[kCount * kMaxChunk * 2];
    for (int64_t g = 0; g < groups; g += chunk) {
      const int64_t count = groups - g < chunk ? groups - g : chunk;
      gather<kCount>(a + 4 * g, task.k, task.k - 4 * g, count, codes);
      if (!small) widen(codes, kCount * count, wide);
      for (int c = 0; c < kTileColumns; c += kVectors * kVectorColumns) {
        const uint8_t* w = tile + (g * kTileColumns + c) * 4;
        if (small) {
          add_small<kCount>(codes, count, w, out + c);
        } else {
          add_wide<kCount>(wide, count, w, out + c);
        }
      }
    }
  }

  // codes[g][r]: the 4 codes of group g of row r; past the row's end 0.
  template <int kCount>
  static void gather(const int8_t* a, int64_t stride, int64_t left, int64_t count, int32_t* codes) {
    for (int64_t g = 0; g < count; ++g) {
      for (int r = 0; r < kCount; ++r) {
        const int8_t* from = a + r * stride + 4 * g;
        codes[g * kCount + r] =
            left - 4 * g >= 4 ? load_full_group(from) : load_group(from, left - 4 * g);
      }
    }
  }

  // Codes 0 and 2 of a group as two 16-bit numbers, then codes 1 and 3.
  static void widen(const int32_t* codes, int64_t count, int32_t* wide) {
    for (int64_t i = 0; i < count; ++i) {
      const uint32_t u = static_cast<uint32_t>(codes[i]);
      const auto byte = [u](int n) {
        return static_cast<uint32_t>(static_cast<int32_t>(static_cast<int8_t>(u >> (8 * n))));
      };
      wide[2 * i] = static_cast<int32_t>((byte(0) & 0xffffu) | (byte(2) << 16));
      wide[2 * i + 1] = static_cast<int32_t>((byte(1) & 0xffffu) | (byte(3) << 16));
    }
  }

  template <int kCount>
  static void add_small(const int32_t* codes, int64_t count, const uint8_t* w, int32_t* out) {
    Int acc[kCount][kVectors];
    clear<kCount>(acc);
    for (int64_t g = 0; g < count; ++g, w += 4 * kTileColumns, codes += kCount) {
      Int columns[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) columns[j] = V::load(w + j * sizeof(Int));
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        const Int a = V::broadcast(codes[r]);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
          acc[r][j] = V::add16(acc[r][j], V::maddubs(columns[j], a));
        }
      }
    }
    const Int ones = V::broadcast(0x00010001);
    for (int r = 0; r < kCount; ++r) {
      for (int j = 0; j < kVectors; ++j) {
        add_to(out + r * kTileColumns + j * kVectorColumns, V::madd16(acc[r][j], ones));
      }
    }
  }

  template <int kCount>
  static void add_wide(const int32_t* wide, int64_t count, const uint8_t* w, int32_t* out) {
    Int acc[kCount][kVectors];
    clear<kCount>(acc);
    const Int low_bytes = V::broadcast(0x00ff00ff);
    for (int64_t g = 0; g < count; ++g, w += 4 * kTileColumns, wide += 2 * kCount) {
      Int even[kVectors], odd[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        const Int bytes = V::load(w + j * sizeof(Int));
        even[j] = V::bit_and(bytes, low_bytes);
        odd[j] = V::shift_right16_by_8(bytes);
      }
#pragma GCC unroll 4
      for (int r = 0; r < kCount; ++r) {
        const Int a_even = V::broadcast(wide[2 * r]);
        const Int a_odd = V::broadcast(wide[2 * r + 1]);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
          acc[r][j] = V::add32(acc[r][j], V::madd16(even[j], a_even));
          acc[r][j] = V::add32(acc[r][j], V::madd16(odd[j], a_odd));
        }
      }
    }
    for (int r = 0; r < kCount; ++r) {
      for (int j = 0; j < kVectors; ++j) {
        add_to(out + r * kTileColumns + j * kVectorColumns, acc[r][j]);
      }
    }
  }

  template <int kCount>
  static void clear(Int (&acc)[kCount][kVectors]) {
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
