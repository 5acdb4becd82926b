// packed_gemm_float for many rows where there are only 16 registers: numbers of 256 columns of a
// row tile become floats in the L1 cache, columns with equal k % 4 together, and then meet many
// rows of x. Included by x86/packed_gemm_avx2.cpp (internal linkage: see gemm_lowbit_driver.h).
#pragma once

#include "quest/kernels/x86/packed_gemm_float.h"

namespace quest::kernels::detail {
namespace {

inline constexpr int64_t kMinPanelRows = 8;   // fewer are faster without
inline constexpr int64_t kPanelBlocks32 = 8;  // blocks of 32 columns in a panel
inline constexpr int64_t kPanelSteps = kPanelBlocks32 * kTileBlock / 4;
inline constexpr int64_t kRowBlock = 96;  // rows whose sums lie on the stack
inline constexpr int kPanelVectors = static_cast<int>(kTileRows) / kLanes;

// numbers[k % 4][k / 4][row of the tile]
struct FloatPanel {
  alignas(64) float numbers[4][kPanelSteps][kTileRows];
};
// Partial sums [row of x][k % 4][row of the tile].
inline constexpr int64_t kRowSums = 4 * kTileRows;

template <class Values>
__attribute__((noinline)) void unpack_panel(const PackedFloatTask& task, const uint8_t* bytes,
                                            int64_t blocks, FloatPanel& panel) {
  const Levels<Values::kBits> levels(task);
  for (int64_t b = 0; b < blocks; ++b) {
    for (int v = 0; v < kPanelVectors; ++v) {
      Values values(task.w);
      values.load(bytes, v);
      for_each_column<Values>([&]<int kGroup, int kByte>() QUEST_INLINE_LAMBDA {
        FloatVector::store(panel.numbers[kByte][b * 8 + kGroup] + v * kLanes,
                           numbers<Values, kGroup, kByte>(values, task, levels));
      });
    }
    bytes += 64 * Values::kLines;
  }
}

// sums[r] += x[r][k] * number for the panel's columns k of one k % 4, in order.
template <int kRows>
__attribute__((noinline)) void multiply_panel(const float (*numbers)[kTileRows], int64_t steps,
                                              const float* x, int64_t ldx, float* sums) {
  Float acc[kRows][kPanelVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVectors; ++v) {
      acc[r][v] = FloatVector::load(sums + r * kRowSums + v * kLanes);
    }
  }
  for (int64_t s = 0; s < steps; ++s) {
    Float number[kPanelVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVectors; ++v) {
      number[v] = FloatVector::load(numbers[s] + v * kLanes);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Float value = FloatVector::broadcast(x[r * ldx + 4 * s]);
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v) {
        acc[r][v] = FloatVector::fma(value, number[v], acc[r][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVectors; ++v) {
      FloatVector::store(sums + r * kRowSums + v * kLanes, acc[r][v]);
    }
  }
}

// Columns [k0, k0 + 256) below K, for rows [m, m + rows) of x.
inline void multiply_rows(const PackedFloatTask& task, const FloatPanel& panel, int64_t k0,
                          int64_t m, int64_t rows, float* sums) {
  for (int64_t i = 0; i < 4; ++i) {
    const int64_t left = (task.k - k0 - i + 3) / 4;
    const int64_t steps = left < kPanelSteps ? left : kPanelSteps;
    const float* x = task.x + m * task.ldx + k0 + i;
    const auto multiply = [&]<int kRows>(int64_t r) {
      multiply_panel<kRows>(panel.numbers[i], steps, x + r * task.ldx, task.ldx,
                            sums + r * kRowSums + i * kTileRows);
    };
    int64_t r = 0;
    for (; r + 6 <= rows; r += 6) multiply.template operator()<6>(r);
    for (; r + 2 <= rows; r += 2) multiply.template operator()<2>(r);
    if (r < rows) multiply.template operator()<1>(r);
  }
}

// The panel of a tile's blocks from b on.
template <class Values>
struct PanelMaker {
  static void make(const PackedFloatTask& task, int64_t tile, int64_t b, int64_t count,
                   FloatPanel& panel) {
    unpack_panel<Values>(task, task.w.bytes + tile * task.w.tile_bytes + b * 64 * Values::kLines,
                         count, panel);
  }
};
template <>
struct PanelMaker<SparseNumbers> {
  static_assert(kPanelBlocks32 == kSparseBlocks);
  static void make(const PackedFloatTask& task, int64_t tile, int64_t b, int64_t count,
                   FloatPanel& panel) {
    alignas(64) uint8_t lines[kSparseBytes];
    spread_sparse(task.w, tile, b, count, lines);
    unpack_panel<Bits<8>>(task, lines, count, panel);
  }
};

template <class Values>
void run_float_panels(const PackedFloatTask& task) {
  FloatPanel panel;
  alignas(64) float sums[kRowBlock * kRowSums];
  for (int64_t n = task.n0; n < task.n1; n += kTileRows) {
    const int64_t columns = task.n1 - n < kTileRows ? task.n1 - n : kTileRows;
    for (int64_t m = task.m0; m < task.m1; m += kRowBlock) {
      const int64_t rows = task.m1 - m < kRowBlock ? task.m1 - m : kRowBlock;
      for (int64_t i = 0; i < rows * kRowSums; ++i) sums[i] = 0;
      for (int64_t b = 0; b < task.w.blocks; b += kPanelBlocks32) {
        const int64_t left = task.w.blocks - b;
        PanelMaker<Values>::make(task, n / kTileRows, b,
                                 left < kPanelBlocks32 ? left : kPanelBlocks32, panel);
        multiply_rows(task, panel, b * kTileBlock, m, rows, sums);
      }
      for (int64_t r = 0; r < rows; ++r) {
        const float* s = sums + r * kRowSums;
        float* out = task.out + (m + r) * task.ldo + n;
        for (int64_t c = 0; c < columns; ++c) {
          out[c] = ((s[c] + s[kTileRows + c]) + (s[2 * kTileRows + c] + s[3 * kTileRows + c])) *
                   task.w_units[n + c];
        }
      }
    }
  }
}

}  // namespace
}  // namespace quest::kernels::detail
