// packed_gemm without VNNI and VPOPCNTDQ, for 256- and 512-bit vectors; included by
// x86/packed_gemm_avx2.cpp and x86/packed_gemm_avx512.cpp (internal linkage: see
// gemm_lowbit_driver.h).
//
// dot: vpmaddubsw adds two products into 16 bits. Values of up to 4 bits times any int8 code:
// 2 * 15 * 128 * 8 groups = 30720, so the 8 groups of a block are added in 16 bits and then widened
// with vpmaddwd. Values up to 31 (5 bits, tables, 4:8 spread out) are widened after 4 groups;
// values of more bits are two of 4. popcount: a table of 16 counts for each half of a byte, added
// in bytes for up to 31 blocks.
#pragma once

#include "quest/kernels/x86/packed_gemm_driver.h"
#include "quest/kernels/x86/packed_gemm_lines.h"

namespace quest::kernels::detail {
namespace {

inline constexpr int kCountRows = 4;  // of a strip at once
inline constexpr int kWidth = static_cast<int>(sizeof(Int));

// Rows of a strip at once: what the registers hold in 16-bit sums.
template <class Values, int kStrip>
inline constexpr int kMaddRows = [] {
  const int most = Vector::kVectors == 1 ? 8 : Values::kMaxValue > 31 ? 2 : 4;
  return kStrip < most ? kStrip : most;
}();

// Widens 16-bit sums, times the dword's factor, and adds them to 32-bit sums.
QUEST_INLINE void add_widened(int32_t* sums, Int narrow, Int factor) {
  Vector::store(sums, Vector::add32(Vector::load(sums), Vector::madd16(narrow, factor)));
}

// sums[r][c] += of one tile, whose bytes begin at `tile`, and kRows rows of a strip of kStrip.
template <class Values, int kRows, int kStrip>
__attribute__((noinline)) void madd_blocks(const WeightTiles& w, const uint8_t* tile,
                                           const uint8_t* strip, int64_t blocks, int32_t* sums) {
  constexpr bool kWide = Values::kMaxValue > 31;
  constexpr int kVectors = Vector::kVectors;
  static_assert(kWide || 2 * Values::kMaxValue * 128 * 4 <= 32767);
  constexpr bool kTwice = !kWide && 2 * Values::kMaxValue * 128 * 8 > 32767;
  const Int one = Vector::broadcast(0x00010001u), sixteen = Vector::broadcast(0x00100010u);
  for (int64_t b = 0; b < blocks; ++b) {
#pragma GCC unroll 8
    for (int l = 0; l < Values::kLines; ++l) fetch(tile + 64 * l);
    Values values[2] = {Values(w), Values(w)};
    Int low[kVectors][kRows], high[kVectors][kRows];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      values[v].load(tile, v);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) low[v][r] = high[v][r] = Vector::zero();
    }
    for_each_group([&]<int kGroup>() QUEST_INLINE_LAMBDA {
      Int u_low[kVectors], u_high[kVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) {
        if constexpr (kWide) {
          u_low[v] = values[v].template low_bits<kGroup>();
          u_high[v] = values[v].template high_bits<kGroup>();
        } else {
          u_low[v] = u_high[v] = values[v].template group<kGroup>();
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Int codes = Vector::broadcast(dword(strip + 4 * (kGroup * kStrip + r)));
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
          low[v][r] = Vector::add16(low[v][r], Vector::maddubs(u_low[v], codes));
          if constexpr (kWide) {
            high[v][r] = Vector::add16(high[v][r], Vector::maddubs(u_high[v], codes));
          }
          Vector::pin(low[v][r]);
          if constexpr (kTwice && kGroup == 3) {
            add_widened(sums + r * kTileRows + v * (kWidth / 4), low[v][r], one);
            low[v][r] = Vector::zero();
          }
        }
      }
    });
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        int32_t* out = sums + r * kTileRows + v * (kWidth / 4);
        add_widened(out, low[v][r], one);
        if constexpr (kWide) add_widened(out, high[v][r], sixteen);
      }
    }
    tile += 64 * Values::kLines;
    strip += 32 * kStrip;
  }
}

// Calls f<rows of the strip at once>(first row).
template <int kStrip, int kRows, class F>
QUEST_INLINE void for_row_chunks(F&& f) {
  for (int r = 0; r < kStrip; r += kRows) f.template operator()<kRows>(r);
}

template <class Values>
struct MaddKernel {
  template <int kStrip>
  static constexpr int64_t kStripsAtOnce = 1;
  template <int kStrip, int kTiles>
  static void add(const PackedTask& task, const int64_t* tiles, const uint8_t* strip, int64_t,
                  int32_t* sums) {
    for (int t = 0; t < kTiles; ++t) {
      for_row_chunks<kStrip, kMaddRows<Values, kStrip>>([&]<int kRows>(int r) {
        madd_blocks<Values, kRows, kStrip>(task.w, tile_start(task, tiles[t]), strip + 4 * r,
                                           task.w.blocks, sums + (t * kStrip + r) * kTileRows);
      });
    }
  }
};

// 4:8, vector v of one tile: of each 8 codes the 4 whose weights are kept are moved together. A
// kept number is 2 u - 15, so sums += 2 sum u c - 15 sum c.
template <int kRows, int kStrip>
__attribute__((noinline)) void select_blocks(const WeightTiles& w, const uint8_t* kept_bytes,
                                             const uint8_t* pair_bytes, const uint8_t* strip,
                                             int64_t blocks, int v, int32_t* sums) {
  const Int one = Vector::broadcast(0x01010101u);
  const Int two16 = Vector::broadcast(0x00020002u), minus15 = Vector::broadcast(0xfff1fff1u);
  Int acc[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) acc[r] = Vector::zero();
  Bits<4> kept(w);
  for (int64_t b = 0; b < blocks; ++b) {
    kept.load(kept_bytes, v);
    const Int pairs = Vector::load(pair_bytes + v * kWidth);
#pragma GCC unroll 4
    for (int l = 0; l < 4; ++l) fetch(kept_bytes + 64 * l);
    fetch(pair_bytes);
    Int products[kRows], codes[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) products[r] = codes[r] = Vector::zero();
    for_each_group([&]<int kGroup>() QUEST_INLINE_LAMBDA {
      const Int u = kept.group<kGroup>();
      const Int columns = Vector::lookup32(kSpread.codes, pair_index<kGroup>(pairs));
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Int selected = Vector::shuffle8(
            Vector::broadcast64(qword(strip + 8 * (kGroup * kStrip + r))), columns);
        products[r] = Vector::add16(products[r], Vector::maddubs(u, selected));
        codes[r] = Vector::add16(codes[r], Vector::maddubs(one, selected));
        Vector::pin(products[r]);
        Vector::pin(codes[r]);
      }
    });
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      acc[r] = Vector::add32(acc[r], Vector::add32(Vector::madd16(products[r], two16),
                                                   Vector::madd16(codes[r], minus15)));
    }
    kept_bytes += 256;
    pair_bytes += 64;
    strip += 64 * kStrip;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
    int32_t* out = sums + r * kTileRows + v * (kWidth / 4);
    Vector::store(out, Vector::add32(Vector::load(out), acc[r]));
  }
}

struct SparseValues {};
template <>
struct MaddKernel<SparseValues> {
  template <int kStrip>
  static constexpr int64_t kStripsAtOnce = kSparseStrips<kStrip>;
  template <int kStrip, int kTiles>
  static void add(const PackedTask& task, const int64_t* tiles, const uint8_t* strip,
                  int64_t strips, int32_t* sums) {
    for (int t = 0; t < kTiles; ++t) {
      if (task.selects) {
        select<kStrip>(task, tiles[t], strip, sums + t * kStrip * kTileRows);
      } else {
        spread<kStrip, kTiles>(task, tiles[t], strip, strips, sums + t * kStrip * kTileRows);
      }
    }
  }

 private:
  template <int kStrip>
  static void select(const PackedTask& task, int64_t tile, const uint8_t* strip, int32_t* sums) {
    for (int v = 0; v < Vector::kVectors; ++v) {
      for_row_chunks<kStrip, (kStrip < kCountRows ? kStrip : kCountRows)>([&]<int kRows>(int r) {
        select_blocks<kRows, kStrip>(task.w, tile_start(task, tile),
                                     task.w.pairs + tile * task.w.pair_tile_bytes, strip + 8 * r,
                                     (task.w.blocks + 1) / 2, v, sums + r * kTileRows);
      });
    }
  }
  template <int kStrip, int kTiles>
  static void spread(const PackedTask& task, int64_t tile, const uint8_t* strip, int64_t strips,
                     int32_t* sums) {
    alignas(64) uint8_t lines[kSparseBytes];
    for (int64_t b = 0; b < task.w.blocks; b += kSparseBlocks) {
      const int64_t count = task.w.blocks - b < kSparseBlocks ? task.w.blocks - b : kSparseBlocks;
      spread_sparse(task.w, tile, b, count, lines);
      for (int64_t s = 0; s < strips; ++s) {
        const uint8_t* rows = strip + s * task.strip_bytes + 32 * kStrip * b;
        int32_t* strip_sums = sums + s * kTiles * kStrip * kTileRows;
        for_row_chunks<kStrip, kMaddRows<SpreadValues, kStrip>>([&]<int kRows>(int r) {
          madd_blocks<SpreadValues, kRows, kStrip>(task.w, lines, rows + 4 * r, count,
                                                   strip_sums + r * kTileRows);
        });
      }
    }
  }
};

// Counts the bits that differ.
template <int kRows, int kStrip>
__attribute__((noinline)) void count_blocks(const uint8_t* tile, const uint8_t* strip,
                                            int64_t blocks, int v, int32_t* sums) {
  constexpr int64_t kMaxBlocks = 31;  // 8 bits of each byte, 255 / 8
  alignas(64) static constexpr uint8_t kCounts[64] = {
      0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2,
      2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3,
      2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4};
  const Int counts = Vector::load(kCounts), nibble = Vector::broadcast(0x0f0f0f0fu);
  const Int one8 = Vector::broadcast(0x01010101u), one16 = Vector::broadcast(0x00010001u);
  Int acc[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) acc[r] = Vector::zero();
  for (int64_t begin = 0; begin < blocks; begin += kMaxBlocks) {
    const int64_t end = begin + kMaxBlocks < blocks ? begin + kMaxBlocks : blocks;
    Int bytes[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) bytes[r] = Vector::zero();
    for (int64_t b = begin; b < end; ++b) {
      const Int w = Vector::load(tile + 64 * b + v * kWidth);
      fetch(tile + 64 * b);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const Int x = Vector::bit_xor(w, Vector::broadcast(dword(strip + 4 * (b * kStrip + r))));
        const Int low = Vector::shuffle8(counts, Vector::bit_and(x, nibble));
        const Int high = Vector::shuffle8(counts, Vector::bit_and(Vector::shift<4>(x), nibble));
        bytes[r] = Vector::add8(bytes[r], Vector::add8(low, high));
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      acc[r] = Vector::add32(acc[r], Vector::madd16(Vector::maddubs(bytes[r], one8), one16));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) Vector::store(sums + r * kTileRows + v * (kWidth / 4), acc[r]);
}

struct CountKernel {
  template <int kStrip>
  static constexpr int64_t kStripsAtOnce = 1;
  template <int kStrip, int kTiles>
  static void add(const PackedTask& task, const int64_t* tiles, const uint8_t* strip, int64_t,
                  int32_t* sums) {
    for (int t = 0; t < kTiles; ++t) {
      for (int v = 0; v < Vector::kVectors; ++v) {
        for_row_chunks<kStrip, (kStrip < kCountRows ? kStrip : kCountRows)>([&]<int kRows>(int r) {
          count_blocks<kRows, kStrip>(tile_start(task, tiles[t]), strip + 4 * r, task.w.blocks, v,
                                      sums + (t * kStrip + r) * kTileRows);
        });
      }
    }
  }
};

}  // namespace
}  // namespace quest::kernels::detail
