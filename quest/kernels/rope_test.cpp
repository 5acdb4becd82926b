#include "quest/kernels/rope.h"

#include "quest/kernels/float_kernels_testing.h"

namespace quest::kernels {
namespace {

using testing::random_values;
using testing::same_bits;

struct Tables {
  std::vector<float> cos, sin;
};

Tables make_tables(int64_t positions, int64_t head_dim) {
  Tables t;
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t i = 0; i < head_dim / 2; ++i) {
      const double angle = p * std::pow(10000.0, -2.0 * i / head_dim);
      t.cos.push_back(static_cast<float>(std::cos(angle)));
      t.sin.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  return t;
}

const std::vector<int32_t> kPositions = {0, 3, 1, 30, 2};
constexpr int64_t kHeads = 3;

template <class T>
void check_levels() {
  for (const int64_t head_dim : {2, 4, 16, 30, 32, 34, 64, 66, 96, 128, 130}) {
    const int64_t rows = static_cast<int64_t>(kPositions.size());
    const int64_t stride = kHeads * head_dim + 7;  // q inside a wider row
    const Tables t = make_tables(31, head_dim);
    for (const int direction : {1, -1}) {
      const std::vector<T> x = random_values<T>(rows * stride, 9);
      std::vector<T> want = x;
      rope(want.data(), rows, stride, kHeads, head_dim, t.cos.data(), t.sin.data(),
           kPositions.data(), direction, IsaLevel::kScalar);
      EXPECT_FALSE(same_bits(want, x));
      for (int64_t row = 0; row < rows; ++row) {  // nothing outside the heads is touched
        for (int64_t i = kHeads * head_dim; i < stride; ++i) {
          EXPECT_EQ(float(want[row * stride + i]), float(x[row * stride + i]));
        }
      }
      for (const IsaLevel level : available_isa_levels()) {
        std::vector<T> got = x;
        rope(got.data(), rows, stride, kHeads, head_dim, t.cos.data(), t.sin.data(),
             kPositions.data(), direction, level);
        EXPECT_TRUE(same_bits(got, want)) << isa_level_name(level) << " D=" << head_dim;
      }
    }
  }
}

TEST(Rope, LevelsGiveTheBitsOfTheDefinitionInFloat) { check_levels<float>(); }
TEST(Rope, LevelsGiveTheBitsOfTheDefinitionInBfloat16) { check_levels<bfloat16>(); }

// The pair (x_i, x_{i + D/2}) as a complex number is multiplied by exp(i angle).
TEST(Rope, RotatesPairsOfTheTwoHalves) {
  constexpr int64_t kDim = 8;
  const Tables t = make_tables(31, kDim);
  const std::vector<float> x = random_values<float>(5 * kDim, 10);
  std::vector<float> y = x;
  rope(y.data(), 5, kDim, 1, kDim, t.cos.data(), t.sin.data(), kPositions.data(), 1);
  for (int64_t row = 0; row < 5; ++row) {
    for (int64_t i = 0; i < kDim / 2; ++i) {
      const double angle = kPositions[row] * std::pow(10000.0, -2.0 * i / kDim);
      const double a = x[row * kDim + i], b = x[row * kDim + i + kDim / 2];
      EXPECT_NEAR(y[row * kDim + i], a * std::cos(angle) - b * std::sin(angle), 1e-6);
      EXPECT_NEAR(y[row * kDim + i + kDim / 2], b * std::cos(angle) + a * std::sin(angle), 1e-6);
    }
  }
}

// The backward pass is the transpose of a linear map: <R x, g> = <x, R' g>; and it undoes R.
TEST(Rope, DirectionMinusOneIsTheTransposeAndTheInverse) {
  constexpr int64_t kDim = 50;
  const Tables t = make_tables(31, kDim);
  const std::vector<float> x = random_values<float>(5 * kDim, 11);
  const std::vector<float> g = random_values<float>(5 * kDim, 12);
  for (const IsaLevel level : available_isa_levels()) {
    const auto rotated = [&](std::vector<float> v, int direction) {
      rope(v.data(), 5, kDim, 1, kDim, t.cos.data(), t.sin.data(), kPositions.data(), direction,
           level);
      return v;
    };
    const std::vector<float> forward = rotated(x, 1), backward = rotated(g, -1);
    double left = 0, right = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      left += double{forward[i]} * g[i];
      right += double{x[i]} * backward[i];
    }
    EXPECT_NEAR(left, right, 1e-5);
    const std::vector<float> back = rotated(forward, -1);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(back[i], x[i], 1e-6);
  }
}

}  // namespace
}  // namespace quest::kernels
