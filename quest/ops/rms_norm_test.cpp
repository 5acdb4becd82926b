#include "quest/ops/rms_norm.h"

#include <ATen/ops/equal.h>

#include "quest/ops/testing_tensors.h"

namespace quest::ops {
namespace {

using testing::as_double;
using testing::leaf;
using testing::normal;

constexpr double kEps = 1e-5;

struct Result {
  at::Tensor y, grad_x, grad_weight;
};

Result run(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& grad_y,
           at::ScalarType type) {
  const at::Tensor x_leaf = leaf(x, type);
  const at::Tensor w_leaf = leaf(weight, type == at::kDouble ? at::kDouble : at::kFloat);
  const at::Tensor y = rms_norm(x_leaf, w_leaf, kEps);
  y.backward(grad_y.to(type));
  return {y.detach(), x_leaf.grad(), w_leaf.grad()};
}

TEST(RmsNorm, DoubleIsTheFormulaAndItsGradient) {
  const at::Tensor x = normal({2, 3, 7}, 1), weight = normal({7}, 2), grad_y = normal({2, 3, 7}, 3);
  x[0][1].mul_(1e-3);  // where eps counts
  const Result result = run(x, weight, grad_y, at::kDouble);
  const at::Tensor rms = (x.pow(2).sum(-1, true) / 7 + kEps).sqrt();
  testing::expect_within(result.y, x / rms * weight, 1e-14, "y");
  const at::NoGradGuard no_grad;
  const auto f = [&] { return (rms_norm(x, weight, kEps) * grad_y).sum().item<double>(); };
  const at::Tensor numeric = testing::numeric_gradient(f, x, 1e-6);
  testing::expect_within(result.grad_x, numeric, numeric.abs() * 1e-6 + 1e-7, "grad x");
  testing::expect_within(result.grad_weight, testing::numeric_gradient(f, weight), 1e-8,
                         "grad weight");
}

TEST(RmsNorm, KernelsAgreeWithDouble) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const auto& [m, c] : {std::pair<int64_t, int64_t>{1, 1}, {65, 31}, {130, 257}}) {
      SCOPED_TRACE(fmt::format("{} {} x {}", at::toString(type), m, c));
      const at::Tensor x = as_double(normal({m, c}, 1, type)),
                       g = as_double(normal({m, c}, 3, type));
      const at::Tensor weight = as_double(normal({c}, 2, at::kFloat));
      const Result expected = run(x, weight, g, at::kDouble), actual = run(x, weight, g, type);
      ASSERT_EQ(actual.y.scalar_type(), type);
      ASSERT_EQ(actual.grad_x.scalar_type(), type);
      ASSERT_EQ(actual.grad_weight.scalar_type(), at::kFloat);
      // A few float roundings per term, one to the type at the end; the terms of
      //   grad_x = (w g - x mean(w g x) / rms^2) / rms,  grad_w = sum_rows g x / rms
      // bound their sums, a float sum of c (or of m rows) terms adding a rounding each.
      const double rounding = testing::rounding_error(type), u = 0x1p-24;
      testing::expect_within(actual.y, expected.y, expected.y.abs() * (8 * u + rounding), "y");
      const at::Tensor inverse = (x.pow(2).mean(-1, true) + kEps).rsqrt();
      const at::Tensor wg = (weight * g).abs();
      const at::Tensor terms =
          (wg + x.abs() * (wg * x.abs()).mean(-1, true) * inverse.pow(2)) * inverse;
      const auto sums = [&](int64_t n) { return (static_cast<double>(n) + 16) * u; };
      testing::expect_within(actual.grad_x, expected.grad_x, terms * (sums(c) + rounding),
                             "grad x");
      testing::expect_within(actual.grad_weight, expected.grad_weight,
                             (g * x * inverse).abs().sum(0) * sums(m), "grad weight");
    }
  }
}

TEST(RmsNorm, ThreadsChangeNothing) {
  const at::Tensor x = normal({700, 96}, 1), weight = normal({96}, 2), g = normal({700, 96}, 3);
  const auto with_threads = [&](int threads) {
    const testing::ThreadCount count(threads);
    return run(x, weight, g, at::kFloat);
  };
  const Result one = with_threads(1);
  for (const int threads : {2, 5}) {
    const Result many = with_threads(threads);
    EXPECT_TRUE(at::equal(many.y, one.y));
    EXPECT_TRUE(at::equal(many.grad_x, one.grad_x));
    EXPECT_TRUE(at::equal(many.grad_weight, one.grad_weight));
  }
}

TEST(RmsNorm, RefusesWhatDoesNotFit) {
  const at::Tensor x = normal({2, 8}, 1, at::kFloat);
  EXPECT_QUEST_ERROR(rms_norm(x, normal({7}, 1, at::kFloat), kEps), ErrorKind::kUsage, "C=8");
  EXPECT_QUEST_ERROR(rms_norm(x, normal({8}, 1), kEps), ErrorKind::kUsage, "Double");
  EXPECT_QUEST_ERROR(rms_norm(x.to(at::kBFloat16), normal({8}, 1, at::kBFloat16), kEps),
                     ErrorKind::kUsage, "BFloat16");
  EXPECT_QUEST_ERROR(rms_norm(x.to(at::kHalf), normal({8}, 1, at::kFloat), kEps), ErrorKind::kUsage,
                     "Half");
}

}  // namespace
}  // namespace quest::ops
