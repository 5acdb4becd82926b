// exp, sigmoid and ln on the device with the bits of the CPU's (quest/kernels/x86/exp.h,
// swiglu_body.h, quest/base/portable_math.cpp): the same operations in the same order.
#pragma once

#include "quest/base/portable_log.h"
#include "quest/kernels/cuda/device.cuh"

namespace quest::kernels::cuda {

// Half to even beside 1.5 * 2^23 is what rint gives for these magnitudes, and the integer is in the
// sum's last bits.
__device__ inline float exp_as_cpu(float x) {
  x = 89.0f < x ? 89.0f : x;  // NaN stays
  x = -104.0f > x ? -104.0f : x;
  const float shifted = shift_to_integer(x * 1.44269504088896341f);
  const float n = shifted - kIntegerShift;
  float r = __fmaf_rn(n, -0.693359375f, x);
  r = __fmaf_rn(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = __fmaf_rn(p, r, 1.3981999507e-3f);
  p = __fmaf_rn(p, r, 8.3334519073e-3f);
  p = __fmaf_rn(p, r, 4.1665795894e-2f);
  p = __fmaf_rn(p, r, 1.6666665459e-1f);
  p = __fmaf_rn(p, r, 5.0000001201e-1f);
  p = __fmaf_rn(p, r * r, r) + 1.0f;
  const int whole = __float_as_int(shifted) - kIntegerShiftBits;
  const int half = __float_as_int(shift_to_integer(n * 0.5f)) - kIntegerShiftBits;
  const auto power_of_two = [](int exponent) {
    return __uint_as_float(static_cast<unsigned>(exponent + 127) << 23);
  };
  return p * power_of_two(half) * power_of_two(whole - half);
}

__device__ inline float sigmoid_as_cpu(float x) { return __frcp_rn(1.0f + exp_as_cpu(0.0f - x)); }

// ln of finite x >= 1.
__device__ inline double log_as_cpu(double x) {
  int exponent = 0;
  const double m = frexp(x, &exponent);
  return portable::log_body(m, exponent);
}

}  // namespace quest::kernels::cuda
