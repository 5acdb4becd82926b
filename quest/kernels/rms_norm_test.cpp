#include "quest/kernels/rms_norm.h"

#include "quest/kernels/float_kernels_testing.h"

namespace quest::kernels {
namespace {

using testing::kFloatEps;
using testing::random_values;
using testing::rounding_error;
using testing::same_bits;
using testing::vector_levels;

constexpr float kEps = 1e-5f;
const int64_t kWidths[] = {1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 255, 257, 640, 2048};

template <class T>
struct Result {
  std::vector<T> y, grad_x;
  std::vector<float> inverse_rms, grad_weight;
};

template <class T>
struct Input {
  int64_t m, c;
  std::vector<T> x, grad_y, residual;
  std::vector<float> weight;
};

template <class T>
Input<T> make_input(int64_t m, int64_t c, bool with_residual) {
  Input<T> in{m, c, random_values<T>(m * c, 1, 3.0), random_values<T>(m * c, 2), {}, {}};
  in.weight = random_values<float>(c, 3);
  if (with_residual) in.residual = random_values<T>(m * c, 4);
  return in;
}

template <class T>
Result<T> run(const Input<T>& in, IsaLevel level) {
  Result<T> out;
  const auto size = static_cast<size_t>(in.m * in.c);
  out.y.resize(size);
  out.grad_x.resize(size);
  out.inverse_rms.resize(static_cast<size_t>(in.m));
  out.grad_weight.assign(static_cast<size_t>(in.c), 0.5f);  // is added to
  rms_norm(in.x.data(), in.weight.data(), in.m, in.c, kEps, out.y.data(), out.inverse_rms.data(),
           level);
  rms_norm_backward(in.grad_y.data(), in.x.data(), in.weight.data(), out.inverse_rms.data(),
                    in.residual.empty() ? nullptr : in.residual.data(), in.m, in.c,
                    out.grad_x.data(), out.grad_weight.data(), level);
  return out;
}

// Bounds. A sum of squares in floats of C values has a relative error of at most (C/16 + 6) eps
// with 16 lanes or more; inverse gets half of it and a few roundings of its own. The gradient's
// sums have signs, so their error is bounded by the sum of magnitudes.
template <class T>
void expect_near_definition(const Input<T>& in, const Result<T>& got, const Result<T>& want) {
  const double sum_error = (static_cast<double>(in.c) / 16 + 6) * kFloatEps;
  const double inverse_error = sum_error / 2 + 4 * kFloatEps;
  for (int64_t row = 0; row < in.m; ++row) {
    const double inverse = want.inverse_rms[row];
    ASSERT_NEAR(got.inverse_rms[row], inverse, inverse * inverse_error);
    double magnitude = 0;
    for (int64_t i = 0; i < in.c; ++i) {
      const int64_t at = row * in.c + i;
      magnitude += std::abs(float(in.grad_y[at]) * in.weight[i] * float(in.x[at]));
    }
    magnitude *= inverse / static_cast<double>(in.c);
    for (int64_t i = 0; i < in.c; ++i) {
      const int64_t at = row * in.c + i;
      const double y = float(want.y[at]);
      ASSERT_NEAR(float(got.y[at]), y,
                  std::abs(y) * (inverse_error + 4 * kFloatEps + 2 * rounding_error<T>()));
      const double xhat = std::abs(float(in.x[at])) * inverse;
      const double g = std::abs(float(in.grad_y[at]) * in.weight[i]);
      const double terms = inverse * (g + xhat * magnitude);
      const double residual = in.residual.empty() ? 0 : std::abs(float(in.residual[at]));
      const double dx = float(want.grad_x[at]);
      ASSERT_NEAR(float(got.grad_x[at]), dx,
                  terms * (sum_error + 2 * inverse_error + 8 * kFloatEps) +
                      2 * residual * kFloatEps + std::abs(dx) * 2 * rounding_error<T>());
    }
  }
  for (int64_t i = 0; i < in.c; ++i) {
    double magnitude = 0.5;
    for (int64_t row = 0; row < in.m; ++row) {
      const int64_t at = row * in.c + i;
      magnitude += std::abs(float(in.grad_y[at]) * float(in.x[at])) * want.inverse_rms[row];
    }
    ASSERT_NEAR(got.grad_weight[i], want.grad_weight[i],
                magnitude * (inverse_error + static_cast<double>(in.m + 3) * kFloatEps));
  }
}

template <class T>
void check_levels() {
  for (const int64_t c : kWidths) {
    const Input<T> in = make_input<T>(5, c, c % 2 == 1);
    const Result<T> definition = run(in, IsaLevel::kScalar);
    std::vector<Result<T>> results;
    for (const IsaLevel level : vector_levels()) {
      SCOPED_TRACE(std::string(isa_level_name(level)) + ", C=" + std::to_string(c));
      results.push_back(run(in, level));
      expect_near_definition(in, results.back(), definition);
      EXPECT_TRUE(same_bits(results.back().y, results.front().y));
      EXPECT_TRUE(same_bits(results.back().grad_x, results.front().grad_x));
      EXPECT_TRUE(same_bits(results.back().inverse_rms, results.front().inverse_rms));
      EXPECT_TRUE(same_bits(results.back().grad_weight, results.front().grad_weight));
    }
  }
}

TEST(RmsNorm, LevelsEqualTheDefinitionInFloat) { check_levels<float>(); }
TEST(RmsNorm, LevelsEqualTheDefinitionInBfloat16) { check_levels<bfloat16>(); }

TEST(RmsNorm, KnownRow) {
  const std::vector<float> x = {3.0f, -4.0f}, weight = {2.0f, 1.0f};
  std::vector<float> y(2), inverse(1);
  for (const IsaLevel level : available_isa_levels()) {
    rms_norm(x.data(), weight.data(), 1, 2, 0.0f, y.data(), inverse.data(), level);
    EXPECT_FLOAT_EQ(inverse[0], 1.0f / std::sqrt(12.5f));
    EXPECT_FLOAT_EQ(y[0], 6.0f / std::sqrt(12.5f));
    EXPECT_FLOAT_EQ(y[1], -4.0f / std::sqrt(12.5f));
    rms_norm<float>(x.data(), weight.data(), 1, 2, 0.0f, y.data(), nullptr, level);
  }
}

TEST(RmsNorm, GradientsEqualFiniteDifferences) {
  constexpr int64_t kRows = 3, kColumns = 19;
  const Input<float> in = make_input<float>(kRows, kColumns, true);
  const auto loss = [&](const std::vector<double>& x, const std::vector<double>& weight) {
    double sum = 0;
    for (int64_t row = 0; row < kRows; ++row) {
      double squares = 0;
      for (int64_t i = 0; i < kColumns; ++i)
        squares += x[row * kColumns + i] * x[row * kColumns + i];
      const double inverse = 1 / std::sqrt(squares / kColumns + kEps);
      for (int64_t i = 0; i < kColumns; ++i) {
        sum += in.grad_y[row * kColumns + i] * x[row * kColumns + i] * inverse * weight[i];
      }
    }
    return sum;
  };
  const std::vector<double> x(in.x.begin(), in.x.end());
  const std::vector<double> weight(in.weight.begin(), in.weight.end());
  for (const IsaLevel level : available_isa_levels()) {
    const Result<float> result = run(in, level);
    for (size_t i = 0; i < x.size(); ++i) {
      const double slope =
          testing::finite_difference([&](const auto& v) { return loss(v, weight); }, x, i);
      EXPECT_NEAR(result.grad_x[i] - in.residual[i], slope, 2e-6) << isa_level_name(level);
    }
    for (size_t i = 0; i < weight.size(); ++i) {
      const double slope =
          testing::finite_difference([&](const auto& v) { return loss(x, v); }, weight, i);
      EXPECT_NEAR(result.grad_weight[i] - 0.5, slope, 2e-6) << isa_level_name(level);
    }
  }
}

TEST(RmsNorm, NonFiniteRowsDoNotSpoilTheirNeighbours) {
  Input<float> in = make_input<float>(3, 70, false);
  const Result<float> clean = run(in, IsaLevel::kScalar);
  in.x[70 + 69] = std::numeric_limits<float>::quiet_NaN();
  for (const IsaLevel level : available_isa_levels()) {
    const Result<float> result = run(in, level);
    EXPECT_TRUE(std::isnan(result.y[70])) << isa_level_name(level);
    EXPECT_NEAR(result.y[0], clean.y[0], 1e-6);
    EXPECT_NEAR(result.y[140], clean.y[140], 1e-6);
  }
}

}  // namespace
}  // namespace quest::kernels
