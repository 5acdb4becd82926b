// Inside of rms_norm: the functions of one level. Not for callers.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"

namespace quest::kernels::detail {

template <class T>
struct RmsNormLevel {
  void (*forward)(const T* x, const float* weight, int64_t m, int64_t c, float eps, T* y,
                  float* inverse_rms);
  void (*backward)(const T* grad_y, const T* x, const float* weight, const float* inverse_rms,
                   const T* residual_grad, int64_t m, int64_t c, T* grad_x, float* grad_weight);
};

template <class T>
const RmsNormLevel<T>& rms_norm_scalar();  // scalar/rms_norm.cpp, the definition
template <class T>
const RmsNormLevel<T>& rms_norm_avx2();
template <class T>
const RmsNormLevel<T>& rms_norm_avx512();

}  // namespace quest::kernels::detail
