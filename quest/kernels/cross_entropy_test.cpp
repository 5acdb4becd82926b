#include "quest/kernels/cross_entropy.h"

#include "quest/kernels/float_kernels_testing.h"

namespace quest::kernels {
namespace {

using testing::kFloatEps;
using testing::random_values;
using testing::rounding_error;
using testing::same_bits;
using testing::vector_levels;

const int64_t kVocabularies[] = {1,  2,  3,  15,  16,  17,   31,   33,
                                 63, 64, 65, 255, 257, 1024, 3001, 32000};
constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <class T>
struct Result {
  std::vector<T> gradient;
  std::vector<float> losses;
};

template <class T>
Result<T> run(std::vector<T> logits, const std::vector<int64_t>& targets, float grad_scale,
              IsaLevel level) {
  const auto m = static_cast<int64_t>(targets.size());
  const auto v = static_cast<int64_t>(logits.size()) / m;
  Result<T> out{std::move(logits), std::vector<float>(targets.size(), -1.0f)};
  cross_entropy(out.gradient.data(), targets.data(), m, v, grad_scale, out.losses.data(), level);
  return out;
}

std::vector<int64_t> make_targets(int64_t v) { return {0, v - 1, kIgnoreTarget, v / 2}; }

// The sum of V exponentials in 16 lanes has a relative error of at most (V/16 + 6 + 4) eps: one
// rounding for each term of a lane, the tree, and 2 eps for each exponential and each rescaling.
template <class T>
void check_levels(double spread) {
  constexpr float kScale = 0.25f;
  for (const int64_t v : kVocabularies) {
    const std::vector<int64_t> targets = make_targets(v);
    const std::vector<T> logits = random_values<T>(4 * v, 13, spread);
    const Result<T> want = run(logits, targets, kScale, IsaLevel::kScalar);
    const double sum_error = (static_cast<double>(v) / 16 + 10) * kFloatEps;
    std::vector<Result<T>> results;
    for (const IsaLevel level : vector_levels()) {
      SCOPED_TRACE(std::string(isa_level_name(level)) + ", V=" + std::to_string(v));
      results.push_back(run(logits, targets, kScale, level));
      const Result<T>& got = results.back();
      for (size_t row = 0; row < targets.size(); ++row) {
        ASSERT_NEAR(got.losses[row], want.losses[row],
                    sum_error + 8 * kFloatEps * (1 + std::abs(want.losses[row])));
        for (int64_t i = 0; i < v; ++i) {
          const double g = float(want.gradient[row * v + i]);
          // The target's entry is a difference with 1.
          const double terms = i == targets[row] ? kScale + std::abs(g) : std::abs(g);
          ASSERT_NEAR(
              float(got.gradient[row * v + i]), g,
              terms * (sum_error + 12 * kFloatEps) + std::abs(g) * 2 * rounding_error<T>() + 1e-37)
              << "row " << row << " logit " << i;
        }
      }
      EXPECT_TRUE(same_bits(got.gradient, results.front().gradient));
      EXPECT_TRUE(same_bits(got.losses, results.front().losses));
    }
  }
}

TEST(CrossEntropy, LevelsEqualTheDefinitionInFloat) {
  check_levels<float>(2.0);
  check_levels<float>(60.0);
}
TEST(CrossEntropy, LevelsEqualTheDefinitionInBfloat16) {
  check_levels<bfloat16>(2.0);
  check_levels<bfloat16>(60.0);
}

TEST(CrossEntropy, LossAndGradientAgainstDoublePrecision) {
  constexpr int64_t kV = 37;
  const std::vector<int64_t> targets = {5, 36};
  const std::vector<float> logits = random_values<float>(2 * kV, 14, 3.0);
  const auto total_loss = [&](const std::vector<double>& l) {
    double total = 0;
    for (size_t row = 0; row < 2; ++row) {
      double sum = 0;
      for (int64_t i = 0; i < kV; ++i) sum += std::exp(l[row * kV + i]);
      total += std::log(sum) - l[row * kV + targets[row]];
    }
    return total;
  };
  const std::vector<double> l(logits.begin(), logits.end());
  for (const IsaLevel level : available_isa_levels()) {
    const Result<float> result = run(logits, targets, 0.5f, level);
    EXPECT_NEAR(result.losses[0] + result.losses[1], total_loss(l), 3e-6);
    for (size_t i = 0; i < l.size(); ++i) {
      EXPECT_NEAR(result.gradient[i], 0.5 * testing::finite_difference(total_loss, l, i), 1e-7)
          << isa_level_name(level);
    }
  }
}

TEST(CrossEntropy, WithoutGradientTheLogitsStay) {
  const std::vector<float> logits = random_values<float>(4 * 100, 15);
  for (const IsaLevel level : available_isa_levels()) {
    const Result<float> result = run(logits, make_targets(100), 0.0f, level);
    EXPECT_TRUE(same_bits(result.gradient, logits));
    EXPECT_GT(result.losses[0], 0.0f);
    EXPECT_EQ(result.losses[2], 0.0f);
  }
}

TEST(CrossEntropy, IgnoredRowsGetZeroEvenIfTheyAreNotFinite) {
  std::vector<float> logits = random_values<float>(4 * 40, 16);
  logits[2 * 40 + 7] = std::numeric_limits<float>::quiet_NaN();
  for (const IsaLevel level : available_isa_levels()) {
    const Result<float> result = run(logits, make_targets(40), 1.0f, level);
    for (int64_t i = 0; i < 40; ++i) EXPECT_EQ(result.gradient[2 * 40 + i], 0.0f);
    EXPECT_EQ(result.losses[2], 0.0f);
  }
}

// The largest logit may come late (the running sum is rescaled) and masked logits may be -inf,
// whole blocks of them at the start too.
TEST(CrossEntropy, HugeAndMaskedLogits) {
  constexpr int64_t kV = 5000;
  std::vector<float> logits(kV, -kInfinity);
  logits[3000] = 1e4f;
  logits[4999] = 1e4f + 1.0f;
  for (const IsaLevel level : available_isa_levels()) {
    const Result<float> result = run(logits, {3000}, 1.0f, level);
    const double p = 1 / (1 + std::exp(1.0));
    EXPECT_NEAR(result.losses[0], -std::log(p), 1e-6) << isa_level_name(level);
    EXPECT_NEAR(result.gradient[3000], p - 1, 1e-6);
    EXPECT_NEAR(result.gradient[4999], 1 - p, 1e-6);
    EXPECT_EQ(result.gradient[0], 0.0f);
  }
}

TEST(CrossEntropy, NotANumberIsNotHidden) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), kInfinity}) {
    for (const int64_t v : {5, 64, 3000}) {
      std::vector<float> logits(static_cast<size_t>(v), 1.0f);
      logits[2] = bad;
      for (const IsaLevel level : available_isa_levels()) {
        EXPECT_TRUE(std::isnan(run(logits, {1}, 1.0f, level).losses[0])) << isa_level_name(level);
      }
    }
  }
}

}  // namespace
}  // namespace quest::kernels
