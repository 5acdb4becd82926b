#include "quest/kernels/gemm_fixed_point.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/testing.h"
#include "quest/kernels/float_kernels_testing.h"
#include "quest/kernels/gemm_fixed_point_levels.h"
#ifdef __x86_64__
#include "quest/kernels/emulated_tiles_testing.h"
#include "quest/kernels/x86/gemm_fixed_point_amx_kernel.h"
#endif

namespace quest::kernels {
namespace {

using testing::random_values;

struct Case {
  int64_t m, n, k;
  bool a_transposed = false, b_transposed = false;
  bool a_scaled = false, b_scaled = false, has_codes = false, accumulate = false;
};

// Operands with padding behind each row, an output whose padding must stay as it is.
class Problem {
 public:
  explicit Problem(const Case& c) : case_(c) {
    a_ = random_values<float>((c.m + kPadding) * (c.k + kPadding), 1);
    b_ = random_values<float>((c.n + kPadding) * (c.k + kPadding), 2);
    for (const float x : random_values<float>((c.n + kPadding) * c.k, 4)) {
      codes_.push_back(static_cast<int8_t>(std::clamp(std::nearbyint(x * 60), -128.0f, 127.0f)));
    }
    scales_ = random_values<float>(c.k, 9);
    before_ = random_values<float>(c.m * (c.n + kPadding), 3);
    out_ = before_;
  }

  GemmFixedPoint product() {
    const Case& c = case_;
    GemmFixedPoint p;
    const int64_t lda = c.a_transposed ? c.m + kPadding : c.k + kPadding;
    p.a = {a_.data(), c.a_transposed ? 1 : lda, c.a_transposed ? lda : 1,
           c.a_scaled ? scales_.data() : nullptr};
    if (c.has_codes) {
      p.codes = codes_.data();
      p.codes_stride = c.n + kPadding;
    } else {
      const int64_t ldb = c.b_transposed ? c.k + kPadding : c.n + kPadding;
      p.b = {b_.data(), c.b_transposed ? 1 : ldb, c.b_transposed ? ldb : 1,
             c.b_scaled ? scales_.data() : nullptr};
    }
    p.m = c.m;
    p.n = c.n;
    p.k = c.k;
    p.out = out_.data();
    p.ldo = c.n + kPadding;
    p.accumulate = c.accumulate;
    return p;
  }

  double a(int64_t i, int64_t k) {
    const GemmFixedPoint p = product();
    const float x = p.a.data[i * p.a.row_stride + k * p.a.column_stride];
    return case_.a_scaled ? x * scales_[static_cast<size_t>(k)] : x;
  }
  double b(int64_t k, int64_t j) {
    const GemmFixedPoint p = product();
    if (p.codes != nullptr) return p.codes[k * p.codes_stride + j];
    const float x = p.b.data[k * p.b.row_stride + j * p.b.column_stride];
    return case_.b_scaled ? x * scales_[static_cast<size_t>(k)] : x;
  }

  // The error that the header states, of each element.
  void check_bound(const std::string& what) {
    const Case& c = case_;
    for (int64_t i = 0; i < c.m; ++i) {
      for (int64_t j = 0; j < c.n; ++j) {
        const auto at = static_cast<size_t>(i * (c.n + kPadding) + j);
        double exact = 0, row = 0, column = 0, size = 0;
        for (int64_t k = 0; k < c.k; ++k) {
          exact += a(i, k) * b(k, j);
          size += std::abs(a(i, k) * b(k, j));
          row = std::max(row, std::abs(a(i, k)));
          column = std::max(column, std::abs(b(k, j)));
        }
        if (c.accumulate) exact += before_[at];
        // Rounding of a, and of b: 0.75 / 8355584 = 2^-23.4 each; what is left out, 2^-22.9.
        const double terms = c.has_codes ? 0x1p-23 : 0x1p-21;
        const double bound =
            terms * static_cast<double>(c.k) * row * column + 0x1p-22 * (size + std::abs(exact));
        ASSERT_LE(std::abs(out_[at] - exact), bound) << what << ": " << i << ", " << j;
      }
    }
  }

  std::vector<float>& a_values() { return a_; }
  const std::vector<float>& out() const { return out_; }
  static int64_t padding() { return kPadding; }
  const std::vector<float>& before() const { return before_; }

 private:
  static constexpr int64_t kPadding = 5;

  Case case_;
  std::vector<float> a_, b_, scales_, before_, out_;
  std::vector<int8_t> codes_;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 1},
                                {15, 17, 63},
                                {16, 16, 64},
                                {33, 31, 65},
                                {70, 20, 129},
                                {17, 90, 200}}) {
    for (const bool turned_a : {false, true}) {
      for (const bool turned_b : {false, true}) {
        all.push_back({m, n, k, turned_a, turned_b});
        all.push_back({m, n, k, turned_a, turned_b, true, false, false, true});
        all.push_back({m, n, k, turned_a, turned_b, false, true});
      }
      all.push_back({m, n, k, turned_a, false, false, false, true, true});
      all.push_back({m, n, k, turned_a, false, true, false, true});
    }
  }
  // All of the depth, and more panels than one task and one packed group hold.
  all.push_back({18, 40, kMaxFixedPointDepth, true, true});
  all.push_back({18, 40, kMaxFixedPointDepth, false, false, true, false, true});
  all.push_back({1100, 18, 64, true, false});
  all.push_back({1100, 18, 64, true, false, false, false, true});
  all.push_back({600, 1100, 5, false, false});
  return all;
}

std::string text(const Case& c) {
  return fmt::format("{} x {} x {}{}{}{}{}{}{}", c.m, c.n, c.k,
                     c.a_transposed ? ", a transposed" : "", c.b_transposed ? ", b transposed" : "",
                     c.a_scaled ? ", a scaled" : "", c.b_scaled ? ", b scaled" : "",
                     c.has_codes ? ", codes" : "", c.accumulate ? ", added" : "");
}

using Multiply = std::function<void(const GemmFixedPoint&, int threads)>;

void expect_definitions_bits(const Multiply& multiply) {
  for (const Case& c : cases()) {
    Problem definition(c);
    gemm_fixed_point_reference(definition.product());
    for (const int threads : {1, 3, 64}) {
      Problem problem(c);
      multiply(problem.product(), threads);
      EXPECT_TRUE(testing::same_bits(definition.out(), problem.out())) << text(c);
    }
  }
}

// Infinite values, NaN, rows of zeros and of values so small that they lose bits.
void expect_definitions_special_values(const Multiply& multiply) {
  const Case c{20, 20, 70};
  const float values[] = {std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN(),
                          0.0f,
                          -0.0f,
                          1e-40f,
                          3e38f};
  const auto fill = [&](Problem& problem) {
    int64_t row = 0;
    for (const float value : values) {
      float* at = problem.a_values().data() + row++ * (c.k + Problem::padding());
      if (std::abs(value) < 1e-30f) std::fill(at, at + c.k, value);
      at[69] = value;
    }
  };
  Problem definition(c), problem(c);
  fill(definition);
  fill(problem);
  gemm_fixed_point_reference(definition.product());
  multiply(problem.product(), 1);
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t j = 0; j < c.n; ++j) {
      const auto at = static_cast<size_t>(i * (c.n + Problem::padding()) + j);
      const float out = problem.out()[at];
      if (i < 3) {
        EXPECT_TRUE(std::isnan(out) && std::isnan(definition.out()[at])) << i << ", " << j;
        continue;
      }
      EXPECT_EQ(out, definition.out()[at]) << i << ", " << j;
      if (i < 6) {
        EXPECT_EQ(out, 0.0f) << i << ", " << j;
      }
    }
  }
}

TEST(GemmFixedPoint, TheDefinitionIsWithinTheBound) {
  for (const Case& c : cases()) {
    if (c.m * c.n > 20000) continue;
    Problem problem(c);
    gemm_fixed_point_reference(problem.product());
    problem.check_bound(text(c));
  }
}

TEST(GemmFixedPoint, DigitsAddUpAndFit) {
  for (const int32_t q : {0, 1, -1, 127, 128, -128, -129, 255, 256, 32767, 32768, -32768, -32896,
                          65535, 8355584, -8355584, 8355711, -8355711}) {
    const FixedPointDigits d = fixed_point_digits_reference(q);
    EXPECT_EQ(65536 * d.high + 256 * d.middle + d.low, q);
  }
  // The largest value of a row is the largest integer, for any row.
  for (const float largest : random_values<float>(1000, 5)) {
    const FixedPointScale scale = fixed_point_scale_reference(std::abs(largest));
    EXPECT_NEAR(std::abs(largest) * scale.inverse, 8355584.0f, 1);
    EXPECT_NEAR(8355584.0f * scale.unit / std::abs(largest), 1, 1e-6);
  }
}

double relative_error(Problem& problem, const Case& c) {
  double error = 0, size = 0;
  for (int64_t i = 0; i < c.m; ++i) {
    for (int64_t j = 0; j < c.n; ++j) {
      double exact = 0;
      for (int64_t k = 0; k < c.k; ++k) exact += problem.a(i, k) * problem.b(k, j);
      error += std::pow(
          problem.out()[static_cast<size_t>(i * (c.n + Problem::padding()) + j)] - exact, 2);
      size += exact * exact;
    }
  }
  return std::sqrt(error / size);
}

TEST(GemmFixedPoint, IsAsExactAsFp32) {
  for (const bool has_codes : {false, true}) {
    const Case c{48, 48, 640, false, true, false, false, has_codes};
    Problem problem(c);
    gemm_fixed_point_reference(problem.product());
    EXPECT_LT(relative_error(problem, c), 4e-7) << text(c);
  }
}

// What the header warns of: an outlier costs the rest of its row the bits that it is larger by, but
// not the row's product, in which it counts most.
TEST(GemmFixedPoint, OutliersCostLittleOfTheirRow) {
  for (const float outlier : {1e2f, 1e3f, 1e4f}) {
    const Case c{48, 48, 640, false, true};
    Problem problem(c);
    for (int64_t i = 0; i < c.m; ++i) {
      problem.a_values()[static_cast<size_t>(i * (c.k + Problem::padding()) + 7 * i)] = outlier;
    }
    gemm_fixed_point_reference(problem.product());
    EXPECT_LT(relative_error(problem, c), 3e-6) << outlier;
  }
}

TEST(GemmFixedPoint, AmxGivesTheDefinitionsBitsForAnySplit) {
  if (!gemm_fixed_point_supports(highest_isa_level())) GTEST_SKIP() << "this CPU has no AMX";
  const auto multiply = [](const GemmFixedPoint& product, int threads) {
    const GemmFixedPointPlan plan = plan_gemm_fixed_point(product, threads);
    std::vector<int8_t> memory(
        static_cast<size_t>(plan.shared_panels * plan.shared_panel_bytes + 64));
    auto* shared =
        reinterpret_cast<int8_t*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    const int64_t half = plan.shared_panels / 2;
    gemm_fixed_point_pack(product, plan, half, plan.shared_panels, shared);
    gemm_fixed_point_pack(product, plan, 0, half, shared);
    gemm_fixed_point_run(product, plan, shared, 0, plan.tasks / 2);
    gemm_fixed_point_run(product, plan, shared, plan.tasks / 2, plan.tasks);
  };
  expect_definitions_bits(multiply);
  expect_definitions_special_values(multiply);
}

#ifdef __x86_64__
TEST(GemmFixedPoint, EmulatedTilesGiveTheDefinitionsBitsForAnySplit) {
  using testing::EmulatedTiles;
  const auto multiply = [](const GemmFixedPoint& product, int threads) {
    const GemmFixedPointPlan plan = plan_gemm_fixed_point(product, threads);
    std::vector<int8_t> shared(static_cast<size_t>(plan.shared_panels * plan.shared_panel_bytes));
    detail::pack_fixed_point_shared<EmulatedTiles>(product, plan, 0, plan.shared_panels,
                                                   shared.data());
    std::vector<int8_t> own(static_cast<size_t>(detail::task_panel_bytes(plan)));
    EmulatedTiles::begin();
    for (int64_t task = 0; task < plan.tasks; ++task) {
      detail::run_fixed_point_task<EmulatedTiles>(product, plan, shared.data(), task, own.data());
    }
    EmulatedTiles::end();
  };
  expect_definitions_bits(multiply);
  expect_definitions_special_values(multiply);
}
#endif

TEST(GemmFixedPoint, RefusesWhatItHasNot) {
  Problem problem({4, 4, 4});
  GemmFixedPoint product = problem.product();
  product.b.row_stride = 3;
  product.b.column_stride = 2;
  EXPECT_QUEST_ERROR(plan_gemm_fixed_point(product, 1), ErrorKind::kUsage, "strides 3 and 2");
  product = problem.product();
  product.k = kMaxFixedPointDepth + 1;
  EXPECT_QUEST_ERROR(plan_gemm_fixed_point(product, 1), ErrorKind::kUsage, "1345");
}

}  // namespace
}  // namespace quest::kernels
