// Memory of quantized matrices, and how the GPU's kernels see it. Internal to this room.
#pragma once

#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/ops/quantized_tensor.h"

namespace quest::ops {

// Memory for the codes of (m, k) values of a grid with codes, and for the mask bits if gradients
// are wanted and have any.
QuantizedTensor empty_codes(const QuantSpec& spec, int64_t m, int64_t k, bool want_mask,
                            const at::TensorOptions& options);

// Pointers to what of q is defined.
kernels::cuda::QuantizedRows gpu_rows(const QuantizedTensor& q);

}  // namespace quest::ops
