// What the GPU's product of packed weights does in each lane (quest/kernels/cuda/packed_fields.h),
// followed on a CPU: 32 lanes and the tensor core's m16n8k32.
#include "quest/kernels/cuda/packed_fields.h"

#include <random>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "quest/kernels/lane_order.h"

namespace quest::kernels::cuda {
namespace {

constexpr int kColumns = 128;  // of half a span

struct Half {
  Half(int b, unsigned seed) : bits(b) {
    std::mt19937 random(seed);
    u.resize(16 * 256);
    for (uint8_t& x : u) x = static_cast<uint8_t>(random() % (1u << bits));
    a.resize(256);
    for (int8_t& x : a) x = static_cast<int8_t>(random());
    const CodeTiles tiles{.bits = bits, .n = 16, .k = 256};
    std::vector<uint8_t> bytes(static_cast<size_t>(tiles.bytes()));
    pack_code_tiles(tiles, u.data(), bytes.data());
    words.resize(static_cast<size_t>(lane_bytes(tiles) / 4));
    to_lanes(tiles, bytes.data(), reinterpret_cast<uint8_t*>(words.data()));
  }
  // The words of a lane for half c: 2 * bits of its 4 * bits.
  std::vector<uint32_t> lane_words(int lane, int c) const {
    std::vector<uint32_t> out;
    for (int q = c * 2 * bits; q < (c + 1) * 2 * bits; ++q) {
      out.push_back(words[static_cast<size_t>(q / 4 * 128 + lane * 4 + q % 4)]);
    }
    return out;
  }
  int64_t dot(int row, int c) const {
    int64_t sum = 0;
    for (int k = 0; k < kColumns; ++k) {
      sum += int64_t{u[static_cast<size_t>(row * 256 + c * kColumns + k)]} *
             a[static_cast<size_t>(c * kColumns + k)];
    }
    return sum;
  }
  int bits;
  std::vector<uint8_t> u;
  std::vector<int8_t> a;
  std::vector<uint32_t> words;
};

int64_t byte_dot(uint32_t values, const int8_t* a) {
  int64_t sum = 0;
  for (int i = 0; i < 4; ++i) sum += int64_t{values >> (8 * i) & 255} * a[i];
  return sum;
}

// Both rows of a lane add up in the products of its 4 lanes t, each with the activations that the
// kernel takes beside them: bytes 32 t + 4 group of the half.
template <int kBits>
void expect_fields_are_the_dot() {
  const Half half(kBits, kBits);
  for (int c = 0; c < 2; ++c) {
    for (int g = 0; g < 8; ++g) {
      int sums[2][kFieldSets] = {};
      for (int t = 0; t < 4; ++t) {
        const std::vector<uint32_t> w = half.lane_words(4 * g + t, c);
        const int8_t* a = half.a.data() + c * kColumns + 32 * t;
        for_each_field<kBits>(w.data(), [&](uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                            int first, int second, int set) {
          ASSERT_TRUE(uses_set<kBits>(set)) << kBits << " set " << set;
          sums[0][set] +=
              static_cast<int>(byte_dot(a0, a + 4 * first) + byte_dot(a2, a + 4 * second));
          sums[1][set] +=
              static_cast<int>(byte_dot(a1, a + 4 * first) + byte_dot(a3, a + 4 * second));
        });
      }
      for (int h = 0; h < 2; ++h) {
        EXPECT_EQ(value_of_sets<kBits>([&](int set) { return sums[h][set]; }),
                  half.dot(g + 8 * h, c))
            << kBits << " bits, row " << g + 8 * h;
      }
    }
  }
}

template <int kBits>
void expect_groups_are_the_values() {
  const Half half(kBits, 10 + kBits);
  for (int c = 0; c < 2; ++c) {
    for (int lane = 0; lane < 32; ++lane) {
      const std::vector<uint32_t> w = half.lane_words(lane, c);
      for (int h = 0; h < 2; ++h) {
        for (int j = 0; j < 8; ++j) {
          const uint32_t group = unpacked_group<kBits>(w.data(), j, h);
          for (int i = 0; i < 4; ++i) {
            const int column = c * kColumns + 32 * (lane % 4) + 4 * j + i;
            EXPECT_EQ(group >> (8 * i) & 255,
                      half.u[static_cast<size_t>((lane / 4 + 8 * h) * 256 + column)])
                << kBits << " bits";
          }
        }
      }
    }
  }
}

template <int kBits>
void expect_planes_are_the_bits() {
  const Half half(kBits, 20 + kBits);
  for (int column = 0; column < 32; ++column) {
    EXPECT_EQ(plane_bit<kBits>(column), plane_bit<kBits>(column % 4) +
                                            kPlaneStep<kBits> * (column / 4 % 2) +
                                            plane_bit<kBits>(column / 8 * 8));
  }
  for (int c = 0; c < 2; ++c) {
    for (int lane = 0; lane < 32; ++lane) {
      const std::vector<uint32_t> w = half.lane_words(lane, c);
      for (int h = 0; h < 2; ++h) {
        uint32_t planes[kBits];
        bit_planes<kBits>(w.data(), h, planes);
        for (int column = 0; column < 32; ++column) {
          unsigned value = 0;
          for (int p = 0; p < kBits; ++p) {
            value |= (planes[p] >> plane_bit<kBits>(column) & 1u) << p;
          }
          EXPECT_EQ(value, half.u[static_cast<size_t>((lane / 4 + 8 * h) * 256 + c * kColumns +
                                                      32 * (lane % 4) + column)])
              << kBits << " bits, column " << column;
        }
      }
    }
  }
}

template <int... kMinusOne>
void all_bits(std::integer_sequence<int, kMinusOne...>) {
  (expect_fields_are_the_dot<kMinusOne + 1>(), ...);
  (expect_groups_are_the_values<kMinusOne + 1>(), ...);
}

TEST(PackedFields, EveryColumnIsInTheProductOnce) {
  all_bits(std::make_integer_sequence<int, 8>{});
}

TEST(PackedFields, PlanesHaveEveryBitOnce) {
  expect_planes_are_the_bits<1>();
  expect_planes_are_the_bits<2>();
  expect_planes_are_the_bits<3>();
  expect_planes_are_the_bits<4>();
}

TEST(PackedFields, NumbersAreLookedUp) {
  int8_t numbers[16];
  for (int i = 0; i < 16; ++i) numbers[i] = static_cast<int8_t>(17 * i * i - 60 * i + 3);
  uint32_t table[4] = {};
  for (int i = 0; i < 16; ++i) {
    table[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(numbers[i])) << (8 * (i % 4));
  }
  std::mt19937 random(5);
  for (int trial = 0; trial < 200; ++trial) {
    const uint32_t line = static_cast<uint32_t>(random());
    uint32_t groups[2];
    looked_up_groups(line, table, groups[0], groups[1]);
    for (int i = 0; i < 4; ++i) {
      for (int odd = 0; odd < 2; ++odd) {
        EXPECT_EQ(static_cast<int8_t>(groups[odd] >> (8 * i) & 255),
                  numbers[line >> (8 * i + 4 * odd) & 15]);
      }
    }
  }
}

}  // namespace
}  // namespace quest::kernels::cuda
