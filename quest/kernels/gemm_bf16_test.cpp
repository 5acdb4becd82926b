#include "quest/kernels/gemm_bf16.h"

#include <bit>
#include <cmath>
#include <functional>
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

enum class Type { kBf16, kFloat, kScaledFloat };

struct Case {
  int64_t m, n, k;
  bool a_transposed, b_transposed, out_is_bfloat16, accumulate;
  Type a = Type::kBf16, b = Type::kBf16;
};

// Operands with padding behind each row, an output whose padding must stay as it is.
class Problem {
 public:
  explicit Problem(const Case& c) : case_(c) {
    a_float_ = random_values<float>((c.m + 3) * (c.k + 3), 1);
    b_float_ = random_values<float>((c.n + 3) * (c.k + 3), 2);
    for (const float value : a_float_) a_.push_back(bfloat16(value));
    for (const float value : b_float_) b_.push_back(bfloat16(value));
    scales_ = random_values<float>(c.k, 9);
    before_ = random_values<float>(c.m * (c.n + kPadding), 3);
    out_float_ = before_;
    for (const float value : before_) out_bf16_.push_back(bfloat16(value));
  }

  GemmBf16 product() {
    const Case& c = case_;
    GemmBf16 p;
    p.a = c.a_transposed ? operand(c.a, a_, a_float_, 1, c.m + 3)
                         : operand(c.a, a_, a_float_, c.k + 3, 1);
    p.b = c.b_transposed ? operand(c.b, b_, b_float_, 1, c.k + 3)
                         : operand(c.b, b_, b_float_, c.n + 3, 1);
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
          const double term = value(p.a, i, k, k) * value(p.b, k, j, k);
          exact += term;
          size += std::abs(term);
        }
        // Sums of pieces are longer; 3: what the pieces leave out, and the output.
        const int products = p.a.is_float && p.b.is_float   ? 6
                             : p.a.is_float || p.b.is_float ? 3
                                                            : 1;
        const double sum_error = static_cast<double>(products * p.k + 3) * 0x1p-24 * size;
        const double rounding = p.out_is_bfloat16 ? 0x1p-8 * (std::abs(exact) + sum_error) : 0;
        ASSERT_LE(std::abs(out - exact), sum_error + rounding)
            << what << ": row " << i << ", column " << j;
      }
    }
  }

  const std::vector<float>& out_float() const { return out_float_; }

 private:
  static constexpr int64_t kPadding = 5;

  GemmOperand operand(Type type, const std::vector<bfloat16>& bf16, const std::vector<float>& fp32,
                      int64_t row_stride, int64_t column_stride) const {
    if (type == Type::kBf16) return {bf16.data(), row_stride, column_stride};
    return {fp32.data(), row_stride, column_stride,
            type == Type::kScaledFloat ? scales_.data() : nullptr};
  }

  static double value(const GemmOperand& x, int64_t row, int64_t column, int64_t k) {
    const int64_t place = row * x.row_stride + column * x.column_stride;
    if (!x.is_float) return static_cast<float>(static_cast<const bfloat16*>(x.data)[place]);
    const double scale = x.k_scales == nullptr ? 1 : x.k_scales[k];
    return scale * static_cast<const float*>(x.data)[place];
  }

  Case case_;
  std::vector<bfloat16> a_, b_, out_bf16_;
  std::vector<float> a_float_, b_float_, scales_, before_, out_float_;
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
  // FP32 operands, either of them the shared one.
  const std::pair<Type, Type> types[] = {{Type::kFloat, Type::kFloat},
                                         {Type::kScaledFloat, Type::kBf16},
                                         {Type::kBf16, Type::kFloat},
                                         {Type::kFloat, Type::kScaledFloat}};
  for (const auto& [a, b] : types) {
    for (const bool a_transposed : {false, true}) {
      for (const bool b_transposed : {false, true}) {
        all.push_back({31, 70, 33, a_transposed, b_transposed, false, false, a, b});
        all.push_back({70, 31, 200, a_transposed, b_transposed, false, true, a, b});
      }
    }
    all.push_back({64, 32, 64, false, true, true, false, a, b});
    all.push_back({1, 1, 1, false, false, false, false, a, b});
  }
  return all;
}

std::string text(const Case& c) {
  return fmt::format("{} x {} x {}{}{}{}{}", c.m, c.n, c.k, c.a_transposed ? ", a transposed" : "",
                     c.b_transposed ? ", b transposed" : "",
                     c.out_is_bfloat16 ? ", bfloat16" : ", float", c.accumulate ? ", added" : "") +
         fmt::format(", types {} and {}", static_cast<int>(c.a), static_cast<int>(c.b));
}

TEST(GemmBf16, TheDefinitionIsWithinTheBound) {
  for (const Case& c : cases()) {
    Problem problem(c);
    gemm_bf16_reference(problem.product());
    problem.check(text(c));
  }
}

void multiply_amx(const GemmBf16& product, const GemmBf16Plan& plan) {
  std::vector<bfloat16> memory(
      static_cast<size_t>(plan.shared_panels * plan.shared_panel_elements + 32));
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
  std::vector<bfloat16> shared(
      static_cast<size_t>(plan.shared_panels * plan.shared_panel_elements));
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
    const auto count = static_cast<size_t>(plan.shared_panels * plan.shared_panel_elements);
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

// Not only within the bound, which grows with K: an FP32 operand is used with all its bits.
void expect_fp32_accuracy(const std::function<void(const GemmBf16&)>& multiply) {
  for (const auto& [a, b] :
       {std::pair{Type::kFloat, Type::kFloat}, {Type::kScaledFloat, Type::kBf16}}) {
    Problem problem({64, 64, 640, false, true, false, false, a, b});
    Problem definition({64, 64, 640, false, true, false, false, a, b});
    multiply(problem.product());
    gemm_bf16_reference(definition.product());
    double error = 0, size = 0;
    for (size_t i = 0; i < problem.out_float().size(); ++i) {
      const double exact = definition.out_float()[i];
      error += std::pow(problem.out_float()[i] - exact, 2);
      size += exact * exact;
    }
    EXPECT_LT(std::sqrt(error / size), 1e-6)
        << text({64, 64, 640, false, true, false, false, a, b});
  }
}

#ifdef __x86_64__
TEST(GemmBf16, EmulatedTilesOfFloatsAreAsExactAsFp32) {
  expect_fp32_accuracy(
      [](const GemmBf16& product) { multiply_emulated(product, plan_gemm_bf16(product, 1)); });
}
#endif

TEST(GemmBf16, AmxOfFloatsIsAsExactAsFp32) {
  if (!gemm_bf16_supports(highest_isa_level())) GTEST_SKIP() << "this CPU has no AMX";
  expect_fp32_accuracy(
      [](const GemmBf16& product) { multiply_amx(product, plan_gemm_bf16(product, 1)); });
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
  product.k = max_gemm_bf16_depth(1) + 1;
  EXPECT_QUEST_ERROR(plan_gemm_bf16(product, 1), ErrorKind::kUsage, "4097");
  Problem floats({4, 4, 4, false, false, true, false, Type::kFloat, Type::kBf16});
  product = floats.product();
  product.k = max_gemm_bf16_depth(3) + 1;
  EXPECT_QUEST_ERROR(plan_gemm_bf16(product, 1), ErrorKind::kUsage, "1345");
}

}  // namespace
}  // namespace quest::kernels
