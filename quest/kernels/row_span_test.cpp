// How a warp of the GPU holds a row's values (quest/kernels/cuda/row_span.h), followed on a CPU: 32
// lanes and their shared memory.
#include "quest/kernels/cuda/row_span.h"

#include <array>
#include <random>
#include <set>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "quest/quant/hadamard.h"

namespace quest::kernels::cuda {
namespace {

constexpr int kLanes = 32;

// 8 neighbouring lanes, 16 bytes each, meet every bank once.
void expect_no_conflicts(const std::array<int, kLanes>& units) {
  for (size_t first = 0; first < kLanes; first += 8) {
    std::set<int> banks;
    for (size_t i = first; i < first + 8; ++i) banks.insert(units[i] % 8);
    EXPECT_EQ(banks.size(), 8) << "lanes from " << first;
  }
}

template <class F>
std::array<int, kLanes> in_lanes(const F& unit_of) {
  std::array<int, kLanes> units{};
  for (int lane = 0; lane < kLanes; ++lane) units[static_cast<size_t>(lane)] = unit_of(lane);
  return units;
}

TEST(RowSpan, EveryWayReachesTheChunksThatItSays) {
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int j = 0; j < 4; ++j) {
      EXPECT_EQ(chunk_in_rounds(lane) + kChunkRound * j, chunk_unit(32 * j + lane));
      EXPECT_EQ(chunk_by_quarters(lane) + j, chunk_unit(4 * lane + j));
      EXPECT_EQ(chunk_by_strides(lane) + chunk_stride(j),
                chunk_unit(16 * (lane / 4) + 4 * j + lane % 4));
    }
  }
}

TEST(RowSpan, ChunksAndFloatsHavePlacesOfTheirOwn) {
  std::set<int> chunks, floats;
  for (int chunk = 0; chunk < kSpan / kChunk; ++chunk) {
    EXPECT_LT(chunk_unit(chunk), kChunkUnits);
    chunks.insert(chunk_unit(chunk));
    for (int half = 0; half < 2; ++half) {
      const int unit = float_unit(chunk / 16, chunk / 4 % 4, chunk % 4, half);
      EXPECT_LT(unit, kFloatUnits);
      floats.insert(unit);
    }
  }
  EXPECT_EQ(chunks.size(), kSpan / kChunk);
  EXPECT_EQ(floats.size(), 2 * kSpan / kChunk);
}

TEST(RowSpan, LanesThatTravelTogetherMeetDifferentBanks) {
  expect_no_conflicts(in_lanes(chunk_in_rounds));
  expect_no_conflicts(in_lanes(chunk_by_quarters));
  expect_no_conflicts(in_lanes(float_by_quarters));
  expect_no_conflicts(in_lanes(float_by_strides));
}

// transform_span, lane by lane.
TEST(RowSpan, ButterfliesByQuartersThenByStridesAreTheHadamardTransform) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> row(kSpan), expected;
  for (float& x : row) x = normal(random);
  expected = row;
  hadamard_transform<float>(expected);

  const auto stages = [](std::span<float> v, std::initializer_list<size_t> strides) {
    for (const size_t stride : strides) {
      for (size_t i = 0; i < v.size(); ++i) {
        if ((i & stride) != 0) continue;
        const float a = v[i], b = v[i + stride];
        v[i] = a + b;
        v[i + stride] = a - b;
      }
    }
  };
  std::vector<float> shared(4 * kFloatUnits), turned(kSpan);
  for (int lane = 0; lane < kLanes; ++lane) {
    const std::span<float> v(row.data() + lane * 32, 32);  // quarter lane % 4 of block lane / 4
    stages(v, {1, 2, 4, 8, 16});
    for (int i = 0; i < 32; ++i) {
      shared[static_cast<size_t>(4 * (float_by_quarters(lane) + i / 4) + i % 4)] =
          v[static_cast<size_t>(i)];
    }
  }
  for (int lane = 0; lane < kLanes; ++lane) {
    std::vector<float> v(32);
    for (int i = 0; i < 32; ++i) {
      const int unit = float_by_strides(lane) + kQuarterUnits * (i / 8) + i / 4 % 2;
      v[static_cast<size_t>(i)] = shared[static_cast<size_t>(4 * unit + i % 4)];
    }
    stages(v, {8, 16});
    for (int i = 0; i < 32; ++i) {
      const int column = lane / 4 * kSpanBlock + i / 8 * 32 + lane % 4 * kChunk + i % 8;
      turned[static_cast<size_t>(column)] = v[static_cast<size_t>(i)] * hadamard_norm<float>(128);
    }
  }
  EXPECT_EQ(turned, expected);
}

}  // namespace
}  // namespace quest::kernels::cuda
