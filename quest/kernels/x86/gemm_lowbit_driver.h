// Loops, corrections and epilogue around a level's inner kernel; included by x86/gemm_lowbit_*.cpp.
//
// Everything here has internal linkage: the file is compiled once for each instruction set, and a
// shared symbol could bring AVX-512 code to a CPU without it. For the same reason it uses no
// library functions. The plain loops are vectorized by the compiler; they contain no sums of
// floats, so every level gives the same bits.
//
// A Kernel has
//   static constexpr int kRows;     // rows of a that it takes at once
//   // sums[r][c] = sum_k a[r][k] * tile entry [k][c], modulo 2^32, for r < rows <= kRows
//   static void sums(const GemmTask&, const int8_t* a, int rows, const uint8_t* tile, int32_t*
//   sums);
#pragma once

#include <cstdint>

#include "quest/kernels/gemm_lowbit_task.h"

namespace quest::kernels::detail {
namespace {

// Rows whose codes should stay in the L2 cache while all column tiles pass by: as many as fit,
// since the tiles come from farther away.
inline constexpr int64_t kRowBlockUnit = 192;  // a multiple of every kernel's kRows
inline constexpr int64_t kMaxRowBlock = 5 * kRowBlockUnit;
inline int64_t row_block(int64_t k) {
  constexpr int64_t kBytes = 512 << 10;
  const int64_t units = k > 0 ? kBytes / (k * kRowBlockUnit) : 5;
  return kRowBlockUnit * (units < 1 ? 1 : units > 5 ? 5 : units);
}

// The rounding of base/bfloat16.h as straight-line code.
inline uint16_t to_bfloat16_bits(float value) {
  const uint32_t u = __builtin_bit_cast(uint32_t, value);
  const uint32_t nan = (u >> 16) | 0x40u;
  const uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

// One output row of one tile.
template <bool kBfloat16>
inline void store_row(const GemmTask& task, const int32_t* sums, int64_t m, int64_t n, int columns,
                      uint32_t row_term, const uint32_t* column_terms) {
  const float a_unit = task.a_units[m];
  const float* w_units = task.w_units + n;
  const uint32_t product = task.product;
  alignas(64) float values[kTileColumns];
  for (int c = 0; c < columns; ++c) {
    const uint32_t acc = product * static_cast<uint32_t>(sums[c]) + row_term + column_terms[c];
    values[c] = static_cast<float>(static_cast<int32_t>(acc)) * (a_unit * w_units[c]);
  }
  if constexpr (kBfloat16) {
    uint16_t* out = static_cast<uint16_t*>(task.out) + m * task.ldo + n;
    for (int c = 0; c < columns; ++c) out[c] = to_bfloat16_bits(values[c]);
  } else {
    float* out = static_cast<float*>(task.out) + m * task.ldo + n;
    for (int c = 0; c < columns; ++c) out[c] = values[c];
  }
}

inline void row_terms(const GemmTask& task, int64_t first, int64_t last, uint32_t* terms) {
  for (int64_t m = first; m < last; ++m) {
    const int8_t* row = task.a + m * task.k;
    int32_t sum = 0;
    for (int64_t i = 0; i < task.k; ++i) sum += row[i];
    terms[m - first] = task.row_factor * static_cast<uint32_t>(sum);
  }
}

// Fetches what will be needed soon: the output lines of this block, and while the rows pass by,
// piece by piece, the next tile.
template <bool kBfloat16>
inline void prefetch_output(const GemmTask& task, int64_t m, int rows, int64_t n) {
  constexpr int64_t kSize = kBfloat16 ? 2 : 4;
  const char* out = static_cast<const char*>(task.out) + (m * task.ldo + n) * kSize;
  for (int r = 0; r < rows; ++r, out += task.ldo * kSize) {
    for (int64_t i = 0; i < kTileColumns * kSize; i += 64) __builtin_prefetch(out + i, 1, 3);
  }
}

template <class Kernel, bool kBfloat16>
void run_blocks(const GemmTask& task) {
  static_assert(kRowBlockUnit % Kernel::kRows == 0);
  const int64_t block_rows = row_block(task.k);
  const int64_t tile_bytes = task.k_groups * kTileColumns * 4;
  uint32_t row_term[kMaxRowBlock];
  uint32_t column_term[kTileColumns];
  alignas(64) int32_t sums[Kernel::kRows * kTileColumns];
  for (int64_t m_block = task.m0; m_block < task.m1; m_block += block_rows) {
    const int64_t m_end = m_block + block_rows < task.m1 ? m_block + block_rows : task.m1;
    row_terms(task, m_block, m_end, row_term);
    for (int64_t n = task.n0; n < task.n1; n += kTileColumns) {
      const uint8_t* tile = task.tiles + n / kTileColumns * tile_bytes;
      const int columns = static_cast<int>(task.n1 - n < kTileColumns ? task.n1 - n : kTileColumns);
      for (int c = 0; c < columns; ++c) {
        column_term[c] =
            task.column_factor * static_cast<uint32_t>(task.w_sums[n + c]) + task.constant;
      }
      const uint8_t* next = tile + tile_bytes;
      const int64_t next_bytes = n + kTileColumns < task.n1 ? tile_bytes : 0;
      const int64_t piece = (next_bytes * Kernel::kRows / (m_end - m_block) + 63) / 64 * 64;
      for (int64_t m = m_block; m < m_end; m += Kernel::kRows) {
        const int rows = static_cast<int>(m_end - m < Kernel::kRows ? m_end - m : Kernel::kRows);
        if (columns == kTileColumns) prefetch_output<kBfloat16>(task, m, rows, n);
        for (const uint8_t* end = next + piece; next < end; next += 64) {
          __builtin_prefetch(next, 0, 2);
        }
        Kernel::sums(task, task.a + m * task.k, rows, tile, sums);
        for (int r = 0; r < rows; ++r) {
          const uint32_t term = row_term[m - m_block + r];
          if (columns == kTileColumns) {
            store_row<kBfloat16>(task, sums + r * kTileColumns, m + r, n, kTileColumns, term,
                                 column_term);
          } else {
            store_row<kBfloat16>(task, sums + r * kTileColumns, m + r, n, columns, term,
                                 column_term);
          }
        }
      }
    }
  }
}

template <class Kernel>
void run_gemm(const GemmTask& task) {
  if (task.out_is_bfloat16) {
    run_blocks<Kernel, true>(task);
  } else {
    run_blocks<Kernel, false>(task);
  }
}

// The codes a[0..count) of one group as the 4 bytes of an integer; the rest 0. count is 1 to 4.
inline int32_t load_group(const int8_t* a, int64_t count) {
  uint32_t group = 0;
  for (int64_t i = 0; i < count; ++i) {
    group |= static_cast<uint32_t>(static_cast<uint8_t>(a[i])) << (8 * i);
  }
  return static_cast<int32_t>(group);
}

inline int32_t load_full_group(const int8_t* a) {
  int32_t group;
  __builtin_memcpy(&group, a, sizeof(group));
  return group;
}

}  // namespace
}  // namespace quest::kernels::detail
