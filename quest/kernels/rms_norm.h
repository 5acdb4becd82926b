// RMSNorm: y = x / sqrt(mean(x^2) + eps) * weight (Zhang & Sennrich, arXiv 1910.07467).
//
// M rows, C columns. T is float or bfloat16; arithmetic is float, the result rounded to T. The scalar
// definition is scalar/rms_norm.cpp; vector levels agree with it within the bound of the test.
// Single-threaded over the rows given.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/base/cpu_features.h"

namespace quest::kernels {

// x (M,C), weight (C) f32 -> y (M,C), inverse_rms (M) f32 for the backward pass (null to skip).
template <class T>
void rms_norm(const T* x, const float* weight, int64_t m, int64_t c, float eps, T* y,
              float* inverse_rms, IsaLevel level = isa_level());

// grad_x (M,C) = d/dx; grad_weight (C) f32 is added to (the caller zeroes it; one buffer per thread or
// row block, summed in a fixed order). If residual_grad is not null, it is added to grad_x.
template <class T>
void rms_norm_backward(const T* grad_y, const T* x, const float* weight, const float* inverse_rms,
                       const T* residual_grad, int64_t m, int64_t c, T* grad_x, float* grad_weight,
                       IsaLevel level = isa_level());

}  // namespace quest::kernels
