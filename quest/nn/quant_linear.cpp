#include "quest/nn/quant_linear.h"

#include <ATen/ops/zeros.h>

#include "quest/base/error.h"
#include "quest/ops/fused_linear.h"

namespace quest::nn {

at::ScalarType scalar_type(ComputeType type) {
  switch (type) {
    case ComputeType::kFloat32:
      return at::kFloat;
    case ComputeType::kBFloat16:
      return at::kBFloat16;
    case ComputeType::kFloat64:
      return at::kDouble;
  }
  QUEST_ASSERT(false, "compute type {}", static_cast<int>(type));
}

at::ScalarType master_scalar_type(ComputeType type) {
  return type == ComputeType::kFloat64 ? at::kDouble : at::kFloat;
}

at::Tensor make_parameter(std::vector<int64_t> shape, const Placement& placement) {
  return at::zeros(
             shape,
             at::TensorOptions(master_scalar_type(placement.compute)).device(placement.device))
      .set_requires_grad(true);
}

QuantLinear::QuantLinear(std::string name, int64_t in_features, int64_t out_features,
                         const QuantRecipe& recipe, const Placement& placement)
    : name_(std::move(name)),
      weight_(make_parameter({out_features, in_features}, placement)),
      state_(recipe, scalar_type(placement.compute), name_) {
  state_.make_registered_sides(out_features, in_features, weight_.options().requires_grad(false));
}

at::Tensor QuantLinear::forward(const at::Tensor& x) {
  return ops::quant_linear(x, weight_, state_);
}

std::pair<at::Tensor, at::Tensor> QuantLinear::forward_normed(const at::Tensor& x,
                                                              const at::Tensor& delta,
                                                              const at::Tensor& norm, double eps) {
  return ops::norm_quant_linear(x, delta, norm, eps, weight_, state_);
}

at::Tensor QuantLinear::forward_swiglu(const at::Tensor& gate_up) {
  return ops::swiglu_quant_linear(gate_up, weight_, state_);
}

}  // namespace quest::nn
