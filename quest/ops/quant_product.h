// The products of a quantized linear layer, shared by quant_linear and its fused forms
// (norm_quant_linear, swiglu_quant_linear). Internal to this room.
#pragma once

#include <memory>

#include <torch/csrc/autograd/custom_function.h>

#include "quest/ops/quant_linear.h"

namespace quest::ops {

// Throws kUsage with names and values if x (..., K) and weight (N,K) do not fit each other and the
// layer.
void check_linear(const at::Tensor& x, const at::Tensor& weight, const QuantLinearState& state);

// x (M,K) times weight (N,K)^T -> (M,N) of the compute type.
at::Tensor forward_product(const QuantRecipe& recipe, const QuantizedTensor& x,
                           const QuantizedWeight& weight, at::ScalarType compute);

// turned (K,N) e4m3, rotated along N in place and rounded again, with scales (1,K) f32.
void rotate_turned_codes(const at::Tensor& turned, const at::Tensor& scales);

// What the backward pass needs of its layer, which may be gone or have moved on by then.
class SavedLayer : public torch::CustomClassHolder {
 public:
  SavedLayer(const QuantLinearState& state, std::shared_ptr<const QuantizedWeight> side)
      : weight_(std::move(side)),
        generation_(weight_->generation),
        recipe_(state.recipe()),
        compute_(state.compute()),
        fp8_(state.fp8_backward().value_or(QuantLinearState::Fp8Backward{})) {}

  const QuantRecipe& recipe() const { return recipe_; }

  struct Gradients {
    at::Tensor values;  // (M,K) of the input's quantized values, before mask and transform
    at::Tensor weight;  // (N,K) of the weight's type
  };
  // grad_y (M,N), x (M,K). Those that are not wanted stay undefined.
  Gradients gradients(const at::Tensor& grad_y, const QuantizedTensor& x, bool want_values,
                      bool want_weight) const;

 private:
  Gradients fp8_gradients(const at::Tensor& grad_y, const QuantizedTensor& x) const;
  Gradients rounded_gradients(const at::Tensor& grad_y, const QuantizedTensor& x) const;
  Gradients rotated_gradients(const at::Tensor& grad_y, const QuantizedTensor& x) const;
  // grad (N,K) of the weight's rotated values -> of the weight, FP32.
  at::Tensor weight_gradient(const at::Tensor& grad) const;

  std::shared_ptr<const QuantizedWeight> weight_;
  int64_t generation_;
  QuantRecipe recipe_;
  at::ScalarType compute_;
  QuantLinearState::Fp8Backward fp8_;  // read where the weight has its FP8 form
};

void save_layer(torch::autograd::AutogradContext* ctx, const QuantLinearState& state,
                std::shared_ptr<const QuantizedWeight> weight);
SavedLayer saved_layer(torch::autograd::AutogradContext* ctx);

}  // namespace quest::ops
