#include "quest/kernels/gemm_bf16.h"

#include <bit>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/testing.h"
#include "quest/kernels/float_kernels_testing.h"
#ifdef __x86_64__
#include "quest/kernels/emulated_tiles_testing.h"
#include "quest/kernels/x86/gemm_bf16_amx_kernel.h"
#endif

namespace quest::kernels {
namespace {

using testing::random_values;

struct Case {
  int64_t m, n, k;
  bool a_transposed, b_transposed, out_is_bfloat16, accumulate;
};

// Operands with padding behind each row, an output whose padding must stay as it is.
class Problem {
 public:
  explicit Problem(const Case& c) : case_(c) {
    a_ = random_values<bfloat16>((c.m + 3) * (c.k + 3), 1);
    b_ = random_values<bfloat16>((c.n + 3) * (c.k + 3), 2);
    before_ = random_values<float>(c.m * (c.n + kPadding), 3);
    out_float_ = before_;
    for (const float value : before_) out_bf16_.push_back(bfloat16(value));
  }

  GemmBf16 product() {
    const Case& c = case_;
    GemmBf16 p;
    p.a = c.a_transposed ? GemmOperand{a_.data(), 1, c.m + 3} : GemmOperand{a_.data(), c.k + 3, 1};
    p.b = c.b_transposed ? GemmOperand{b_.data(), 1, c.k + 3} : GemmOperand{b_.data(), c.n + 3, 1};
    p.m = c.m;
    p.n = c.n;
    p.k = c.k;
    p.ldo = c.n + kPadding;
    p.out_is_bfloat16 = c.out_is_bfloat16;
    p.accumulate = c.accumulate;
    p.out = c.out_is_bfloat16 ? static_cast<void*>(out_bf16_.data()) : out_float_.data();
    return p;
  }

  // |out - exact| <= the rounding of K sums of this size, and of the output.
  void check(const std::string& what) {
    const GemmBf16 p = product();
    for (int64_t i = 0; i < p.m; ++i) {
      for (int64_t j = 0; j < p.ldo; ++j) {
        const auto at = static_cast<size_t>(i * p.ldo + j);
        const double out = p.out_is_bfloat16 ? static_cast<float>(out_bf16_[at]) : out_float_[at];
        if (j >= p.n) {
          const bfloat16 rounded(before_[at]);
          ASSERT_EQ(out, p.out_is_bfloat16 ? static_cast<float>(rounded) : before_[at])
              << what << ": wrote behind row " << i;
          continue;
        }
        double exact = p.accumulate ? before_[at] : 0, size = std::abs(exact);
        for (int64_t k = 0; k < p.k; ++k) {
          const double term = value(p.a, i, k) * value(p.b, k, j);
          exact += term;
          size += std::abs(term);
        }
        const double sum_error = static_cast<double>(p.k + 3) * 0x1p-24 * size;
        const double rounding = p.out_is_bfloat16 ? 0x1p-8 * (std::abs(exact) + sum_error) : 0;
        ASSERT_LE(std::abs(out - exact), sum_error + rounding)
            << what << ": row " << i << ", column " << j;
      }
    }
  }

  const std::vector<float>& out_float() const { return out_float_; }

 private:
  static constexpr int64_t kPadding = 5;

  static double value(const GemmOperand& x, int64_t row, int64_t column) {
    return static_cast<float>(x.data[row * x.row_stride + column * x.column_stride]);
  }

  Case case_;
  std::vector<bfloat16> a_, b_, out_bf16_;
  std::vector<float> before_, out_float_;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 1},
                                {31, 33, 63},
                                {32, 64, 64},
                                {70, 129, 31},
                                {129, 257, 33},
                                {257, 33, 255}}) {
    for (const bool a_transposed : {false, true}) {
      for (const bool b_transposed : {false, true}) {
        all.push_back({m, n, k, a_transposed, b_transposed, true, false});
        all.push_back({m, n, k, a_transposed, b_transposed, false, false});
        all.push_back({m, n, k, a_transposed, b_transposed, false, true});
      }
    }
  }
  // Many steps along K, from either side.
  all.push_back({33, 65, 769, false, true, true, false});
  all.push_back({65, 33, 1600, true, false, false, true});
  return all;
}

std::string text(const Case& c) {
  return fmt::format("{} x {} x {}{}{}{}{}", c.m, c.n, c.k, c.a_transposed ? ", a transposed" : "",
                     c.b_transposed ? ", b transposed" : "",
                     c.out_is_bfloat16 ? ", bfloat16" : ", float", c.accumulate ? ", added" : "");
}

TEST(GemmBf16, TheDefinitionIsWithinTheBound) {
  for (const Case& c : cases()) {
    Problem problem(c);
    gemm_bf16_reference(problem.product());
    problem.check(text(c));
  }
}

void multiply_amx(const GemmBf16& product, const GemmBf16Plan& plan) {
  std::vector<bfloat16> memory(static_cast<size_t>(plan.shared_panels * plan.panel_elements + 32));
  auto* shared =
      reinterpret_cast<bfloat16*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
  for (int64_t p = 0; p < plan.shared_panels; ++p) {
    gemm_bf16_pack(product, plan, p, p + 1, shared);
  }
  gemm_bf16_run(product, plan, shared, 0, plan.tasks / 2);
  gemm_bf16_run(product, plan, shared, plan.tasks / 2, plan.tasks);
}

TEST(GemmBf16, AmxIsWithinTheBoundForAnySplit) {
  if (!gemm_bf16_supports(highest_isa_level())) GTEST_SKIP() << "this CPU has no AMX";
  for (const Case& c : cases()) {
    std::vector<float> first;
    for (const int threads : {1, 3, 64}) {
      Problem problem(c);
      const GemmBf16 product = problem.product();
      multiply_amx(product, plan_gemm_bf16(product, threads));
      problem.check(text(c));
      if (first.empty()) first = problem.out_float();
      EXPECT_TRUE(testing::same_bits(first, problem.out_float())) << text(c);
    }
  }
}

#ifdef __x86_64__
using testing::EmulatedTiles;

void multiply_emulated(const GemmBf16& product, const GemmBf16Plan& plan) {
  std::vector<bfloat16> shared(static_cast<size_t>(plan.shared_panels * plan.panel_elements));
  detail::pack_shared<EmulatedTiles>(product, plan, 0, plan.shared_panels, shared.data());
  std::vector<bfloat16> own(static_cast<size_t>(detail::task_panel_elements(plan)));
  EmulatedTiles::begin();
  for (int64_t task = 0; task < plan.tasks; ++task) {
    detail::run_task<EmulatedTiles>(product, plan, shared.data(), task, own.data());
  }
  EmulatedTiles::end();
}

TEST(GemmBf16, EmulatedTilesAreWithinTheBoundForAnySplit) {
  for (const Case& c : cases()) {
    for (const int threads : {1, 64}) {
      Problem problem(c);
      const GemmBf16 product = problem.product();
      multiply_emulated(product, plan_gemm_bf16(product, threads));
      problem.check(text(c));
    }
  }
}

// Packing uses no tile instruction: AVX-512 is enough to run the real one.
TEST(GemmBf16, PackingEqualsItsEmulation) {
  if (highest_isa_level() < IsaLevel::kAvx512Vnni) GTEST_SKIP() << "this CPU has no AVX-512 VNNI";
  for (const Case& c : cases()) {
    Problem problem(c);
    const GemmBf16 product = problem.product();
    const GemmBf16Plan plan = plan_gemm_bf16(product, 1);
    const auto count = static_cast<size_t>(plan.shared_panels * plan.panel_elements);
    std::vector<bfloat16> expected(count), memory(count + 32);
    auto* shared =
        reinterpret_cast<bfloat16*>((reinterpret_cast<uintptr_t>(memory.data()) + 63) / 64 * 64);
    detail::pack_shared<EmulatedTiles>(product, plan, 0, plan.shared_panels, expected.data());
    detail::gemm_bf16_pack_amx(product, plan, 0, plan.shared_panels, shared);
    EXPECT_EQ(std::memcmp(shared, expected.data(), count * sizeof(bfloat16)), 0) << text(c);
  }
}
#endif

TEST(GemmBf16, SplitPiecesAddUpToTheValue) {
  std::vector<float> values = random_values<float>(1000, 6);
  // Ties, the last bit, carries into the exponent.
  for (const uint32_t bits : {0x3f808000u, 0xbf818000u, 0x3f800001u, 0x3fffffffu, 0x3f7fffffu, 0u,
                              0x80000000u, 0x7f7f7fffu, 0x10ffffffu}) {
    values.push_back(std::bit_cast<float>(bits));
  }
  for (const float x : values) {
    const Bf16Pieces p = split_bf16_reference(x);
    const double high = static_cast<float>(p.high), middle = static_cast<float>(p.middle),
                 low = static_cast<float>(p.low);
    EXPECT_EQ(high + middle + low, x);
    EXPECT_LE(std::abs(middle), 0x1p-8 * std::abs(x)) << x;
    EXPECT_LE(std::abs(low), 0x1p-17 * std::abs(x)) << x;
  }
  for (const float x : {INFINITY, -INFINITY, NAN, 3.4e38f}) {
    const Bf16Pieces p = split_bf16_reference(x);
    const float sum =
        static_cast<float>(p.high) + static_cast<float>(p.middle) + static_cast<float>(p.low);
    EXPECT_TRUE(std::isnan(sum)) << x;
  }
}

TEST(GemmBf16, RefusesWhatItHasNot) {
  Problem problem({4, 4, 4, false, false, true, false});
  GemmBf16 product = problem.product();
  product.accumulate = true;
  EXPECT_QUEST_ERROR(plan_gemm_bf16(product, 1), ErrorKind::kUsage, "FP32 output");
  product = problem.product();
  product.a.row_stride = 3;
  product.a.column_stride = 2;
  EXPECT_QUEST_ERROR(plan_gemm_bf16(product, 1), ErrorKind::kUsage, "strides 3 and 2");
  product = problem.product();
  product.k = kMaxGemmBf16Depth + 1;
  EXPECT_QUEST_ERROR(plan_gemm_bf16(product, 1), ErrorKind::kUsage, "4097");
}

}  // namespace
}  // namespace quest::kernels
