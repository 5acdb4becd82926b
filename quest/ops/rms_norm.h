// RMSNorm with its gradient (kernels/rms_norm.h) on tensors.
#pragma once

#include <ATen/core/Tensor.h>

namespace quest::ops {

// x (..., C) float, bfloat16 or double; weight (C) FP32 (FP64 with double) -> like x.
// The weight's gradient is summed in fixed blocks of rows: the same bits for any thread count.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace quest::ops
