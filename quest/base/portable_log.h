// The body of portable::log (portable_math.h), constexpr as that of exp is (portable_exp.h), and to
// be included under the same condition: GPU code computes the same bits.
#pragma once

namespace quest::portable {

// ln of m 2^exponent, m in [1/2, 1) as frexp gives it. With m brought to [1/sqrt 2, sqrt 2), ln m =
// 2 artanh((m - 1) / (m + 1)) as a series whose rest is below 1e-17.
constexpr double log_body(double m, int exponent) {
  if (m < 0.70710678118654752) {
    m *= 2;
    --exponent;
  }
  const double f = (m - 1) / (m + 1), square = f * f;
  double series = 0;
  for (int n = 21; n >= 1; n -= 2) series = series * square + 1.0 / n;
  return exponent * 0.69314718055994531 + 2 * f * series;
}

}  // namespace quest::portable
