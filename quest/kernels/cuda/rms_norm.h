// The operations of kernels/rms_norm.h on a GPU.
//
// Pointers are device memory, 16-byte aligned, dense row-major; T is float or bfloat16; arithmetic
// is float with a fixed order of sums, so that equal inputs give equal bits on one kind of GPU.
// Within the bound of the test of the scalar definition. Calls are asynchronous in `stream`.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/kernels/cuda/stream.h"
#include "quest/quant/quant_spec.h"

namespace quest::kernels::cuda {

// h = x + delta (delta null: h = x and h is not written), y = h / rms(h) * weight, all (M,C);
// weight (C) f32, inverse_rms (M) f32 or null.
template <class T>
void add_rms_norm(const T* x, const T* delta, const float* weight, float eps, int64_t m, int64_t c,
                  T* h, T* y, float* inverse_rms, Stream stream);

// Floats of workspace that rms_norm_backward needs.
int64_t rms_norm_backward_workspace(int64_t m, int64_t c);

// grad_y (M,C) is first taken through mask and inverse Hadamard transform as `spec` says
// (hadamard_quantize.h mask_hadamard; null: taken as it is) and rounded to T. Then
//   grad_h = gradient of rms_norm at h + residual_grad (null: 0);  grad_weight (C) f32 is written.
template <class T>
void rms_norm_backward(const QuantSpec* spec, const uint8_t* mask, const T* grad_y, const T* h,
                       const float* weight, const float* inverse_rms, const T* residual_grad,
                       int64_t m, int64_t c, T* grad_h, float* grad_weight, float* workspace,
                       Stream stream);

}  // namespace quest::kernels::cuda
