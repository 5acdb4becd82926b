// packed_gemm with vpdpbusd (dot) and vpopcntd (popcount), 16 rows of weights to a vector.
#include "quest/kernels/x86/packed_gemm_driver.h"
#include "quest/kernels/x86/packed_gemm_lines.h"

namespace quest::kernels::detail {
namespace {

// Adds the products of `blocks` blocks. tiles[t] is where tile t begins, strip where the strip
// does. Several sums per output where there are few outputs, to hide the latency of vpdpbusd. The
// loop is alone in its function: with more around it GCC 12 spills.
//
// kInPlace, for one row: values stay where they stand in their bytes, and sums are moved down at
// the end instead; a set of sums gets groups of one place only. kMaxBlocksInPlace keeps such sums,
// at most K / 2 products of 240 and 127, within 31 bits.
constexpr int64_t kMaxBlocksInPlace = 4096;

template <class Values, int kStrip, int kTiles, bool kInPlace = false>
__attribute__((noinline)) void dot_blocks(const WeightTiles& w, const uint8_t* const* tiles,
                                          const uint8_t* strip, int64_t blocks, int32_t* sums) {
  constexpr int kOutputs = kStrip * kTiles;
  constexpr int kSets = kOutputs >= 8 ? 1 : 8 / kOutputs;
  static_assert(!kInPlace || kSets % 4 == 0);
  __m512i acc[kSets][kTiles][kStrip];
#pragma GCC unroll 8
  for (int s = 0; s < kSets; ++s) {
#pragma GCC unroll 2
    for (int t = 0; t < kTiles; ++t) {
#pragma GCC unroll 8
      for (int r = 0; r < kStrip; ++r) acc[s][t][r] = _mm512_setzero_si512();
    }
  }
  Values values[2] = {Values(w), Values(w)};
  const uint8_t* first = tiles[0];
  const uint8_t* second = tiles[kTiles - 1];
  for (int64_t b = 0; b < blocks; ++b) {
    values[0].load(first, 0);
    if constexpr (kTiles == 2) values[1].load(second, 0);
#pragma GCC unroll 8
    for (int l = 0; l < Values::kLines; ++l) {
      fetch(first + 64 * l);
      if constexpr (kTiles == 2) fetch(second + 64 * l);
    }
    for_each_group([&]<int kGroup>() QUEST_INLINE_LAMBDA {
      const auto group = [](const Values& v) QUEST_INLINE_LAMBDA {
        if constexpr (kInPlace) {
          return v.template group_in_place<kGroup>();
        } else {
          return v.template group<kGroup>();
        }
      };
      const __m512i u0 = group(values[0]);
      __m512i u1 = u0;
      if constexpr (kTiles == 2) u1 = group(values[1]);
#pragma GCC unroll 8
      for (int r = 0; r < kStrip; ++r) {
        const __m512i codes = Vector::broadcast(dword(strip + 4 * (kGroup * kStrip + r)));
        constexpr int kSet = kGroup % kSets;
        acc[kSet][0][r] = _mm512_dpbusd_epi32(acc[kSet][0][r], u0, codes);
        if constexpr (kTiles == 2) {
          acc[kSet][kTiles - 1][r] = _mm512_dpbusd_epi32(acc[kSet][kTiles - 1][r], u1, codes);
        }
      }
    });
    first += 64 * Values::kLines;
    second += 64 * Values::kLines;
    strip += 32 * kStrip;
  }
#pragma GCC unroll 2
  for (int t = 0; t < kTiles; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < kStrip; ++r) {
      __m512i sum = _mm512_load_si512(sums + (t * kStrip + r) * kTileRows);
#pragma GCC unroll 8
      for (int s = 0; s < kSets; ++s) {
        if constexpr (kInPlace) {
          acc[s][t][r] = reinterpret_cast<__m512i>(reinterpret_cast<__v16si>(acc[s][t][r]) >>
                                                   (s * Values::kBits % 8));
        }
        sum = _mm512_add_epi32(sum, acc[s][t][r]);
      }
      _mm512_store_si512(sums + (t * kStrip + r) * kTileRows, sum);
    }
  }
}

template <class Values>
struct DotKernel {
  template <int kStrip>
  static constexpr int64_t kStripsAtOnce = 1;
  template <int kStrip, int kTiles>
  static void add(const PackedTask& task, const int64_t* tiles, const uint8_t* strip, int64_t,
                  int32_t* sums) {
    const uint8_t* starts[2] = {tile_start(task, tiles[0]), tile_start(task, tiles[kTiles - 1])};
    if constexpr (kStrip == 1 && Values::kHasPlaces) {
      if (task.w.blocks <= kMaxBlocksInPlace) {
        return dot_blocks<Values, kStrip, kTiles, true>(task.w, starts, strip, task.w.blocks, sums);
      }
    }
    dot_blocks<Values, kStrip, kTiles>(task.w, starts, strip, task.w.blocks, sums);
  }
};

// 4:8, one tile: of each 8 codes the 4 whose weights are kept are moved together. A kept number is
// 2 u - 15, so sums += 2 sum u c - 15 sum c.
template <int kStrip>
__attribute__((noinline)) void select_blocks(const WeightTiles& w, const uint8_t* kept_bytes,
                                             const uint8_t* pair_bytes, const uint8_t* strip,
                                             int64_t blocks, int32_t* sums) {
  constexpr int kSets = kStrip >= 4 ? 1 : 4 / kStrip;
  const Int one = Vector::broadcast(0x01010101u);
  Int products[kSets][kStrip], codes[kSets][kStrip];
#pragma GCC unroll 4
  for (int s = 0; s < kSets; ++s) {
#pragma GCC unroll 8
    for (int r = 0; r < kStrip; ++r) products[s][r] = codes[s][r] = Vector::zero();
  }
  Bits<4> kept(w);
  for (int64_t b = 0; b < blocks; ++b) {
    kept.load(kept_bytes, 0);
    const Int pairs = Vector::load(pair_bytes);
#pragma GCC unroll 4
    for (int l = 0; l < 4; ++l) fetch(kept_bytes + 64 * l);
    fetch(pair_bytes);
    for_each_group([&]<int kGroup>() QUEST_INLINE_LAMBDA {
      constexpr int kSet = kGroup % kSets;
      const Int u = kept.group<kGroup>();
      const Int columns = Vector::lookup32(kSpread.codes, pair_index<kGroup>(pairs));
#pragma GCC unroll 8
      for (int r = 0; r < kStrip; ++r) {
        const Int selected = Vector::shuffle8(
            Vector::broadcast64(qword(strip + 8 * (kGroup * kStrip + r))), columns);
        products[kSet][r] = _mm512_dpbusd_epi32(products[kSet][r], u, selected);
        codes[kSet][r] = _mm512_dpbusd_epi32(codes[kSet][r], one, selected);
      }
    });
    kept_bytes += 256;
    pair_bytes += 64;
    strip += 64 * kStrip;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kStrip; ++r) {
#pragma GCC unroll 4
    for (int s = 1; s < kSets; ++s) {
      products[0][r] = Vector::add32(products[0][r], products[s][r]);
      codes[0][r] = Vector::add32(codes[0][r], codes[s][r]);
    }
    // 2 products - 15 codes
    const Int twice = Vector::add32(products[0][r], products[0][r]);
    const Int sum =
        _mm512_sub_epi32(Vector::add32(twice, codes[0][r]), Vector::shift<-4>(codes[0][r]));
    Vector::store(sums + r * kTileRows, Vector::add32(Vector::load(sums + r * kTileRows), sum));
  }
}

struct SparseValues {};
template <>
struct DotKernel<SparseValues> {
  template <int kStrip>
  static constexpr int64_t kStripsAtOnce = kSparseStrips<kStrip>;
  template <int kStrip, int kTiles>
  static void add(const PackedTask& task, const int64_t* tiles, const uint8_t* strip,
                  int64_t strips, int32_t* sums) {
    if (task.selects) {
      for (int t = 0; t < kTiles; ++t) {
        select_blocks<kStrip>(task.w, tile_start(task, tiles[t]),
                              task.w.pairs + tiles[t] * task.w.pair_tile_bytes, strip,
                              (task.w.blocks + 1) / 2, sums + t * kStrip * kTileRows);
      }
      return;
    }
    alignas(64) uint8_t lines[kTiles][kSparseBytes];
    const uint8_t* starts[2] = {lines[0], lines[kTiles - 1]};
    for (int64_t b = 0; b < task.w.blocks; b += kSparseBlocks) {
      const int64_t count = task.w.blocks - b < kSparseBlocks ? task.w.blocks - b : kSparseBlocks;
      for (int t = 0; t < kTiles; ++t) spread_sparse(task.w, tiles[t], b, count, lines[t]);
      for (int64_t s = 0; s < strips; ++s) {
        dot_blocks<SpreadValues, kStrip, kTiles>(task.w, starts,
                                                 strip + s * task.strip_bytes + 32 * kStrip * b,
                                                 count, sums + s * kTiles * kStrip * kTileRows);
      }
    }
  }
};

// Lines of 1-bit values: 32 columns of 16 rows. Counts the bits that differ.
template <int kStrip, int kTiles>
__attribute__((noinline)) void count_blocks(const uint8_t* const* tiles, const uint8_t* strip,
                                            int64_t blocks, int32_t* sums) {
  __m512i acc[kTiles][kStrip];
#pragma GCC unroll 2
  for (int t = 0; t < kTiles; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < kStrip; ++r) acc[t][r] = _mm512_setzero_si512();
  }
  const uint8_t* first = tiles[0];
  const uint8_t* second = tiles[kTiles - 1];
  for (int64_t b = 0; b < blocks; ++b) {
    const __m512i w0 = _mm512_load_si512(first + 64 * b);
    __m512i w1 = w0;
    fetch(first + 64 * b);
    if constexpr (kTiles == 2) {
      w1 = _mm512_load_si512(second + 64 * b);
      fetch(second + 64 * b);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kStrip; ++r) {
      const __m512i bits = Vector::broadcast(dword(strip + 4 * (b * kStrip + r)));
      acc[0][r] = _mm512_add_epi32(acc[0][r], _mm512_popcnt_epi32(_mm512_xor_si512(w0, bits)));
      if constexpr (kTiles == 2) {
        acc[kTiles - 1][r] =
            _mm512_add_epi32(acc[kTiles - 1][r], _mm512_popcnt_epi32(_mm512_xor_si512(w1, bits)));
      }
    }
  }
#pragma GCC unroll 2
  for (int t = 0; t < kTiles; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < kStrip; ++r) {
      _mm512_store_si512(sums + (t * kStrip + r) * kTileRows, acc[t][r]);
    }
  }
}

struct PopcountKernel {
  template <int kStrip>
  static constexpr int64_t kStripsAtOnce = 1;
  template <int kStrip, int kTiles>
  static void add(const PackedTask& task, const int64_t* tiles, const uint8_t* strip, int64_t,
                  int32_t* sums) {
    const uint8_t* starts[2] = {tile_start(task, tiles[0]), tile_start(task, tiles[kTiles - 1])};
    count_blocks<kStrip, kTiles>(starts, strip, task.w.blocks, sums);
  }
};

}  // namespace

void packed_dot_avx512vnni(const PackedTask& task) {
  run_dot<DotKernel, Bits, TableValues, SparseValues>(task);
}

void packed_popcount_avx512vnni(const PackedTask& task) { run_packed<PopcountKernel>(task); }

}  // namespace quest::kernels::detail
