#include "quest/kernels/lane_order.h"

#include <algorithm>
#include <cstring>

#include "quest/base/error.h"

namespace quest::kernels {
namespace {

constexpr int64_t kLineWords = 16;  // one of each row of a tile

// One block into its places. to: first word of the span.
void scatter_block(int bits, const uint32_t* block, int half, int in_half, LaneOrder order,
                   uint32_t* to) {
  for (int line = 0; line < bits; ++line) {
    const int t = order == LaneOrder::kRows ? in_half : line;
    const int l = order == LaneOrder::kRows ? line : in_half;
    for (int upper = 0; upper < 2; ++upper) {
      const int q = (half * bits + l) * 2 + upper;
      uint32_t* out = to + q / 4 * 128 + t * 4 + q % 4;
      const uint32_t* in = block + line * kLineWords + upper * 8;
      for (int g = 0; g < 8; ++g) out[16 * g] = in[g];
    }
  }
}

}  // namespace

int64_t lane_bytes(const CodeTiles& tiles) {
  return tiles.row_tiles() * lane_spans(tiles.k) * tiles.bits * 512;
}

void to_lanes(const CodeTiles& tiles, const uint8_t* bytes, uint8_t* lanes, LaneOrder order,
              int64_t begin, int64_t end) {
  QUEST_ASSERT(tiles.bits >= 1 && tiles.bits <= 8, "{} bits", tiles.bits);
  QUEST_ASSERT(order == LaneOrder::kRows || tiles.bits == 4, "order of groups with {} bits",
               tiles.bits);
  const int64_t spans = lane_spans(tiles.k), span_words = int64_t{128} * tiles.bits;
  uint32_t block[8 * kLineWords], span[8 * 128];
  for (int64_t tile = begin; tile < end; ++tile) {
    for (int64_t s = 0; s < spans; ++s) {
      const int64_t first = s * kSpanBlocks;
      const int64_t count = std::min<int64_t>(kSpanBlocks, tiles.blocks() - first);
      if (count < kSpanBlocks) std::fill_n(span, span_words, 0u);
      const uint8_t* in = bytes + tile * tiles.tile_bytes() + first * tiles.block_bytes();
      for (int b = 0; b < static_cast<int>(count); ++b) {
        std::memcpy(block, in + b * tiles.block_bytes(), static_cast<size_t>(tiles.block_bytes()));
        scatter_block(tiles.bits, block, b / 4, b % 4, order, span);
      }
      std::memcpy(lanes + (tile * spans + s) * span_words * 4, span,
                  static_cast<size_t>(span_words * 4));
    }
  }
}

void to_lanes(const CodeTiles& tiles, const uint8_t* bytes, uint8_t* lanes, LaneOrder order) {
  to_lanes(tiles, bytes, lanes, order, 0, tiles.row_tiles());
}

int64_t lane_unit_count(int64_t rows, int64_t columns) {
  return (rows + kTileRows - 1) / kTileRows * kTileRows * lane_spans(columns) * kSpanBlocks;
}

void to_lane_units(const bfloat16* units, int64_t rows, int64_t columns, bfloat16* lane_units) {
  const int64_t groups = (columns + kTileBlock - 1) / kTileBlock, spans = lane_spans(columns);
  std::fill_n(lane_units, lane_unit_count(rows, columns), bfloat16(0.0f));
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t span = row / kTileRows * spans + g / kSpanBlocks;
      lane_units[(span * kTileRows + row % kTileRows) * kSpanBlocks + g % kSpanBlocks] =
          units[row * groups + g];
    }
  }
}

}  // namespace quest::kernels
