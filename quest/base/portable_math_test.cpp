#include "quest/base/portable_math.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <random>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/checksum.h"

namespace quest {
namespace {

// The reference is the C library's long double.
constexpr bool kHasReference = std::numeric_limits<long double>::digits >= 64;

// |value - exact| in units in the last place of a double of exact's size.
double ulps(double value, long double exact) {
  const auto near = static_cast<double>(std::fabs(exact));
  const long double ulp = std::nextafter(near, std::numeric_limits<double>::infinity()) - near;
  return static_cast<double>(std::fabs(static_cast<long double>(value) - exact) / ulp);
}

class PortableMath : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!kHasReference) GTEST_SKIP() << "long double is no wider than double on this machine";
  }
  double uniform(double low, double high) {
    return std::uniform_real_distribution<double>(low, high)(random_);
  }
  std::mt19937_64 random_{1};
};

TEST_F(PortableMath, Exp) {
  double worst = 0;
  for (int i = 0; i < 400000; ++i) {
    const double x = i % 2 == 0 ? uniform(-708, 709.7) : uniform(-3, 3);
    worst = std::max(worst, ulps(portable::exp(x), std::exp(static_cast<long double>(x))));
  }
  EXPECT_LT(worst, 1.0);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(portable::exp(0.0), 1.0);
  EXPECT_EQ(portable::exp(-0.0), 1.0);
  EXPECT_EQ(portable::exp(1e-300), 1.0);
  EXPECT_EQ(portable::exp(-kInfinity), 0.0);
  EXPECT_EQ(portable::exp(-1e30), 0.0);
  EXPECT_EQ(portable::exp(709.9), kInfinity);
  EXPECT_EQ(portable::exp(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(portable::exp(std::numeric_limits<double>::quiet_NaN())));
  for (double x = -745.3; x < -708; x += 0.01) {
    const double exact = static_cast<double>(std::exp(static_cast<long double>(x)));
    EXPECT_NEAR(portable::exp(x), exact, 0x1p-1074) << x;
  }
}

TEST_F(PortableMath, Log) {
  double worst = 0;
  const auto check = [&](double x) {
    worst = std::max(worst, ulps(portable::log(x), std::log(static_cast<long double>(x))));
  };
  for (int i = 0; i < 200000; ++i) {
    check(std::ldexp(uniform(0.5, 1), static_cast<int>(uniform(-1073, 1024))));
    check(uniform(0, 2));
    check(1 + std::ldexp(uniform(-1, 1), static_cast<int>(uniform(-52, -1))));
  }
  check(std::numeric_limits<double>::max());
  check(std::numeric_limits<double>::min());
  check(0x1p-1074);
  EXPECT_LT(worst, 3.0);
  EXPECT_EQ(portable::log(1.0), 0.0);
}

// Long double is 11 bits wider, so nearly all of its roundings to double are those of the true
// value; the bound leaves room for its own error of an ulp (2^-11 of a double's).
TEST_F(PortableMath, PowIsTheTrueValueRoundedOnce) {
  double worst = 0;
  const auto check = [&](double x, double y) {
    const long double exact = std::pow(static_cast<long double>(x), static_cast<long double>(y));
    worst = std::max(worst, ulps(portable::pow(x, y), exact));
  };
  for (int i = 0; i < 20000; ++i) {
    check(uniform(0.5, 2), uniform(-300, 300));
    check(std::exp2(uniform(0, 100)), uniform(-1, 1));
    check(uniform(1, 1e6), uniform(-1, 1));
  }
  for (const double theta : {1.0, 10000.0, 500000.0, 1e6, 5e6, 1e12}) {
    for (const int dim : {8, 16, 64, 80, 96, 128, 256}) {
      for (int i = 0; i < dim / 2; ++i) check(theta, -2.0 * i / dim);
    }
  }
  EXPECT_LT(worst, 0.502);
  EXPECT_EQ(portable::pow(12.5, 0.0), 1.0);
  EXPECT_EQ(portable::pow(1.0, 123.0), 1.0);
  EXPECT_EQ(portable::pow(10.0, 2.0), 100.0);
  EXPECT_EQ(portable::pow(1e300, 2.0), std::numeric_limits<double>::infinity());
  EXPECT_EQ(portable::pow(1e300, -2.0), 0.0);
}

TEST_F(PortableMath, SinCos) {
  double worst = 0;
  const auto check = [&](double x) {
    const portable::SinCos value = portable::sin_cos(x);
    const auto exact = static_cast<long double>(x);
    worst = std::max({worst, ulps(value.sin, std::sin(exact)), ulps(value.cos, std::cos(exact))});
  };
  for (int i = 0; i < 200000; ++i) {
    check(uniform(-4, 4));
    check(uniform(0, 4294967296.0));
    check(std::exp2(uniform(-40, 32)));
    // Beside a zero of one of them, where all leading bits cancel.
    const double multiple = std::floor(std::exp2(uniform(0, 31)));
    const double zero = static_cast<double>(multiple * (std::numbers::pi_v<long double> / 2));
    check(zero);
    check(std::nextafter(zero, 0.0));
    check(i);
  }
  check(4294967296.0);
  EXPECT_LT(worst, 1.0);
  EXPECT_EQ(portable::sin_cos(0.0).sin, 0.0);
  EXPECT_EQ(portable::sin_cos(0.0).cos, 1.0);
}

// On every machine, whatever its compiler and library: a change of these bits changes models'
// tokens.
TEST(PortableMathBits, AreTheseEverywhere) {
  std::vector<double> values;
  for (int i = 1; i < 20000; ++i) {
    const double x = i * 0.03125 + i % 7 * 0x1.3p-20;
    values.push_back(portable::exp(-x));
    values.push_back(portable::log(x));
    const portable::SinCos value = portable::sin_cos(x * i);
    values.push_back(value.sin);
    values.push_back(value.cos);
    if (i % 16 == 0) values.push_back(portable::pow(x, 1 - x / 512));
  }
  EXPECT_EQ(checksum128_hex(std::as_bytes(std::span(values))), "e3fc7561d98964686fd6e1bd94947e2b");
}

}  // namespace
}  // namespace quest
