// attention's functions on rows of 32 values.
#ifdef __x86_64__

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "quest/kernels/attention_levels.h"
#include "quest/kernels/emulated_attention_testing.h"
#include "quest/kernels/float_kernels_testing.h"
#include "quest/kernels/x86/attention_amx_kernel.h"

namespace quest::kernels {
namespace {

using testing::EmulatedAttention;
using testing::random_values;

constexpr double kFloat = testing::kFloatEps;
constexpr double kExpError = 3e-7;  // of 2^x

// Real AVX-512 code of the rows, which needs no tiles.
class AttentionRows : public ::testing::Test {
 protected:
  void SetUp() override {
    if (highest_isa_level() < IsaLevel::kAvx512Vnni || !cpu_features().avx512bf16) {
      GTEST_SKIP() << "this CPU has no AVX-512 with VNNI and BF16";
    }
  }

  // The value that `pieces` of it, a block apart, add up to.
  static double sum_of(const std::vector<bfloat16>& values, int pieces, size_t i) {
    double sum = 0;
    for (int piece = 0; piece < pieces; ++piece) {
      sum += static_cast<float>(values[static_cast<size_t>(piece * detail::kBlock) + i]);
    }
    return sum;
  }

  // The rounding to bfloat16 or what three pieces leave out, and the error of 2^x.
  static void expect_rounded(const std::vector<bfloat16>& actual, int pieces, size_t i,
                             double expected) {
    const double rounding = pieces == 1 ? 0x1p-8 : 0x1p-23;
    EXPECT_LE(std::abs(sum_of(actual, pieces, i) - expected),
              (rounding + 2 * kExpError) * std::abs(expected) + 0x1p-125)
        << i;
  }

  static std::vector<bfloat16> block(int pieces) {
    return std::vector<bfloat16>(static_cast<size_t>(pieces * detail::kBlock));
  }

  template <int kPieces>
  static void check_weights();
  template <int kPieces>
  static void check_slopes();
};

TEST_F(AttentionRows, Maxima) {
  const auto scores = random_values<float>(32, 1);
  auto maxima = random_values<float>(16, 2), expected = maxima;
  detail::attention_raise_maximum_avx512(scores.data(), maxima.data());
  EmulatedAttention::raise_maximum(scores.data(), expected.data());
  EXPECT_TRUE(testing::same_bits(maxima, expected));
  EXPECT_EQ(detail::attention_largest_avx512(maxima.data()),
            EmulatedAttention::largest(maxima.data()));
  EXPECT_NEAR(detail::attention_total_avx512(maxima.data()),
              EmulatedAttention::total(maxima.data()), 16 * 16 * kFloat);
}

template <int kPieces>
void AttentionRows::check_weights() {
  for (const double spread : {0.0, 1.0, 30.0, 300.0}) {
    auto scores = random_values<float>(32, 1, spread);
    scores[7] = detail::kExcluded;
    const float offset = static_cast<float>(3 * spread), factor = 0.7f;
    std::vector<float> totals(16, 1.0f);
    std::vector<bfloat16> weights = block(kPieces);
    detail::attention_weigh_avx512<kPieces>(scores.data(), factor, offset, totals.data(),
                                            weights.data());
    for (size_t i = 0; i < 32; ++i) {
      // The exponent is rounded once.
      const double x = static_cast<float>(double{scores[i]} * factor - offset);
      expect_rounded(weights, kPieces, i, std::exp2(x));
      if (i >= 16) continue;
      const double y = static_cast<float>(double{scores[i + 16]} * factor - offset);
      const double total = 1 + std::exp2(x) + std::exp2(y);
      EXPECT_NEAR(totals[i], total, (2 * kExpError + 2 * kFloat) * total);
    }
    EXPECT_EQ(sum_of(weights, kPieces, 7), 0);
  }
  // 2^0 is 1: a query that sees one key gives its value unchanged.
  const std::vector<float> same(32, 3.0f);
  std::vector<float> totals(16, 0.0f);
  std::vector<bfloat16> weights = block(kPieces);
  detail::attention_weigh_avx512<kPieces>(same.data(), 0.5f, 1.5f, totals.data(), weights.data());
  EXPECT_EQ(totals[5], 2.0f);
}

TEST_F(AttentionRows, Weights) {
  check_weights<1>();
  check_weights<3>();
}

template <int kPieces>
void AttentionRows::check_slopes() {
  auto scores = random_values<float>(32, 1, 5), grad_weights = random_values<float>(32, 2);
  auto offsets = random_values<float>(32, 3), deltas = random_values<float>(32, 4);
  scores[3] = detail::kExcluded;
  offsets[9] = -detail::kExcluded;
  std::vector<bfloat16> weights = block(kPieces), slopes = weights;
  detail::attention_differentiate_avx512<kPieces>(scores.data(), grad_weights.data(), 0.3f,
                                                  offsets.data(), deltas.data(), weights.data(),
                                                  slopes.data());
  for (size_t i = 0; i < 32; ++i) {
    const double x = static_cast<float>(double{scores[i]} * 0.3f - offsets[i]);
    expect_rounded(weights, kPieces, i, std::exp2(x));
    expect_rounded(slopes, kPieces, i, std::exp2(x) * double{grad_weights[i] - deltas[i]});
  }
  for (const size_t i : {3, 9}) {
    EXPECT_EQ(sum_of(weights, kPieces, i), 0);
    EXPECT_EQ(sum_of(slopes, kPieces, i), 0);
  }
}

TEST_F(AttentionRows, Slopes) {
  check_slopes<1>();
  check_slopes<3>();
}

template <class T>
void check_scale_and_dot() {
  const auto sums = random_values<float>(32, 1);
  std::vector<T> out(32), expected(32);
  detail::attention_scale_avx512(sums.data(), 0.37f, out.data());
  EmulatedAttention::scale(sums.data(), 0.37f, expected.data());
  EXPECT_TRUE(testing::same_bits(out, expected));
  const auto a = random_values<T>(96, 2), b = random_values<T>(96, 3);
  EXPECT_NEAR(detail::attention_dot_avx512(a.data(), b.data(), 96),
              EmulatedAttention::dot(a.data(), b.data(), 96), 96 * 96 * 2 * kFloat);
}

TEST_F(AttentionRows, ScaleAndDot) {
  check_scale_and_dot<bfloat16>();
  check_scale_and_dot<float>();
}

}  // namespace
}  // namespace quest::kernels

#endif
