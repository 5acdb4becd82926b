// SwiGLU with its gradient (kernels/swiglu.h) on tensors.
#pragma once

#include <ATen/core/Tensor.h>

namespace quest::ops {

// gate_up (..., 2F): gate then up; float, bfloat16 or double -> silu(gate) * up (..., F).
at::Tensor swiglu(const at::Tensor& gate_up);

}  // namespace quest::ops
