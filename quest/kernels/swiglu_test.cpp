#include "quest/kernels/swiglu.h"

#include "quest/kernels/float_kernels_testing.h"

namespace quest::kernels {
namespace {

using testing::kFloatEps;
using testing::random_values;
using testing::rounding_error;
using testing::same_bits;
using testing::vector_levels;

const int64_t kWidths[] = {1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 255, 257};

template <class T>
struct Result {
  std::vector<T> y, grad;
};

template <class T>
Result<T> run(const std::vector<T>& gate_up, const std::vector<T>& grad_y, int64_t m, int64_t f,
              IsaLevel level) {
  Result<T> out;
  out.y.resize(static_cast<size_t>(m * f));
  out.grad.resize(static_cast<size_t>(m * 2 * f));
  swiglu(gate_up.data(), m, f, out.y.data(), level);
  swiglu_backward(grad_y.data(), gate_up.data(), m, f, out.grad.data(), level);
  return out;
}

// Two exponentials within 1 ulp (2 eps each) of the truth and a handful of roundings differ by at
// most about 12 eps in a product; the bracket 1 + g (1 - s) is a sum, so its error is relative to
// its terms. Results in T may round to neighbouring values.
constexpr double kBound = 12 * kFloatEps;

template <class T>
void check_levels(double spread) {
  for (const int64_t f : kWidths) {
    constexpr int64_t kRows = 3;
    const std::vector<T> gate_up = random_values<T>(kRows * 2 * f, 5, spread);
    const std::vector<T> grad_y = random_values<T>(kRows * f, 6);
    const Result<T> want = run(gate_up, grad_y, kRows, f, IsaLevel::kScalar);
    std::vector<Result<T>> results;
    for (const IsaLevel level : vector_levels()) {
      SCOPED_TRACE(std::string(isa_level_name(level)) + ", F=" + std::to_string(f));
      results.push_back(run(gate_up, grad_y, kRows, f, level));
      const Result<T>& got = results.back();
      for (int64_t at = 0; at < kRows * f; ++at) {
        const int64_t gate_at = at / f * 2 * f + at % f;
        const double y = float(want.y[at]), dup = float(want.grad[gate_at + f]);
        const double dgate = float(want.grad[gate_at]);
        const double g = float(gate_up[gate_at]);
        const double s = 1 / (1 + std::exp(-g));
        const double terms = std::abs(double(float(grad_y[at])) * float(gate_up[gate_at + f])) * s *
                             (1 + std::abs(g) * (1 - s));
        const double relative = kBound + 2 * rounding_error<T>();
        constexpr double kTiny = 1e-37;  // results near the subnormal range lose precision
        ASSERT_NEAR(float(got.y[at]), y, std::abs(y) * relative + kTiny);
        ASSERT_NEAR(float(got.grad[gate_at + f]), dup, std::abs(dup) * relative + kTiny);
        ASSERT_NEAR(float(got.grad[gate_at]), dgate,
                    terms * kBound + std::abs(dgate) * 2 * rounding_error<T>() + kTiny);
      }
      EXPECT_TRUE(same_bits(got.y, results.front().y));
      EXPECT_TRUE(same_bits(got.grad, results.front().grad));
    }
  }
}

TEST(Swiglu, LevelsEqualTheDefinitionInFloat) {
  check_levels<float>(1.0);
  check_levels<float>(40.0);
}
TEST(Swiglu, LevelsEqualTheDefinitionInBfloat16) {
  check_levels<bfloat16>(1.0);
  check_levels<bfloat16>(40.0);
}

TEST(Swiglu, LimitsOfTheGate) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> gate_up = {200.0f, -200.0f, 0.0f, inf, 3.0f, 3.0f, 3.0f, 3.0f};
  std::vector<float> y(4);
  for (const IsaLevel level : available_isa_levels()) {
    swiglu(gate_up.data(), 1, 4, y.data(), level);
    EXPECT_EQ(y[0], 600.0f);
    EXPECT_EQ(y[1], 0.0f);
    EXPECT_EQ(y[2], 0.0f);
    EXPECT_EQ(y[3], inf);
  }
}

TEST(Swiglu, GradientsEqualFiniteDifferences) {
  constexpr int64_t kRows = 2, kWidth = 19;
  const std::vector<float> gate_up = random_values<float>(kRows * 2 * kWidth, 7, 2.0);
  const std::vector<float> grad_y = random_values<float>(kRows * kWidth, 8);
  const auto loss = [&](const std::vector<double>& x) {
    double sum = 0;
    for (int64_t at = 0; at < kRows * kWidth; ++at) {
      const int64_t gate_at = at / kWidth * 2 * kWidth + at % kWidth;
      sum += grad_y[at] * x[gate_at] / (1 + std::exp(-x[gate_at])) * x[gate_at + kWidth];
    }
    return sum;
  };
  const std::vector<double> x(gate_up.begin(), gate_up.end());
  for (const IsaLevel level : available_isa_levels()) {
    const Result<float> result = run(gate_up, grad_y, kRows, kWidth, level);
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_NEAR(result.grad[i], testing::finite_difference(loss, x, i), 3e-6)
          << isa_level_name(level);
    }
  }
}

}  // namespace
}  // namespace quest::kernels
