// The body of portable::exp (portable_math.h), constexpr so that GPU code computes the same bits:
// nvcc compiles constexpr functions for the device (--expt-relaxed-constexpr). Include it only
// where nothing is contracted (-ffp-contract=off, -fmad=false); other code calls portable::exp.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace quest::portable {

// ln 2 = kLn2[0] + kLn2[1] + kLn2[2] within 2^-128; the first two have 40 bits, so that their
// products with an exponent are exact.
inline constexpr double kLn2[] = {0xB17217F7D1p-40, 0xCF79ABC9E3p-80, 0xB39803F2F6AFp-128};

// The nearest integer; halves away from 0.
constexpr int64_t nearest(double x) { return static_cast<int64_t>(x < 0 ? x - 0.5 : x + 0.5); }

// x * 2^n, rounded once, for normal x near 1 and n from -1100 to 1100.
constexpr double times_power_of_two(double x, int64_t n) {
  const auto power = [](int64_t e) {
    return std::bit_cast<double>(static_cast<uint64_t>(1023 + e) << 52);
  };
  const int64_t half = n / 2;
  return x * power(half) * power(n - half);
}

// 1 / (first + step i)!
template <int kCount>
constexpr std::array<double, kCount> inverse_factorials(int first, int step) {
  std::array<double, kCount> result{};
  for (int i = 0; i < kCount; ++i) {
    double factorial = 1;  // exact up to 18!
    for (int n = 2; n <= first + step * i; ++n) factorial *= n;
    result[static_cast<size_t>(i)] = 1.0 / factorial;
  }
  return result;
}

// Horner's scheme, from the last coefficient.
template <size_t kCount>
constexpr double polynomial(const std::array<double, kCount>& coefficients, double x) {
  double sum = coefficients[kCount - 1];
  for (size_t i = kCount - 1; i-- > 0;) sum = sum * x + coefficients[i];
  return sum;
}

// x = n ln 2 + r with |r| <= ln 2 / 2, r as a sum of two doubles; e^r is its series up to r^13.
constexpr double exp_body(double x) {
  constexpr auto kSeries = inverse_factorials<12>(2, 1);
  constexpr double kHigh = kLn2[0], kTail = 0xCF79ABC9E3B398p-96;  // ln 2 - kHigh, rounded
  if (x != x) return x;
  if (x < -745.2) return 0;
  if (x > 709.8) return std::numeric_limits<double>::infinity();
  const int64_t n = nearest(x * 1.4426950408889634);
  const auto count = static_cast<double>(n);
  const double high = x - count * kHigh, low = count * kTail;  // high is exact
  const double r = high - low, rest = (high - r) - low;
  return times_power_of_two(1 + (r + (r * r * polynomial(kSeries, r) + rest)), n);
}

}  // namespace quest::portable
