#include "quest/ops/swiglu.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/zeros.h>

#include "quest/ops/testing_tensors.h"

namespace quest::ops {
namespace {

using testing::as_double;
using testing::leaf;
using testing::normal;

struct Result {
  at::Tensor y, grad;
};

Result run(const at::Tensor& gate_up, const at::Tensor& grad_y, at::ScalarType type) {
  const at::Tensor x = leaf(gate_up, type);
  const at::Tensor y = swiglu(x);
  y.backward(grad_y.to(type));
  return {y.detach(), x.grad()};
}

TEST(Swiglu, DoubleIsTheFormulaAndItsGradient) {
  const at::Tensor x = normal({2, 3, 10}, 1, at::kDouble, 2.0), grad_y = normal({2, 3, 5}, 2);
  const Result result = run(x, grad_y, at::kDouble);
  const at::Tensor gate = x.narrow(-1, 0, 5), up = x.narrow(-1, 5, 5);
  testing::expect_within(result.y, gate / (1 + (-gate).exp()) * up, 1e-14, "y");
  const at::NoGradGuard no_grad;
  const auto f = [&] { return (swiglu(x) * grad_y).sum().item<double>(); };
  testing::expect_within(result.grad, testing::numeric_gradient(f, x), 1e-8, "gradient");
}

TEST(Swiglu, KernelsAgreeWithDouble) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    for (const int64_t f : {1, 31, 33, 257}) {
      SCOPED_TRACE(fmt::format("{} F={}", at::toString(type), f));
      const std::vector<int64_t> in = {3, 7, 2 * f}, out = {3, 7, f};
      const at::Tensor x = as_double(normal(in, 1, type, 3.0)),
                       grad_y = as_double(normal(out, 2, type));
      const Result expected = run(x, grad_y, at::kDouble), actual = run(x, grad_y, type);
      ASSERT_EQ(actual.y.scalar_type(), type);
      ASSERT_EQ(actual.grad.scalar_type(), type);
      // Each factor is right to a few roundings in float; the result is rounded to the type. The
      // gate's gradient is a sum with cancellation: its terms bound it.
      const double u = 16 * 0x1p-24 + testing::rounding_error(type);
      testing::expect_within(actual.y, expected.y, expected.y.abs() * u, "y");
      const at::Tensor gate = x.narrow(-1, 0, f), up = x.narrow(-1, f, f);
      const at::Tensor s = at::sigmoid(gate);
      at::Tensor size = at::zeros(in, at::kDouble);
      size.narrow(-1, 0, f).copy_((grad_y * up * s * (1 + gate.abs() * (1 - s))).abs());
      size.narrow(-1, f, f).copy_((grad_y * gate * s).abs());
      testing::expect_within(actual.grad, expected.grad, size * u, "gradient");
    }
  }
}

// The gradient may come transposed or expanded.
TEST(Swiglu, GradientOfAnyLayout) {
  const at::Tensor x = leaf(normal({6, 8}, 1), at::kFloat), other = leaf(x, at::kFloat);
  swiglu(x).sum().backward();  // an expanded scalar
  swiglu(other).backward(at::zeros({6, 4}, at::kFloat) + 1);
  EXPECT_TRUE(at::equal(x.grad(), other.grad()));
}

TEST(Swiglu, RefusesOddWidthsAndOtherTypes) {
  EXPECT_QUEST_ERROR(swiglu(normal({2, 7}, 1, at::kFloat)), ErrorKind::kUsage, "7");
  EXPECT_QUEST_ERROR(swiglu(normal({2, 8}, 1, at::kHalf)), ErrorKind::kUsage, "Half");
}

}  // namespace
}  // namespace quest::ops
