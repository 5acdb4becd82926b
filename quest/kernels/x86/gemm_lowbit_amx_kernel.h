// gemm_lowbit with AMX tiles: 32 rows x 64 columns as two passes of 2 x 2 tiles of 16 x 16 sums.
//
// Tiles is the instruction set: x86/gemm_lowbit_amx.cpp gives the real one, the test an emulation,
// so that everything but six instructions is tested on any CPU. A tile is 16 rows of 64 bytes.
// Tiles has
//   begin(), end()                        configure the tile registers, release them
//   zero<i>()                             tile i = 0
//   load<i>(memory, row stride in bytes)
//   add_products<c, a, b>()               c[r][n] += sum_kk s8 a[r][kk] * u8 b[kk/4][4 n + kk%4]
//   store<i>(memory, row stride in bytes)
// Tiles 0 to 3 hold sums, 4 and 5 rows of a, 6 and 7 the weight tile, whose order (groups of 4
// along K by columns) is already the one that AMX wants.
#pragma once

#include <cstdint>

#include "quest/kernels/x86/gemm_lowbit_driver.h"

namespace quest::kernels::detail {
namespace {

template <class Tiles>
struct AmxKernel {
  static constexpr int kRows = 32;
  static constexpr int kDepth = 64;  // codes along K in one tile row

  static void sums(const GemmTask& task, const int8_t* a, int rows, const uint8_t* tile,
                   int32_t* out) {
    for (int c = 0; c < kTileColumns; c += 32) {
      Tiles::template zero<0>();
      Tiles::template zero<1>();
      Tiles::template zero<2>();
      Tiles::template zero<3>();
      for (int64_t k = 0; k < task.k; k += kDepth) {
        const uint8_t* w = tile + k * kTileColumns + c * 4;  // group k/4, column c
        const int64_t depth = task.k - k < kDepth ? task.k - k : kDepth;
        if (rows == kRows && depth == kDepth) {
          step(a + k, task.k, w);
        } else {
          // Rows and codes past the end: a tile load would leave the matrix.
          alignas(64) int8_t padded[kRows * kDepth];
          for (int r = 0; r < kRows; ++r) {
            for (int64_t i = 0; i < kDepth; ++i) {
              padded[r * kDepth + i] = r < rows && i < depth ? a[r * task.k + k + i] : int8_t{0};
            }
          }
          step(padded, kDepth, w);
        }
      }
      constexpr int64_t kStride = kTileColumns * 4;
      Tiles::template store<0>(out + c, kStride);
      Tiles::template store<1>(out + c + 16, kStride);
      Tiles::template store<2>(out + c + 16 * kTileColumns, kStride);
      Tiles::template store<3>(out + c + 16 * kTileColumns + 16, kStride);
    }
  }

 private:
  static void step(const int8_t* a, int64_t a_stride, const uint8_t* w) {
    constexpr int64_t kWStride = kTileColumns * 4;
    Tiles::template load<4>(a, a_stride);
    Tiles::template load<5>(a + 16 * a_stride, a_stride);
    Tiles::template load<6>(w, kWStride);
    Tiles::template load<7>(w + 64, kWStride);
    Tiles::template add_products<0, 4, 6>();
    Tiles::template add_products<1, 4, 7>();
    Tiles::template add_products<2, 5, 6>();
    Tiles::template add_products<3, 5, 7>();
  }
};

template <class Tiles>
void run_amx(const GemmTask& task) {
  Tiles::begin();
  run_gemm<AmxKernel<Tiles>>(task);
  Tiles::end();
}

}  // namespace
}  // namespace quest::kernels::detail
