// Quantization of whole tensors: shape and type checks once, then the fused kernels over all
// threads.
#pragma once

#include <string_view>

#include <ATen/core/Tensor.h>

#include "quest/quant/quantizer.h"

namespace quest::ops {

// A matrix (M, K) after its QuantSpec. Grids with codes fill codes and units; grids without (kNone,
// kMask4of8) and double input fill values. Always in the rotated basis if spec.hadamard.
struct QuantizedTensor {
  at::Tensor codes;   // (M,K) int8
  at::Tensor units;   // (M) f32
  at::Tensor mask;    // (M, ceil(K/8)) uint8, bit k%8 of byte k/8; undefined: all ones
  at::Tensor values;  // (M,K)

  bool has_codes() const { return codes.defined(); }
};

// Grids that have codes: all but kNone, kMask4of8 and kRegistered.
bool has_code_grid(const QuantSpec& spec);
// Whether gradients of the spec go through a mask: false where all its bits are one.
bool has_gradient_mask(const QuantSpec& spec);

// x (M,K) float, bfloat16 or (on a CPU) double. want_mask: gradients will be asked for. `name` is
// for errors: kNumeric names the tensor and the first row whose RMS is not finite; on a GPU such a
// row gets the unit NaN instead, so that the loss is NaN (kernels/cuda/hadamard_quantize.h). Values
// (where made) have type value_type.
QuantizedTensor quantize(const QuantSpec& spec, const at::Tensor& x, at::ScalarType value_type,
                         bool want_mask, std::string_view name);

// (M,K) of value_type: unit * number(code), or the values.
at::Tensor dequantize(const QuantSpec& spec, const QuantizedTensor& quantized,
                      at::ScalarType value_type);

// Gradient with respect to x from the gradient with respect to the (rotated) values; may reuse
// grad_values' memory.
at::Tensor quantize_backward(const QuantSpec& spec, const at::Tensor& mask, at::Tensor grad_values);

}  // namespace quest::ops
