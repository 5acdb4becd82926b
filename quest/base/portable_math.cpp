#include "quest/base/portable_math.h"

#include <cmath>
#include <cstdint>
#include <limits>

#include "quest/base/error.h"
#include "quest/base/portable_exp.h"
#include "quest/base/portable_log.h"

namespace quest::portable {
namespace {

// pi / 2 within 2^-152, in parts of 20 bits (the first has 21, the last 52), so that their products
// with an integer up to 2^32 are exact.
constexpr double kHalfPi[] = {0x1.921FBp0, 0x54442p-40,  0xD1846p-60,
                              0x9898Cp-80, 0xC5170p-100, 0x1B839A252049Cp-152};

// hi + lo, |lo| at most half an ulp of hi: about 106 bits (T. J. Dekker, Numer. Math. 18, 1971).
struct Double2 {
  double hi, lo;
};

Double2 two_sum(double a, double b) {  // exact
  const double sum = a + b, b_part = sum - a;
  return {sum, (a - (sum - b_part)) + (b - b_part)};
}

Double2 two_product(double a, double b) {  // exact for magnitudes from 1e-140 to 1e140
  const auto split = [](double x) {
    const double scaled = 134217729.0 * x, high = scaled - (scaled - x);  // 2^27 + 1
    return Double2{high, x - high};
  };
  const double product = a * b;
  const Double2 x = split(a), y = split(b);
  return {product, ((x.hi * y.hi - product) + x.hi * y.lo + x.lo * y.hi) + x.lo * y.lo};
}

Double2 add(Double2 a, Double2 b) {
  const Double2 high = two_sum(a.hi, b.hi), low = two_sum(a.lo, b.lo);
  const Double2 sum = two_sum(high.hi, high.lo + low.hi);
  return two_sum(sum.hi, sum.lo + low.lo);
}

Double2 multiply(Double2 a, Double2 b) {
  const Double2 product = two_product(a.hi, b.hi);
  return two_sum(product.hi, product.lo + (a.hi * b.lo + a.lo * b.hi));
}

Double2 divide(Double2 a, double b) {
  const double quotient = a.hi / b;
  const Double2 product = two_product(quotient, b);
  return two_sum(quotient, ((a.hi - product.hi) - product.lo + a.lo) / b);
}

// e^x = 2^exponent * fraction, x from -745 to 745.
struct ScaledExp {
  Double2 fraction;
  int64_t exponent;
};
ScaledExp scaled_exp(Double2 x) {
  const int64_t n = nearest(x.hi * 1.4426950408889634);
  const auto count = static_cast<double>(n);
  Double2 r = add(x, {-count * kLn2[0], 0});
  r = add(r, {-count * kLn2[1], 0});
  r = add(r, {-count * kLn2[2], 0});
  Double2 sum{1, 0};  // 1 + r (1 + r/2 (1 + r/3 ...)), |r| <= ln 2 / 2
  for (int i = 26; i >= 1; --i) sum = add({1, 0}, divide(multiply(sum, r), i));
  return {sum, n};
}

// One Newton step from ln x in double.
Double2 log_of_double(double x) {
  int exponent = 0;
  const double m = std::frexp(x, &exponent);  // exact
  const double first = portable::log(m);
  const ScaledExp inverse = scaled_exp({-first, 0});
  // m e^-first = 1 + d, ln m = first + d - d^2 / 2 + ...
  const double scale = times_power_of_two(1, inverse.exponent);
  const Double2 d = add(multiply({m * scale, 0}, inverse.fraction), {-1, 0});  // m * scale is exact
  const Double2 rest = add(d, {-d.hi * d.hi / 2, 0});
  const auto count = static_cast<double>(exponent);
  Double2 result = add({count * kLn2[0], 0}, {count * kLn2[1], 0});
  result = add(result, {count * kLn2[2], 0});
  return add(add(result, {first, 0}), rest);
}

}  // namespace

double exp(double x) { return exp_body(x); }

double log(double x) {
  QUEST_ASSERT(x > 0 && std::isfinite(x), "log({})", x);
  int exponent = 0;
  const double m = std::frexp(x, &exponent);  // exact
  return log_body(m, exponent);
}

double pow(double x, double y) {
  QUEST_ASSERT(x > 0 && std::isfinite(x) && std::isfinite(y), "pow({}, {})", x, y);
  const Double2 logarithm = log_of_double(x);
  const double rough = logarithm.hi * y;
  if (!(std::fabs(rough) <= 745)) {
    return rough < 0 ? 0 : std::numeric_limits<double>::infinity();
  }
  const ScaledExp result = scaled_exp(multiply(logarithm, {y, 0}));
  return times_power_of_two(result.fraction.hi, result.exponent);
}

// x = k pi/2 + r with |r| <= pi/4 and r = hi + lo, whose sine and cosine are their series.
SinCos sin_cos(double x) {
  constexpr auto kSine = inverse_factorials<8>(3, 2);    // 1/3!, 1/5!, ..., 1/17!
  constexpr auto kCosine = inverse_factorials<7>(4, 2);  // 1/4!, 1/6!, ..., 1/16!
  QUEST_ASSERT(std::fabs(x) <= 4294967296.0, "sin_cos({})", x);
  const int64_t k = nearest(x * 0.63661977236758134);
  const auto count = static_cast<double>(k);
  Double2 r{x - count * kHalfPi[0], 0};  // exact
  for (int i = 1; i < 6; ++i) {
    const Double2 sum = two_sum(r.hi, -count * kHalfPi[i]);
    r = {sum.hi, r.lo + sum.lo};
  }
  r = two_sum(r.hi, r.lo);
  const double square = r.hi * r.hi;
  // The series in -r^2.
  const double sine = r.hi + (r.lo * (1 - square / 2) - square * r.hi * polynomial(kSine, -square));
  const double half = square / 2, one = 1 - half;
  const double cosine =
      one + (((1 - one) - half) + (square * square * polynomial(kCosine, -square) - r.hi * r.lo));
  switch (k & 3) {
    case 0:
      return {sine, cosine};
    case 1:
      return {cosine, -sine};
    case 2:
      return {-sine, -cosine};
    default:
      return {-cosine, sine};
  }
}

}  // namespace quest::portable
