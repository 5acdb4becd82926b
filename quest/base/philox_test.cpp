#include "quest/base/philox.h"

#include <cmath>
#include <set>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/checksum.h"

namespace quest {
namespace {

// Known answers of the Random123 distribution (kat_vectors, "philox4x32 10").
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (std::array<uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (std::array<uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, SeedStreamAndIndexAllMatter) {
  std::set<std::array<uint32_t, 4>> blocks;
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
    for (const uint64_t stream : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
      for (const uint64_t index : {uint64_t{0}, uint64_t{1}, uint64_t{1} << 32}) {
        blocks.insert(Philox(seed, stream).block(index));
      }
    }
  }
  EXPECT_EQ(blocks.size(), 27u);
}

TEST(Philox, UniformHasItsMoments) {
  const Philox random(5);
  constexpr int kDraws = 100000;
  double sum = 0, square = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = random.uniform(static_cast<uint64_t>(i));
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    square += u * u;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  EXPECT_NEAR(square / kDraws, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / kDraws));
}

TEST(Philox, NormalHasItsMomentsAndTails) {
  const Philox random(6);
  constexpr int kDraws = 100000;
  double sum = 0, square = 0, fourth = 0;
  int beyond_two = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double z = random.normal(static_cast<uint64_t>(i));
    ASSERT_TRUE(std::isfinite(z));
    sum += z;
    square += z * z;
    fourth += z * z * z * z;
    beyond_two += std::abs(z) > 2;
  }
  EXPECT_NEAR(sum / kDraws, 0.0, 5 * std::sqrt(1.0 / kDraws));
  EXPECT_NEAR(square / kDraws, 1.0, 5 * std::sqrt(2.0 / kDraws));
  EXPECT_NEAR(fourth / kDraws, 3.0, 5 * std::sqrt(96.0 / kDraws));
  EXPECT_NEAR(static_cast<double>(beyond_two) / kDraws, 0.0455, 5 * std::sqrt(0.0434 / kDraws));
}

// First weights: the same bits on every machine.
TEST(Philox, NormalHasTheseBits) {
  const Philox random(8, 9);
  std::vector<double> draws;
  for (uint64_t i = 0; i < 5000; ++i) draws.push_back(random.normal(i));
  EXPECT_EQ(checksum128_hex(std::as_bytes(std::span(draws))), "82c0f558b0468daf298f436b61660e60");
}

TEST(Philox, BelowIsTheHighPartOfTheExactProduct) {
  const Philox random(7);
  const std::vector<uint64_t> limits = {1, 2, 3, 10, 1000003, uint64_t{1} << 32, UINT64_MAX};
  for (uint64_t index = 0; index < 200; ++index) {
    const auto w = random.block(index);
    for (const uint64_t n : limits) {
      // Schoolbook product of the four words with n's two halves, from the lowest word up.
      const std::array<uint64_t, 4> x = {w[3], w[2], w[1], w[0]};
      const std::array<uint64_t, 2> y = {n & 0xffffffffu, n >> 32};
      std::array<uint64_t, 6> digits{};
      for (size_t j = 0; j < 2; ++j) {
        uint64_t carry = 0;
        for (size_t i = 0; i < 4; ++i) {
          const uint64_t value = digits[i + j] + x[i] * y[j] + carry;
          digits[i + j] = value & 0xffffffffu;
          carry = value >> 32;
        }
        digits[j + 4] += carry;
      }
      ASSERT_EQ(random.below(index, n), (digits[5] << 32) | digits[4]) << n;
      ASSERT_LT(random.below(index, n), n);
    }
  }
}

TEST(Philox, BelowIsUniform) {
  const Philox random(8);
  std::vector<int> counts(7);
  constexpr int kDraws = 70000;
  for (int i = 0; i < kDraws; ++i) ++counts[random.below(static_cast<uint64_t>(i), 7)];
  double chi = 0;
  for (const int count : counts) chi += (count - 10000.0) * (count - 10000.0) / 10000.0;
  EXPECT_LT(chi, 27.9);  // 6 degrees of freedom, 1e-4
}

TEST(PhiloxDeathTest, BelowNothingIsABug) { EXPECT_DEATH(Philox(1).below(0, 0), "internal error"); }

}  // namespace
}  // namespace quest
