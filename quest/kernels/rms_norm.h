// RMSNorm: y = x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich, arXiv 1910.07467).
//
// M rows, C columns. T is float or bfloat16; arithmetic is float, the result rounded to T. The
// definition is scalar/rms_norm.cpp (sums over a row in double); vector levels agree with it within
// the bound of the test and give each other's bits. C > 0 where M > 0. NaN and infinity stay within
// their row. Single-threaded over the rows given; any number of calls may run at once.
//
//   rms_norm(x, weight, m, c, 1e-5f, y, inverse_rms);
//   rms_norm_backward<float>(grad_y, x, weight, inverse_rms, nullptr, m, c, grad_x, grad_weight);
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/base/cpu_features.h"

namespace quest::kernels {

// x (M,C), weight (C) f32 -> y (M,C), inverse_rms (M) f32 for the backward pass (null to skip).
template <class T>
void rms_norm(const T* x, const float* weight, int64_t m, int64_t c, float eps, T* y,
              float* inverse_rms, IsaLevel level = isa_level());

// grad_x (M,C) = d/dx; grad_weight (C) f32 is added to (the caller zeroes it; one buffer per thread
// or row block, summed in a fixed order; rows are
// added one after the other). If residual_grad is not null, it is added to grad_x.
template <class T>
void rms_norm_backward(const T* grad_y, const T* x, const float* weight, const float* inverse_rms,
                       const T* residual_grad, int64_t m, int64_t c, T* grad_x, float* grad_weight,
                       IsaLevel level = isa_level());

}  // namespace quest::kernels
