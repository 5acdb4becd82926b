// exp of 16 lanes: at most 1.01 units in the last place from the true value (exp_test.cpp), the
// same bits at every level. exp(-inf) = 0, overflow gives infinity, subnormal results are right to
// one unit of their own, NaN stays NaN.
//
// x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) = 1 + r + r^2 p(r) with the coefficients of Cephes'
// expf (S. Moshier, netlib.org/cephes); 2^n in two factors, each a normal number.
#pragma once

namespace quest::kernels::detail {

template <class L>
inline __attribute__((always_inline)) typename L::F exp_lanes(typename L::F x) {
  using F = typename L::F;
  // Beyond these the result is infinity or 0. min and max return their second operand for NaN.
  x = L::max(L::set1(-104.0f), L::min(L::set1(89.0f), x));
  const F n = L::round_even(L::mul(x, L::set1(1.44269504088896341f)));
  F r = L::fma(n, L::set1(-0.693359375f), x);
  r = L::fma(n, L::set1(2.12194440e-4f), r);
  F p = L::set1(1.9875691500e-4f);
  p = L::fma(p, r, L::set1(1.3981999507e-3f));
  p = L::fma(p, r, L::set1(8.3334519073e-3f));
  p = L::fma(p, r, L::set1(4.1665795894e-2f));
  p = L::fma(p, r, L::set1(1.6666665459e-1f));
  p = L::fma(p, r, L::set1(5.0000001201e-1f));
  p = L::add(L::fma(p, L::mul(r, r), r), L::set1(1.0f));
  const F half = L::round_even(L::mul(n, L::set1(0.5f)));
  const auto power_of_two = [](F exponent) __attribute__((always_inline)) {
    return L::as_float(
        L::template shift_left<23>(L::add_int(L::to_int(exponent), L::set1_int(127))));
  };
  return L::mul(L::mul(p, power_of_two(half)), power_of_two(L::sub(n, half)));
}

// exp_lanes of one level from and to memory (16 floats), for the test.
void exp_16_avx2(const float* x, float* y);
void exp_16_avx512(const float* x, float* y);

}  // namespace quest::kernels::detail
