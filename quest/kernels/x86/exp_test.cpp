// exp of 16 lanes against the double-precision function, over the whole range of floats.
#ifdef __x86_64__

#include "quest/kernels/x86/exp.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/cpu_features.h"

namespace quest::kernels {
namespace {

using ExpFn = void (*)(const float*, float*);

// Every 4001st float of either sign, infinities and NaN included, and all that is special.
std::vector<float> inputs() {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  std::vector<float> x = {
      0.0f,      -0.0f,     kInf,    -kInf,    88.722839f,
      88.72284f, -87.3365f, -103.9f, -103.98f, -104.0f,
      1e-40f,    -1e-40f,   1.0f,    -1.0f,    std::numeric_limits<float>::quiet_NaN()};
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 4001) {
    x.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  while (x.size() % 16 != 0) x.push_back(0.5f);
  return x;
}

std::vector<float> apply(ExpFn exp, const std::vector<float>& x) {
  std::vector<float> y(x.size());
  for (size_t i = 0; i < x.size(); i += 16) exp(x.data() + i, y.data() + i);
  return y;
}

double ulp(float value) {
  if (std::abs(value) < std::numeric_limits<float>::min()) return 0x1p-149;
  return std::ldexp(1.0, std::ilogb(value) - 23);
}

void check(ExpFn exp) {
  const std::vector<float> x = inputs();
  const std::vector<float> y = apply(exp, x);
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double truth = std::exp(static_cast<double>(x[i]));
    if (std::isnan(x[i])) {
      ASSERT_TRUE(std::isnan(y[i]));
    } else if (truth >= 0x1.ffffffp127) {
      ASSERT_EQ(y[i], std::numeric_limits<float>::infinity()) << x[i];
    } else {
      worst = std::max(worst, std::abs(y[i] - truth) / ulp(static_cast<float>(truth)));
      ASSERT_LE(worst, 1.01) << x[i] << " gives " << y[i] << ", the truth is " << truth;
    }
  }
  EXPECT_EQ(y[0], 1.0f);
  EXPECT_EQ(y[1], 1.0f);
  EXPECT_EQ(y[3], 0.0f);
  ::testing::Test::RecordProperty("largest_error_in_ulp", std::to_string(worst));
}

bool has(IsaLevel level) { return highest_isa_level() >= level; }

TEST(ExpLanes, Avx2IsWithinOnePointZeroOneUlp) {
  if (!has(IsaLevel::kAvx2)) GTEST_SKIP() << "this CPU has no AVX2";
  check(detail::exp_16_avx2);
}

TEST(ExpLanes, Avx512IsWithinOnePointZeroOneUlp) {
  if (!has(IsaLevel::kAvx512)) GTEST_SKIP() << "this CPU has no AVX-512";
  check(detail::exp_16_avx512);
}

TEST(ExpLanes, BothLevelsGiveTheSameBits) {
  if (!has(IsaLevel::kAvx512)) GTEST_SKIP() << "this CPU has no AVX-512";
  const std::vector<float> x = inputs();
  const std::vector<float> narrow = apply(detail::exp_16_avx2, x),
                           wide = apply(detail::exp_16_avx512, x);
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(std::bit_cast<uint32_t>(narrow[i]), std::bit_cast<uint32_t>(wide[i])) << x[i];
  }
}

}  // namespace
}  // namespace quest::kernels

#endif
