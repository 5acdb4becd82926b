#include "quest/ops/matmul.h"

#include <ATen/ops/max.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/round.h>
#include <ATen/ops/zeros.h>

#include "quest/kernels/gemm_bf16.h"
#include "quest/kernels/gemm_fixed_point.h"
#include "quest/ops/testing_tensors.h"

namespace quest::ops {
namespace {

using testing::as_double;
using testing::expect_within;
using testing::normal;
using testing::rounding_error;

struct Shape {
  int64_t m, n, k;
};
// On both sides of where AMX tiles begin, and a K that is taken in parts.
const Shape kShapes[] = {{1, 5, 3}, {63, 65, 64}, {64, 64, 64}, {130, 97, 200}, {65, 70, 5000}};

// A transposed view of the same values.
at::Tensor turned(const at::Tensor& x) { return x.t().contiguous().t(); }

at::Tensor bound_of(const at::Tensor& a, const at::Tensor& b, at::ScalarType type,
                    at::ScalarType out_type) {
  const at::Tensor size = at::mm(as_double(a).abs(), as_double(b).abs());
  const double sums = static_cast<double>(a.size(1) + 2) * rounding_error(at::kFloat);
  // On AMX an FP32 product is one of 24-bit integers: its error is of the largest values.
  const at::Tensor largest = type == at::kFloat && matmul_plan(type) != "LibTorch"
                                 ? at::mm(std::get<0>(as_double(a).abs().max(1, true)),
                                          std::get<0>(as_double(b).abs().max(0, true))) *
                                       (static_cast<double>(a.size(1)) * 0x1p-21)
                                 : at::zeros({1}, size.options());
  // LibTorch rounds its product to the operands' type first.
  return largest + size * (type == at::kDouble ? 1e-13 : sums) +
         as_double(at::mm(as_double(a), as_double(b))).abs() *
             (rounding_error(type) + rounding_error(out_type));
}

TEST(Matmul, EveryTypeAndOrientationIsWithinTheBound) {
  for (const auto type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    for (const Shape& s : kShapes) {
      const at::Tensor a = normal({s.m, s.k}, 1, type), b = normal({s.k, s.n}, 2, type);
      const at::Tensor exact = at::mm(as_double(a), as_double(b));
      for (const auto out_type : {type, type == at::kDouble ? at::kDouble : at::kFloat}) {
        const at::Tensor bound = bound_of(a, b, type, out_type);
        for (const bool turn_a : {false, true}) {
          for (const bool turn_b : {false, true}) {
            const at::Tensor out = matmul(turn_a ? turned(a) : a, turn_b ? turned(b) : b, out_type);
            EXPECT_EQ(out.scalar_type(), out_type);
            expect_within(out, exact, bound, fmt::format("{} x {} x {}", s.m, s.n, s.k));
          }
        }
      }
    }
  }
}

TEST(Matmul, IntoWritesOrAdds) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const Shape& s : kShapes) {
      const at::Tensor a = normal({s.m, s.k}, 3, type), b = normal({s.k, s.n}, 4, type);
      const at::Tensor before = normal({s.m, s.n}, 5, at::kFloat);
      const at::Tensor product = at::mm(as_double(a), as_double(b));
      at::Tensor out = before.clone();
      matmul_into(a, b, /*add=*/false, out);
      const at::Tensor bound = bound_of(a, b, type, at::kFloat);
      expect_within(out, product, bound, "written");
      out = before.clone();
      matmul_into(a, b, /*add=*/true, out);
      const at::Tensor sum = product + as_double(before);
      expect_within(out, sum, bound + sum.abs() * rounding_error(at::kFloat), "added");
    }
  }
}

TEST(Matmul, CodesAreAsExactAsAnFp32Product) {
  if (!supports_matmul_codes(64, 64, 64)) GTEST_SKIP() << "this CPU has no AMX";
  for (const Shape& s : {Shape{64, 64, 64}, Shape{130, 97, 200}, Shape{65, 70, 5000}}) {
    const at::Tensor a = normal({s.m, s.k}, 6, at::kFloat), scales = normal({s.k}, 7, at::kFloat);
    const at::Tensor codes = at::round(normal({s.k, s.n}, 8) * 60).clamp(-128, 127).to(at::kChar);
    const at::Tensor scaled = as_double(a) * as_double(scales);
    const at::Tensor exact = at::mm(scaled, as_double(codes));
    const at::Tensor bound = at::mm(std::get<0>(scaled.abs().max(1, true)),
                                    std::get<0>(as_double(codes).abs().max(0, true))) *
                                 (static_cast<double>(s.k) * 0x1p-23) +
                             at::mm(scaled.abs(), as_double(codes).abs()) * 0x1p-22;
    expect_within(matmul_codes(a, false, scales, codes), exact, bound, "a");
    expect_within(matmul_codes(a.t().contiguous(), true, scales, codes), exact, bound, "a^T");
    // Beyond the bound: the error of a sum grows like its root.
    EXPECT_LT(testing::relative_error(matmul_codes(a, false, scales, codes), exact), 4e-7);
  }
}

TEST(Matmul, PlanSaysWhatRuns) {
  EXPECT_EQ(matmul_plan(at::kDouble), "LibTorch");
  EXPECT_EQ(matmul_plan(at::kBFloat16), kernels::gemm_bf16_supports() ? "AMX tiles" : "LibTorch");
  EXPECT_EQ(matmul_plan(at::kFloat), kernels::gemm_fixed_point_supports()
                                         ? "AMX tiles, FP32 values as integers of 24 bits"
                                         : "LibTorch");
}

}  // namespace
}  // namespace quest::ops
