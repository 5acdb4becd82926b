// A linear layer without bias whose weight and input are quantized as a QuantRecipe says.
//
// Quantization is a property of the layer: the modules that use it do not know about it.
#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "quest/nn/compute_type.h"
#include "quest/ops/quant_linear.h"

namespace quest::nn {

at::ScalarType scalar_type(ComputeType type);         // of activations and products
at::ScalarType master_scalar_type(ComputeType type);  // of parameters: FP32, or FP64 with kFloat64

// A leaf of zeros that requires a gradient.
at::Tensor make_parameter(std::vector<int64_t> shape, ComputeType compute);

class QuantLinear {
 public:
  // weight (out_features, in_features), zero until initialised; a leaf that requires a gradient.
  QuantLinear(std::string name, int64_t in_features, int64_t out_features,
              const QuantRecipe& recipe, ComputeType compute);

  // x (..., in_features) of the compute type -> (..., out_features)
  at::Tensor forward(const at::Tensor& x);

  const std::string& name() const { return name_; }  // "model.layers.0.mlp.down_proj"
  const at::Tensor& weight() const { return weight_; }

 private:
  std::string name_;
  at::Tensor weight_;
  ops::QuantLinearState state_;
};

}  // namespace quest::nn
