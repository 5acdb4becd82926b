// Tensors from and to safetensors files.
#pragma once

#include <ATen/core/Tensor.h>

#include "quest/base/safetensors.h"

namespace quest::ops {

// A copy with its own memory, of the file's type. Throws kData for types LibTorch lacks here.
at::Tensor to_tensor(const TensorView& view);
DType dtype_of(at::ScalarType type);  // throws kUsage for types that safetensors files do not hold
at::ScalarType scalar_type_of(DType dtype);

}  // namespace quest::ops
