#include "quest/data/permutation.h"

#include <array>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

namespace quest {
namespace {

TEST(Permutation, IsABijectionForAwkwardSizes) {
  for (const int64_t n : {1, 2, 3, 4, 5, 255, 256, 257, 1023, 65537, 1000003}) {
    const Permutation order(n, 42, 7);
    std::vector<bool> seen(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      const int64_t image = order(i);
      ASSERT_GE(image, 0);
      ASSERT_LT(image, n);
      ASSERT_FALSE(seen[static_cast<size_t>(image)]) << n << ": " << image << " twice";
      seen[static_cast<size_t>(image)] = true;
    }
  }
}

TEST(Permutation, StaysInRangeForHugeSizes) {
  const int64_t n = (int64_t{1} << 61) + 12345;
  const Permutation order(n, 1, 2);
  for (int64_t i = 0; i < 1000; ++i) {
    const int64_t image = order(n - 1 - i);
    ASSERT_GE(image, 0);
    ASSERT_LT(image, n);
  }
}

TEST(Permutation, DependsOnSeedAndEpoch) {
  const auto order_of = [](uint64_t seed, uint64_t epoch) {
    const Permutation order(1000, seed, epoch);
    std::vector<int64_t> images(1000);
    for (int64_t i = 0; i < 1000; ++i) images[static_cast<size_t>(i)] = order(i);
    return images;
  };
  EXPECT_EQ(order_of(1, 0), order_of(1, 0));
  EXPECT_NE(order_of(1, 0), order_of(2, 0));
  EXPECT_NE(order_of(1, 0), order_of(1, 1));
}

// Each of 10 elements comes first, and last, in a tenth of the epochs: within 5 standard
// deviations.
TEST(Permutation, IsUniformOverEpochs) {
  constexpr int kEpochs = 20000;
  std::array<int, 10> first{}, last{};
  for (int epoch = 0; epoch < kEpochs; ++epoch) {
    const Permutation order(10, 3, static_cast<uint64_t>(epoch));
    ++first[static_cast<size_t>(order(0))];
    ++last[static_cast<size_t>(order(9))];
  }
  for (size_t i = 0; i < 10; ++i) {
    EXPECT_NEAR(first[i], kEpochs / 10, 5 * 42.4) << i;
    EXPECT_NEAR(last[i], kEpochs / 10, 5 * 42.4) << i;
  }
}

// Neighbours go to unrelated places: the mean distance of random pairs is n / 3.
TEST(Permutation, SpreadsNeighbours) {
  constexpr int64_t n = 100003;
  const Permutation order(n, 5, 0);
  double distance = 0;
  for (int64_t i = 0; i + 1 < n; ++i)
    distance += static_cast<double>(std::abs(order(i + 1) - order(i)));
  EXPECT_NEAR(distance / static_cast<double>(n - 1), static_cast<double>(n) / 3, 0.01 * n);
}

}  // namespace
}  // namespace quest
