// packed_gemm with AMX tiles: 32 rows x 32 columns as 2 x 2 tiles of 16 x 16 sums. Of two row tiles
// of weights, up to 640 columns are unpacked into the L1 cache, a panel; activations, already in
// the order of AMX tiles, pass by in one stream.
//
// Tiles is the instruction set: x86/packed_gemm_amx.cpp gives the real one, the test an emulation
// (gemm_lowbit_amx_kernel.h says what it must have). Tiles 0 to 3 hold sums, 4 and 5 activations, 6
// and 7 weights: 64 columns are two blocks of 8 lines, which is already the order that AMX wants.
#pragma once

#include "quest/kernels/x86/packed_gemm_driver.h"
#include "quest/kernels/x86/packed_gemm_lines.h"

namespace quest::kernels::detail {
namespace {

// Blocks of 32 columns in a panel. The panel and the part of a strip that meets it, 16 KB each,
// stay in the L1 cache (48 KB) together; twice as much does not, and such products from memory that
// was just read reach 2.8 instead of 3.8 TOP/s on a quiet core.
inline constexpr int64_t kPanelBlocks = 16;
inline constexpr int64_t kPanelStrips = 16;  // whose sums are kept while a panel is multiplied
inline constexpr int64_t kTileBytes = 1024;
inline constexpr int64_t kPanelColumns = 2 * kTileRows;
inline constexpr int64_t kStripSums = kAmxStrip * kPanelColumns;

// Blocks [block, block + count) of a row tile into every second KB of the panel: [k / 64][2][2][8]
// lines.
template <class Values>
struct Panel {
  static constexpr int64_t kUnit = 2;  // panels begin at multiples of so many blocks
  static void unpack(const WeightTiles& w, int64_t tile, int64_t block, int64_t count,
                     uint8_t* panel) {
    const uint8_t* bytes = w.bytes + tile * w.tile_bytes + block * 64 * Values::kLines;
    Values values(w);
    for (int64_t b = 0; b < count; ++b, bytes += 64 * Values::kLines) {
      values.load(bytes, 0);
#pragma GCC unroll 8
      for (int l = 0; l < Values::kLines; ++l) fetch(bytes + 64 * l);
      uint8_t* lines = panel + b / 2 * 2 * kTileBytes + b % 2 * 512;
      for_each_group([&]<int kGroup>() QUEST_INLINE_LAMBDA {
        Vector::store(lines + 64 * kGroup, values.template group<kGroup>());
      });
    }
  }
};

struct SparsePanel {};
template <>
struct Panel<SparsePanel> {
  static constexpr int64_t kUnit = kSparseBlocks;
  static void unpack(const WeightTiles& w, int64_t tile, int64_t block, int64_t count,
                     uint8_t* panel) {
    alignas(64) uint8_t lines[kSparseBytes];
    for (int64_t b = 0; b < count; b += kSparseBlocks) {
      const int64_t blocks = count - b < kSparseBlocks ? count - b : kSparseBlocks;
      spread_sparse(w, tile, block + b, blocks, lines);
      for (int64_t l = 0; l < 8 * blocks; ++l) {
        uint8_t* line = panel + (b / 2 + l / 16) * 2 * kTileBytes + l % 16 * 64;
        Vector::store(line, Vector::load(lines + 64 * l));
      }
    }
  }
};

// sums (32,32) = or += strip * panel over `steps` of 64 columns.
template <class Tiles>
void multiply_panel(const uint8_t* strip, const uint8_t* panel, int64_t steps, bool add,
                    int32_t* sums) {
  constexpr int64_t kStride = kPanelColumns * 4;
  if (add) {
    Tiles::template load<0>(sums, kStride);
    Tiles::template load<1>(sums + 16, kStride);
    Tiles::template load<2>(sums + 16 * kPanelColumns, kStride);
    Tiles::template load<3>(sums + 16 * kPanelColumns + 16, kStride);
  } else {
    Tiles::template zero<0>();
    Tiles::template zero<1>();
    Tiles::template zero<2>();
    Tiles::template zero<3>();
  }
  for (int64_t i = 0; i < steps; ++i, strip += 2 * kTileBytes, panel += 2 * kTileBytes) {
    Tiles::template load<4>(strip, 64);
    Tiles::template load<6>(panel, 64);
    Tiles::template load<7>(panel + kTileBytes, 64);
    Tiles::template add_products<0, 4, 6>();
    Tiles::template load<5>(strip + kTileBytes, 64);
    Tiles::template add_products<1, 4, 7>();
    Tiles::template add_products<2, 5, 6>();
    Tiles::template add_products<3, 5, 7>();
  }
  Tiles::template store<0>(sums, kStride);
  Tiles::template store<1>(sums + 16, kStride);
  Tiles::template store<2>(sums + 16 * kPanelColumns, kStride);
  Tiles::template store<3>(sums + 16 * kPanelColumns + 16, kStride);
}

template <class Tiles, class Values>
void run_panels(const PackedTask& task) {
  alignas(64) uint8_t panel[2 * kPanelBlocks / 2 * kTileBytes];
  alignas(64) int32_t sums[kPanelStrips * kStripSums];
  const int64_t blocks = task.w.blocks;
  constexpr int64_t kUnit = Panel<Values>::kUnit;
  constexpr int64_t kMost = kPanelBlocks / kUnit * kUnit;
  const int64_t panels = (blocks + kMost - 1) / kMost;
  const int64_t panel_blocks = (blocks + kUnit * panels - 1) / (kUnit * panels) * kUnit;
  const int64_t last_strip = (task.m1 + kAmxStrip - 1) / kAmxStrip;
  for (int64_t n = task.n0; n < task.n1; n += kPanelColumns) {
    for (int64_t s0 = task.m0 / kAmxStrip; s0 < last_strip; s0 += kPanelStrips) {
      const int64_t s1 = s0 + kPanelStrips < last_strip ? s0 + kPanelStrips : last_strip;
      for (int64_t b = 0; b < blocks; b += panel_blocks) {
        const int64_t count = blocks - b < panel_blocks ? blocks - b : panel_blocks;
        const int64_t steps = (count + 1) / 2;
        for (int t = 0; t < 2; ++t) {
          uint8_t* half = panel + t * kTileBytes;
          const bool exists = n + t * kTileRows < task.n1;
          if (exists) {
            Panel<Values>::unpack(task.w, n / kTileRows + t, b, count, half);
          }
          // Activations are 0 past K, so the weights there may be anything; but not unset, for
          // those who check.
          for (int64_t i = exists ? count : 0; i < 2 * steps; ++i) {
            for (int64_t l = 0; l < 8; ++l) {
              Vector::store(half + i / 2 * 2 * kTileBytes + i % 2 * 512 + 64 * l, Vector::zero());
            }
          }
        }
        for (int64_t s = s0; s < s1; ++s) {
          const uint8_t* strip = task.a + s * task.strip_bytes + b / 2 * 2 * kTileBytes;
          int32_t* strip_sums = sums + (s - s0) * kStripSums;
          multiply_panel<Tiles>(strip, panel, steps, b > 0, strip_sums);
          if (b + count < blocks) continue;
          for (int t = 0; t < 2; ++t) {
            store_packed_tile(task, strip_sums + t * kTileRows, kPanelColumns, s * kAmxStrip,
                              kAmxStrip, n + t * kTileRows);
          }
        }
      }
    }
  }
}

template <class Tiles>
void run_amx_panels(const PackedTask& task) {
  Tiles::begin();
  if (task.w.values == PackedValues::kTable) {
    run_panels<Tiles, TableValues>(task);
  } else if (task.w.values == PackedValues::kSparse) {
    run_panels<Tiles, SparsePanel>(task);
  } else {
    switch (task.w.bits) {
      case 1:
        run_panels<Tiles, Bits<1>>(task);
        break;
      case 2:
        run_panels<Tiles, Bits<2>>(task);
        break;
      case 3:
        run_panels<Tiles, Bits<3>>(task);
        break;
      case 4:
        run_panels<Tiles, Bits<4>>(task);
        break;
      case 5:
        run_panels<Tiles, Bits<5>>(task);
        break;
      case 6:
        run_panels<Tiles, Bits<6>>(task);
        break;
      case 7:
        run_panels<Tiles, Bits<7>>(task);
        break;
      default:
        run_panels<Tiles, Bits<8>>(task);
    }
  }
  Tiles::end();
}

}  // namespace
}  // namespace quest::kernels::detail
