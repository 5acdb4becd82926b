// A linear layer without bias whose weight and input are quantized as a QuantRecipe says.
//
// Quantization is a property of the layer: the modules that use it do not know about it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "quest/nn/compute_type.h"
#include "quest/ops/quant_linear.h"

namespace quest::nn {

at::ScalarType scalar_type(ComputeType type);         // of activations and products
at::ScalarType master_scalar_type(ComputeType type);  // of parameters: FP32, or FP64 with kFloat64

// Where and how a model computes.
struct Placement {
  ComputeType compute = ComputeType::kBFloat16;
  at::Device device = at::kCPU;
};

// A leaf of zeros that requires a gradient.
at::Tensor make_parameter(std::vector<int64_t> shape, const Placement& placement);

// What a forward pass hands to a layer, shown to whoever watches.
struct LayerInput {
  at::Tensor values;  // (..., in_features): what is quantized; without a gradient
  // Layers behind a norm: the tensor of the graph whose gradient is that of the residual stream
  // (x + delta) there. Undefined for others.
  at::Tensor residual;
};

class QuantLinear {
 public:
  // weight (out_features, in_features), zero until initialised; a leaf that requires a gradient.
  QuantLinear(std::string name, int64_t in_features, int64_t out_features,
              const QuantRecipe& recipe, const Placement& placement);

  // x (..., in_features) of the compute type -> (..., out_features)
  at::Tensor forward(const at::Tensor& x);
  // {h, forward(rms_norm(h))} with h = x + delta; delta may be undefined.
  std::pair<at::Tensor, at::Tensor> forward_normed(const at::Tensor& x, const at::Tensor& delta,
                                                   const at::Tensor& norm, double eps);
  // forward(swiglu(gate_up))
  at::Tensor forward_swiglu(const at::Tensor& gate_up);
  // ops::QuantLinearState::use_fp8_backward
  void use_fp8_backward(const ops::QuantLinearState::Fp8Backward& how) {
    state_.use_fp8_backward(weight_.size(0), weight_.size(1), how);
  }
  // Quantizes the weight anew, into the same memory on a GPU, if it changed since the last time.
  // Registered quantizers keep nothing.
  void refresh() {
    if (!state_.has_registered()) state_.weight_side(weight_, /*want_mask=*/true);
  }

  // What registered quantizers learn (ops/tensor_quantizer.h); empty for grids.
  std::vector<ops::LearnedTensor> learned() const { return state_.learned(); }
  // What a registered quantizer makes of rows (M,K) as this layer's weight or input: (M,K) FP32,
  // rotated if its spec is; by way of autograd where that is on. Not for grids.
  at::Tensor registered_values(bool is_weight, const at::Tensor& rows);
  // The codes of the same values; after registered_values.
  ops::QuantizerCodes registered_codes(bool is_weight, const at::Tensor& rows);
  void set_beginning(bool beginning) { state_.set_beginning(beginning); }

  // Called in every forward pass before the product, which it does not change; empty: nobody.
  // (A recomputed part runs forward twice.)
  using Watcher = std::function<void(const LayerInput&)>;
  void watch(Watcher watcher) { watcher_ = std::move(watcher); }
  // Whether forward passes quantize. Without, the layer is a plain product of the compute type and
  // its quantizers keep what they have made.
  void quantize(bool on);

  const std::string& name() const { return name_; }  // "model.layers.0.mlp.down_proj"
  const at::Tensor& weight() const { return weight_; }
  const QuantRecipe& recipe() const { return state_.recipe(); }

 private:
  ops::QuantLinearState& state() { return plain_ ? *plain_ : state_; }
  ops::RegisteredSide& registered_side(bool is_weight);

  std::string name_;
  at::Tensor weight_;
  ops::QuantLinearState state_;
  std::unique_ptr<ops::QuantLinearState> plain_;  // in use while quantizers are off
  Watcher watcher_;
};

}  // namespace quest::nn
