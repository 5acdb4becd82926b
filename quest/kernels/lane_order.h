// Lane order: packed codes (quest/quant/code_tiles.h) as the GPU's products read them
// (quest/kernels/cuda/packed_gemm.h). The same words of 32 bits, in another order, so that a warp's
// loads are whole lines and a loaded register is an operand of its tensor-core products.
//
// The columns of a row tile (16 rows) are cut into spans of 256, padded with u = 0. A span is bits
// vectors of 32 lanes x 16 bytes, one after the other; spans of a tile follow each other, then
// tiles. Word (row r of the tile, block b, line l) of the code tiles, with b = 8 span + 4 c + t, is
// at
//   lane 4 (r % 8) + t,  q = (c bits + l) 2 + r / 8,  word q % 4 of that lane in vector q / 4
// so lane 4 g + t holds rows g and g + 8 of columns [32 t, 32 t + 32) of both halves of a span.
//
// Order kGroups, 4 bits only, has a block's lines dealt to the lanes, b = 8 span + 4 c + l and line
// t in the places above: a product over 32 columns is then one block, what tables with a unit for
// each 32 columns need (table_gemm.h). Such units are in `lane units` order: [tile][span][row of
// the tile][block of the span].
//
//   std::vector<uint8_t> lanes(lane_bytes(tiles));
//   to_lanes(tiles, w.bytes, lanes.data());
//
// Thread rules: pure; row tiles [begin, end) can be dealt out to threads.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/quant/code_tiles.h"

namespace quest::kernels {

inline constexpr int kSpanColumns = 256;
inline constexpr int kSpanBlocks = 8;  // of 32 columns

enum class LaneOrder { kRows, kGroups };

constexpr int64_t lane_spans(int64_t k) { return (k + kSpanColumns - 1) / kSpanColumns; }

// Where a word of the code tiles is, in words of 32 bits. r: row of the matrix, as in N.
constexpr int64_t lane_word(int bits, int64_t k, int64_t row, int64_t block, int line,
                            LaneOrder order = LaneOrder::kRows) {
  const int64_t span = block / kSpanBlocks;
  const int half = static_cast<int>(block % kSpanBlocks) / 4, in_half = static_cast<int>(block % 4);
  const int r = static_cast<int>(row % 16);
  const int t = order == LaneOrder::kRows ? in_half : line;
  const int l = order == LaneOrder::kRows ? line : in_half;
  const int q = (half * bits + l) * 2 + r / 8;
  const int lane = 4 * (r % 8) + t;
  return ((row / 16 * lane_spans(k) + span) * bits + q / 4) * 128 + lane * 4 + q % 4;
}

int64_t lane_bytes(const CodeTiles& tiles);
// tiles: tiles.bytes() of pack_code_tiles. lanes: lane_bytes(tiles).
void to_lanes(const CodeTiles& tiles, const uint8_t* bytes, uint8_t* lanes,
              LaneOrder order = LaneOrder::kRows);
// Row tiles [begin, end) of the same; pointers to the whole.
void to_lanes(const CodeTiles& tiles, const uint8_t* bytes, uint8_t* lanes, LaneOrder order,
              int64_t begin, int64_t end);

// units (V, ceil(C/32)); lane_units: lane_unit_count of them, 0 where padded.
int64_t lane_unit_count(int64_t rows, int64_t columns);
void to_lane_units(const bfloat16* units, int64_t rows, int64_t columns, bfloat16* lane_units);

}  // namespace quest::kernels
