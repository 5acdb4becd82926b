// RMSNorm with its gradient (kernels/rms_norm.h) on tensors.
#pragma once

#include <ATen/core/Tensor.h>

namespace quest::ops {

// x (..., C) float, bfloat16 or double; weight (C) FP32 (FP64 with double) -> like x.
// The weight's gradient is summed in fixed blocks of rows: the same bits for any thread count.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

// rms_norm(x + delta); delta may be undefined.
at::Tensor add_rms_norm(const at::Tensor& x, const at::Tensor& delta, const at::Tensor& weight,
                        double eps);

// Throws kUsage if weight is no contiguous master vector of x's width.
void check_norm(const at::Tensor& x, const at::Tensor& weight);

}  // namespace quest::ops
