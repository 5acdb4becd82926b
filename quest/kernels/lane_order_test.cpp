#include "quest/kernels/lane_order.h"

#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace quest::kernels {
namespace {

struct Packed {
  Packed(int bits, int64_t n, int64_t k) : tiles{.bits = bits, .n = n, .k = k} {
    std::mt19937 random(static_cast<unsigned>(bits + 100 * n + k));
    for (int64_t i = 0; i < n * k; ++i) {
      values.push_back(static_cast<uint8_t>(random() % (1u << bits)));
    }
    bytes.resize(static_cast<size_t>(tiles.bytes()));
    pack_code_tiles(tiles, values.data(), bytes.data());
  }
  std::vector<uint32_t> lanes(LaneOrder order) const {
    std::vector<uint32_t> out(static_cast<size_t>(lane_bytes(tiles) / 4), 0xa5a5a5a5u);
    to_lanes(tiles, bytes.data(), reinterpret_cast<uint8_t*>(out.data()), order);
    return out;
  }
  CodeTiles tiles;
  std::vector<uint8_t> values, bytes;
};

// The value of row n, column k read back out of lanes, from the two headers' statements alone.
unsigned value_at(const std::vector<uint32_t>& lanes, const CodeTiles& t, int64_t n, int64_t k,
                  LaneOrder order) {
  unsigned value = 0;
  int shift = 0;
  for (const int p : {8, 4, 2, 1}) {
    if ((t.bits & p) == 0) continue;
    const int64_t b = k / 32, in_block = k % 32;
    const int line = shift + static_cast<int>(in_block) / (32 / p);
    const int j = static_cast<int>(in_block) % (32 / p) / 4, i = static_cast<int>(in_block) % 4;
    const int64_t span = b / 8, c = b % 8 / 4, r = n % 16;
    const int64_t lane_t = order == LaneOrder::kRows ? b % 4 : line;
    const int64_t place = order == LaneOrder::kRows ? line : b % 4;
    const int64_t lane = 4 * (r % 8) + lane_t, q = (c * t.bits + place) * 2 + r / 8;
    const int64_t vector = (n / 16 * ((t.k + 255) / 256) + span) * t.bits + q / 4;
    const uint32_t word = lanes[static_cast<size_t>((vector * 32 + lane) * 4 + q % 4)];
    value |= (word >> (8 * i + j * p) & ((1u << p) - 1)) << shift;
    shift += p;
  }
  return value;
}

TEST(LaneOrder, EveryValueIsWhereTheHeaderSays) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (const auto& [n, k] :
         {std::pair{1, 32}, {16, 256}, {17, 64}, {33, 300}, {5, 1}, {20, 1024 + 96}}) {
      const Packed p(bits, n, k);
      const std::vector<uint32_t> lanes = p.lanes(LaneOrder::kRows);
      for (int64_t row = 0; row < n; ++row) {
        for (int64_t column = 0; column < k; ++column) {
          ASSERT_EQ(value_at(lanes, p.tiles, row, column, LaneOrder::kRows),
                    p.values[static_cast<size_t>(row * k + column)])
              << bits << " bits (" << n << ", " << k << ") row " << row << " column " << column;
        }
      }
    }
  }
}

TEST(LaneOrder, GroupsAreWhereTheHeaderSays) {
  for (const auto& [n, k] : {std::pair{1, 32}, {16, 256}, {17, 64}, {33, 300}, {5, 1}}) {
    const Packed p(4, n, k);
    const std::vector<uint32_t> lanes = p.lanes(LaneOrder::kGroups);
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t column = 0; column < k; ++column) {
        ASSERT_EQ(value_at(lanes, p.tiles, row, column, LaneOrder::kGroups),
                  p.values[static_cast<size_t>(row * k + column)])
            << "(" << n << ", " << k << ") row " << row << " column " << column;
      }
    }
  }
}

TEST(LaneOrder, WordsAreCopiedWithoutLossAndPaddingIsZero) {
  for (const int bits : {1, 3, 4, 7}) {
    for (const LaneOrder order : {LaneOrder::kRows, LaneOrder::kGroups}) {
      if (order == LaneOrder::kGroups && bits != 4) continue;
      const Packed p(bits, 21, 300);  // 10 blocks of 16
      const std::vector<uint32_t> lanes = p.lanes(order);
      std::vector<bool> used(lanes.size(), false);
      for (int64_t row = 0; row < 32; ++row) {
        for (int64_t block = 0; block < p.tiles.blocks(); ++block) {
          for (int line = 0; line < bits; ++line) {
            uint32_t word;
            std::memcpy(&word,
                        p.bytes.data() + row / 16 * p.tiles.tile_bytes() +
                            block * p.tiles.block_bytes() + 64 * line + 4 * (row % 16),
                        4);
            const auto at = static_cast<size_t>(lane_word(bits, 300, row, block, line, order));
            ASSERT_LT(at, lanes.size());
            ASSERT_FALSE(used[at]);
            used[at] = true;
            ASSERT_EQ(lanes[at], word);
          }
        }
      }
      for (size_t i = 0; i < lanes.size(); ++i) {
        if (!used[i]) {
          ASSERT_EQ(lanes[i], 0u) << "padding, word " << i;
        }
      }
    }
  }
}

TEST(LaneOrder, PartsAreTheWhole) {
  const Packed p(3, 50, 520);
  const std::vector<uint32_t> whole = p.lanes(LaneOrder::kRows);
  std::vector<uint32_t> parts(whole.size());
  auto* out = reinterpret_cast<uint8_t*>(parts.data());
  to_lanes(p.tiles, p.bytes.data(), out, LaneOrder::kRows, 1, 4);
  EXPECT_NE(parts, whole);
  to_lanes(p.tiles, p.bytes.data(), out, LaneOrder::kRows, 0, 1);
  EXPECT_EQ(parts, whole);
}

TEST(LaneOrder, UnitsOfGroups) {
  const int64_t rows = 19, columns = 300, groups = 10;
  std::vector<bfloat16> units;
  for (int64_t i = 0; i < rows * groups; ++i) units.emplace_back(static_cast<float>(i + 1));
  std::vector<bfloat16> lanes(static_cast<size_t>(lane_unit_count(rows, columns)), bfloat16(7.0f));
  ASSERT_EQ(lanes.size(), 2u * 2 * 16 * 8);
  to_lane_units(units.data(), rows, columns, lanes.data());
  for (int64_t tile = 0; tile < 2; ++tile) {
    for (int64_t span = 0; span < 2; ++span) {
      for (int64_t r = 0; r < 16; ++r) {
        for (int64_t b = 0; b < 8; ++b) {
          const int64_t row = 16 * tile + r, group = 8 * span + b;
          const float expected =
              row < rows && group < groups ? static_cast<float>(units[row * groups + group]) : 0.0f;
          EXPECT_EQ(static_cast<float>(lanes[((tile * 2 + span) * 16 + r) * 8 + b]), expected);
        }
      }
    }
  }
}

}  // namespace
}  // namespace quest::kernels
