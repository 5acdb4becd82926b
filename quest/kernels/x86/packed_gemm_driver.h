// Loops and epilogue around the inner kernels of packed_gemm; included by x86/packed_gemm_*.cpp.
//
// Internal linkage and no library functions, for the reason given in gemm_lowbit_driver.h.
//
// A thread's row tiles are walked in two halves at once, i and i + half: two streams from memory
// that each go on from one tile to the next, so that a prefetch some lines ahead is never wasted.
//
// A Kernel has
//   // Adds to sums[s][t][r][c] the products of row r of each strip s with column c of tile t.
//   template <int kStrip, int kTiles>
//   static void add(const PackedTask&, const int64_t* tiles, const uint8_t* strip, int64_t strips,
//                   int32_t* sums);
//   // More than 1 where something is done once for all of them.
//   template <int kStrip>
//   static constexpr int64_t kStripsAtOnce;
#pragma once

#include <cstdint>

#include "quest/kernels/packed_gemm_task.h"

namespace quest::kernels::detail {
namespace {

// Fetches the line that is 1 KB ahead of p, which bridges the end of a tile, into the L2 cache:
// into L1, Zen 4 was 4 to 17 % slower than without (bench/results/packed_gemm_cpu.md).
inline __attribute__((always_inline)) void fetch(const void* p) {
  __builtin_prefetch(static_cast<const char*>(p) + 1024, 0, 2);
}

inline __attribute__((always_inline)) uint32_t dword(const uint8_t* p) {
  uint32_t x;
  __builtin_memcpy(&x, p, 4);
  return x;
}
inline __attribute__((always_inline)) int64_t qword(const uint8_t* p) {
  int64_t x;
  __builtin_memcpy(&x, p, 8);
  return x;
}

// One output row of `columns` sums, at most 16 unless they are the columns of several tiles.
inline void store_packed_row(const PackedTask& task, const int32_t* sums, int64_t m, int64_t n,
                             int64_t columns) {
  const uint32_t product = task.product, row_term = task.row_terms[m - task.m0];
  const uint32_t* column_terms =
      task.column_terms != nullptr ? task.column_terms + (n - task.n0) : nullptr;
  alignas(64) uint32_t acc[32];
  for (int64_t c = 0; c < columns; ++c) {
    acc[c] = product * static_cast<uint32_t>(sums[c]) + row_term;
  }
  if (column_terms != nullptr) {
    for (int64_t c = 0; c < columns; ++c) acc[c] += column_terms[c];
  }
  if (task.acc != nullptr) {
    int32_t* out = task.acc + m * task.ldo + n;
    for (int64_t c = 0; c < columns; ++c) out[c] = static_cast<int32_t>(acc[c]);
  }
  if (task.out != nullptr) {
    const float a_unit = task.a_units[m];
    const float* w_units = task.w_units + n;
    float* out = task.out + m * task.ldo + n;
    for (int64_t c = 0; c < columns; ++c) {
      out[c] = static_cast<float>(static_cast<int32_t>(acc[c])) * (a_unit * w_units[c]);
    }
  }
}

template <class Kernel, int kStrip, int kTiles>
void run_tiles(const PackedTask& task, const int64_t* tiles) {
  constexpr int64_t kStrips = Kernel::template kStripsAtOnce<kStrip>;
  constexpr int64_t kStripSums = kTiles * kStrip * kTileRows;
  const int64_t end = (task.m1 + kStrip - 1) / kStrip;
  for (int64_t first = task.m0 / kStrip; first < end; first += kStrips) {
    const int64_t strips = end - first < kStrips ? end - first : kStrips;
    alignas(64) int32_t sums[kStrips * kStripSums];
    for (int64_t i = 0; i < strips * kStripSums; ++i) sums[i] = 0;
    Kernel::template add<kStrip, kTiles>(task, tiles, task.a + first * task.strip_bytes, strips,
                                         sums);
    for (int64_t i = 0; i < strips * kStrip; ++i) {
      const int64_t m = first * kStrip + i;
      if (m < task.m0 || m >= task.m1) continue;
      for (int t = 0; t < kTiles; ++t) {
        const int64_t n = tiles[t] * kTileRows;
        const int32_t* row = sums + i / kStrip * kStripSums + (t * kStrip + i % kStrip) * kTileRows;
        if (n + kTileRows <= task.n1) {
          store_packed_row(task, row, m, n, kTileRows);
        } else {
          store_packed_row(task, row, m, n, task.n1 - n);
        }
      }
    }
  }
}

template <class Kernel, int kStrip>
void run_strips(const PackedTask& task) {
  const int64_t first = task.n0 / kTileRows;
  const int64_t count = (task.n1 - task.n0 + kTileRows - 1) / kTileRows;
  const int64_t half = (count + 1) / 2;
  for (int64_t i = 0; i < half; ++i) {
    const int64_t tiles[2] = {first + i, first + i + half};
    if (i + half < count) {
      run_tiles<Kernel, kStrip, 2>(task, tiles);
    } else {
      run_tiles<Kernel, kStrip, 1>(task, tiles);
    }
  }
}

template <class Kernel>
void run_packed(const PackedTask& task) {
  switch (task.strip) {
    case 1:
      return run_strips<Kernel, 1>(task);
    case 2:
      return run_strips<Kernel, 2>(task);
    case 4:
      return run_strips<Kernel, 4>(task);
    default:
      return run_strips<Kernel, 8>(task);
  }
}

// Calls DotKernel<Values> by the values of the weight. Bits is a template of one number, the others
// are types.
template <template <class> class DotKernel, template <int> class Bits, class Table, class Sparse>
void run_dot(const PackedTask& task) {
  if (task.w.values == PackedValues::kTable) return run_packed<DotKernel<Table>>(task);
  if (task.w.values == PackedValues::kSparse) return run_packed<DotKernel<Sparse>>(task);
  switch (task.w.bits) {
    case 1:
      return run_packed<DotKernel<Bits<1>>>(task);
    case 2:
      return run_packed<DotKernel<Bits<2>>>(task);
    case 3:
      return run_packed<DotKernel<Bits<3>>>(task);
    case 4:
      return run_packed<DotKernel<Bits<4>>>(task);
    case 5:
      return run_packed<DotKernel<Bits<5>>>(task);
    case 6:
      return run_packed<DotKernel<Bits<6>>>(task);
    case 7:
      return run_packed<DotKernel<Bits<7>>>(task);
    default:
      return run_packed<DotKernel<Bits<8>>>(task);
  }
}

// 4:8 spread out: strips of many rows for which a block of pairs is spread once.
template <int kStrip>
inline constexpr int64_t kSparseStrips = kStrip == 8 ? 16 : 1;

// Where a tile's bytes begin.
inline const uint8_t* tile_start(const PackedTask& task, int64_t tile) {
  return task.w.bytes + tile * task.w.tile_bytes;
}

}  // namespace
}  // namespace quest::kernels::detail
