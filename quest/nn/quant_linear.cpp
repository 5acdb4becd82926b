#include "quest/nn/quant_linear.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include "quest/base/error.h"
#include "quest/ops/fused_linear.h"
#include "quest/ops/rms_norm.h"
#include "quest/ops/swiglu.h"

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
  if (watcher_) {
    const at::NoGradGuard no_grad;
    watcher_({x.detach(), {}});
  }
  return ops::quant_linear(x, weight_, state());
}

// A watcher sees what the fused operations make on their way, made once more for it.
std::pair<at::Tensor, at::Tensor> QuantLinear::forward_normed(const at::Tensor& x,
                                                              const at::Tensor& delta,
                                                              const at::Tensor& norm, double eps) {
  if (watcher_) {
    const at::NoGradGuard no_grad;
    watcher_({ops::add_rms_norm(x, delta, norm, eps), delta.defined() ? delta : x});
  }
  return ops::norm_quant_linear(x, delta, norm, eps, weight_, state());
}

at::Tensor QuantLinear::forward_swiglu(const at::Tensor& gate_up) {
  if (watcher_) {
    const at::NoGradGuard no_grad;
    watcher_({ops::swiglu(gate_up), {}});
  }
  return ops::swiglu_quant_linear(gate_up, weight_, state());
}

ops::RegisteredSide& QuantLinear::registered_side(bool is_weight) {
  ops::RegisteredSide* side = is_weight ? state_.registered_weight() : state_.registered_input();
  QUEST_ASSERT(side != nullptr, "{} has no registered quantizer on this side", name_);
  return *side;
}

at::Tensor QuantLinear::registered_values(bool is_weight, const at::Tensor& rows) {
  return registered_side(is_weight).values(rows, at::kFloat, /*beginning=*/false);
}

ops::QuantizerCodes QuantLinear::registered_codes(bool is_weight, const at::Tensor& rows) {
  return registered_side(is_weight).codes(rows);
}

void QuantLinear::quantize(bool on) {
  plain_.reset();
  if (!on) {
    plain_ =
        std::make_unique<ops::QuantLinearState>(recipe_from_name("bf16"), state_.compute(), name_);
  }
}

}  // namespace quest::nn
