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

// Fetches the line that is 2 KB ahead of p, which bridges the end of a tile, into the L2 cache:
// into L1, Zen 4 was 4 to 17 % slower than without, and 1 KB ahead keeps less under way than a core
// can read at a time (bench/results/packed_gemm_cpu.md).
inline __attribute__((always_inline)) void fetch(const void* p) {
  __builtin_prefetch(static_cast<const char*>(p) + 2048, 0, 2);
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

// 16 numbers; unsigned, so that sums are modulo 2^32.
typedef uint32_t Sums16 __attribute__((vector_size(64)));
typedef int32_t Ints16 __attribute__((vector_size(64)));
typedef float Floats16 __attribute__((vector_size(64)));

// Output rows [m, m + rows) that the task wants of the columns [n, n + columns), at most 16: row r
// of the sums begins at sums + r * stride, with 16 numbers in memory.
inline __attribute__((always_inline)) void store_packed_rows(const PackedTask& task,
                                                             const int32_t* sums, int64_t stride,
                                                             int64_t m, int64_t rows, int64_t n,
                                                             int64_t columns) {
  // As values: stores to the outputs could otherwise change them, as far as the compiler knows.
  const int64_t first = m > task.m0 ? m : task.m0, last = m + rows < task.m1 ? m + rows : task.m1;
  const int64_t ldo = task.ldo;
  int32_t* const acc_out = task.acc;
  float* const out = task.out;
  const float* const a_units = task.a_units;
  const uint32_t* const row_terms = task.row_terms - task.m0;
  const uint32_t product = task.product;
  Sums16 column_terms = {};
  Floats16 w_units = {};
  const auto bytes = static_cast<size_t>(4 * columns);
  if (task.column_terms != nullptr) {
    __builtin_memcpy(&column_terms, task.column_terms + (n - task.n0), bytes);
  }
  if (out != nullptr) __builtin_memcpy(&w_units, task.w_units + n, bytes);
  for (int64_t row = first; row < last; ++row) {
    Sums16 acc;
    __builtin_memcpy(&acc, sums + (row - m) * stride, sizeof(acc));
    acc = acc * product + row_terms[row] + column_terms;
    if (acc_out != nullptr) __builtin_memcpy(acc_out + row * ldo + n, &acc, bytes);
    if (out != nullptr) {
      const Floats16 values =
          __builtin_convertvector((Ints16)acc, Floats16) * (a_units[row] * w_units);
      __builtin_memcpy(out + row * ldo + n, &values, bytes);
    }
  }
}

// The same; whole tiles apart, so that the compiler knows how many columns they have.
inline void store_packed_tile(const PackedTask& task, const int32_t* sums, int64_t stride,
                              int64_t m, int64_t rows, int64_t n) {
  if (task.n1 - n >= kTileRows) {
    store_packed_rows(task, sums, stride, m, rows, n, kTileRows);
  } else if (n < task.n1) {
    store_packed_rows(task, sums, stride, m, rows, n, task.n1 - n);
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
    for (int64_t i = 0; i < strips; ++i) {
      for (int t = 0; t < kTiles; ++t) {
        store_packed_tile(task, sums + i * kStripSums + t * kStrip * kTileRows, kTileRows,
                          (first + i) * kStrip, kStrip, tiles[t] * kTileRows);
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
