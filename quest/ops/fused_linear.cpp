#include "quest/ops/fused_linear.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/record_function.h>

#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/kernels/cuda/rms_norm.h"
#include "quest/kernels/cuda/swiglu.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"
#include "quest/ops/gpu_rows.h"
#include "quest/ops/quant_product.h"
#include "quest/ops/rms_norm.h"
#include "quest/ops/swiglu.h"

namespace quest::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// y = rms_norm(x + delta) of rows; h and inverse_rms where wanted (defined).
struct NormRows {
  at::Tensor x, delta, weight;
  double eps = 0;
  at::Tensor h, inverse_rms;
};

void norm_rows(const NormRows& n, at::Tensor& y) {
  y = at::empty_like(n.x);
  with_kernel_type(n.x.scalar_type(), "rms_norm", [&](auto element) {
    using T = decltype(element);
    kernels::cuda::add_rms_norm<T>(data<T>(n.x), pointer_or_null<T>(n.delta), data<float>(n.weight),
                                   static_cast<float>(n.eps), n.x.size(0), n.x.size(1),
                                   pointer_or_null<T>(n.h), data<T>(y),
                                   pointer_or_null<float>(n.inverse_rms), current_stream());
  });
}

void norm_quantize_rows(const QuantSpec& spec, const NormRows& n, const QuantizedTensor& q) {
  with_kernel_type(n.x.scalar_type(), "norm_quant_linear", [&](auto element) {
    using T = decltype(element);
    kernels::cuda::add_rms_norm_hadamard_quantize<T>(
        spec, data<T>(n.x), pointer_or_null<T>(n.delta), data<float>(n.weight),
        static_cast<float>(n.eps), n.x.size(0), n.x.size(1), pointer_or_null<T>(n.h),
        pointer_or_null<float>(n.inverse_rms), gpu_rows(q), current_stream());
  });
}

class NormQuantLinearFunction : public torch::autograd::Function<NormQuantLinearFunction> {
 public:
  // delta: none where there is nothing to add. The weight comes first: needs_input_grad counts the
  // tensors that are given.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& weight,
                               const at::Tensor& norm, const at::Tensor& x,
                               const std::optional<at::Tensor>& added, double eps,
                               QuantLinearState* state, bool grad_enabled) {
    RECORD_USER_SCOPE("quest::norm_quant_linear");
    const at::Tensor delta = added.value_or(at::Tensor());
    const QuantRecipe& recipe = state->recipe();
    const QuantSpec& spec = recipe.activation;
    const auto side = state->weight_side(weight, grad_enabled && weight.requires_grad());
    const at::TensorOptions options = x.options().requires_grad(false);
    NormRows rows{x, delta, norm, eps, {}, at::empty({x.size(0)}, options.dtype(at::kFloat))};
    if (delta.defined()) rows.h = at::empty_like(x);
    QuantizedTensor q;
    if (has_code_grid(spec)) {
      q = empty_codes(spec, x.size(0), x.size(1), grad_enabled, options);
      norm_quantize_rows(spec, rows, q);
    } else {
      norm_rows(rows, q.values);
    }
    const at::Tensor h = delta.defined() ? rows.h : x;
    const at::Tensor y = forward_product(recipe, q, *side, state->compute());
    ctx->save_for_backward({h, rows.inverse_rms, norm, q.codes, q.units, q.mask, q.values});
    ctx->saved_data["adds"] = delta.defined();
    save_layer(ctx, *state, side);
    return {h, y};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    RECORD_USER_SCOPE("quest::norm_quant_linear");
    const SavedLayer layer = saved_layer(ctx);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor &h = saved[0], &inverse_rms = saved[1], &norm = saved[2];
    const QuantizedTensor q{saved[3], saved[4], saved[5], saved[6]};
    const at::Tensor grad_h = grads[0].defined() ? grads[0].contiguous() : at::Tensor();
    const at::Tensor grad_y = grads[1].contiguous();
    const bool want_weight = ctx->needs_input_grad(0);
    const auto [grad_values, grad_weight] = layer.gradients(grad_y, q, true, want_weight);
    const int64_t m = h.size(0), k = h.size(1);
    at::Tensor grad_x = at::empty_like(h);
    at::Tensor grad_norm = at::empty_like(norm);
    const at::Tensor workspace =
        at::empty({kernels::cuda::rms_norm_backward_workspace(m, k)}, norm.options());
    with_kernel_type(h.scalar_type(), "norm_quant_linear", [&](auto element) {
      using T = decltype(element);
      kernels::cuda::rms_norm_backward<T>(
          &layer.recipe().activation, pointer_or_null<uint8_t>(q.mask), data<T>(grad_values),
          data<T>(h), data<float>(norm), data<float>(inverse_rms), pointer_or_null<T>(grad_h), m, k,
          data<T>(grad_x), data<float>(grad_norm), data<float>(workspace), current_stream());
    });
    const at::Tensor grad_delta = ctx->saved_data["adds"].toBool() ? grad_x : at::Tensor();
    return {grad_weight, grad_norm, grad_x, grad_delta, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

class SwigluQuantLinearFunction : public torch::autograd::Function<SwigluQuantLinearFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up,
                            const at::Tensor& weight, QuantLinearState* state, bool grad_enabled) {
    RECORD_USER_SCOPE("quest::swiglu_quant_linear");
    const QuantRecipe& recipe = state->recipe();
    const QuantSpec& spec = recipe.activation;
    const auto side = state->weight_side(weight, grad_enabled && weight.requires_grad());
    const int64_t m = gate_up.size(0), f = gate_up.size(1) / 2;
    QuantizedTensor q;
    if (has_code_grid(spec)) {
      q = empty_codes(spec, m, f, grad_enabled, gate_up.options().requires_grad(false));
      with_kernel_type(gate_up.scalar_type(), "swiglu_quant_linear", [&](auto element) {
        using T = decltype(element);
        kernels::cuda::swiglu_hadamard_quantize<T>(spec, data<T>(gate_up), m, f, gpu_rows(q),
                                                   current_stream());
      });
    } else {
      q.values = swiglu_rows(gate_up);
    }
    ctx->save_for_backward({gate_up, q.codes, q.units, q.mask, q.values});
    save_layer(ctx, *state, side);
    return forward_product(recipe, q, *side, state->compute());
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    RECORD_USER_SCOPE("quest::swiglu_quant_linear");
    const SavedLayer layer = saved_layer(ctx);
    const variable_list saved = ctx->get_saved_variables();
    const at::Tensor& gate_up = saved[0];
    const QuantizedTensor q{saved[1], saved[2], saved[3], saved[4]};
    const at::Tensor grad_y = grads[0].contiguous();
    const bool want_weight = ctx->needs_input_grad(1);
    const auto [grad_values, grad_weight] = layer.gradients(grad_y, q, true, want_weight);
    const int64_t m = gate_up.size(0), f = gate_up.size(1) / 2;
    at::Tensor grad_gate_up = at::empty_like(gate_up);
    with_kernel_type(gate_up.scalar_type(), "swiglu_quant_linear", [&](auto element) {
      using T = decltype(element);
      kernels::cuda::swiglu_backward<T>(
          &layer.recipe().activation, pointer_or_null<uint8_t>(q.mask), data<T>(grad_values),
          data<T>(gate_up), m, f, data<T>(grad_gate_up), current_stream());
    });
    return {grad_gate_up, grad_weight, at::Tensor(), at::Tensor()};
  }

 private:
  static at::Tensor swiglu_rows(const at::Tensor& gate_up) {
    const int64_t m = gate_up.size(0), f = gate_up.size(1) / 2;
    at::Tensor y = at::empty({m, f}, gate_up.options().requires_grad(false));
    with_kernel_type(gate_up.scalar_type(), "swiglu", [&](auto element) {
      using T = decltype(element);
      kernels::cuda::swiglu<T>(data<T>(gate_up), m, f, data<T>(y), current_stream());
    });
    return y;
  }
};

}  // namespace

bool fuses_input(const QuantRecipe& recipe) {
  if (recipe.weight.registered != nullptr) return false;
  return has_code_grid(recipe.activation) || recipe.activation == QuantSpec{};
}

std::pair<at::Tensor, at::Tensor> norm_quant_linear(const at::Tensor& x, const at::Tensor& delta,
                                                    const at::Tensor& norm, double eps,
                                                    const at::Tensor& weight,
                                                    QuantLinearState& state) {
  if (!x.is_cuda() || !fuses_input(state.recipe())) {
    const at::Tensor h = delta.defined() ? x + delta : x;
    return {h, quant_linear(rms_norm(h, norm, eps), weight, state)};
  }
  check_linear(x, weight, state);
  check_norm(x, norm);
  QUEST_CHECK(
      norm.device() == x.device() &&
          (!delta.defined() || (delta.sizes() == x.sizes() && delta.device() == x.device() &&
                                delta.scalar_type() == x.scalar_type())),
      ErrorKind::kUsage, "[norm_quant_linear] {}: delta must be like x, and the norm on its device",
      state.name());
  const variable_list out = NormQuantLinearFunction::apply(
      weight, norm, as_matrix(x), optional_matrix(delta), eps, &state, at::GradMode::is_enabled());
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return {out[0].view(x.sizes()), out[1].view(shape)};
}

at::Tensor swiglu_quant_linear(const at::Tensor& gate_up, const at::Tensor& weight,
                               QuantLinearState& state) {
  if (!gate_up.is_cuda() || !fuses_input(state.recipe())) {
    return quant_linear(swiglu(gate_up), weight, state);
  }
  QUEST_CHECK(gate_up.size(-1) % 2 == 0, ErrorKind::kUsage,
              "[swiglu_quant_linear] {}: the last dimension is {}, must be even: gate then up",
              state.name(), gate_up.size(-1));
  check_linear(gate_up.narrow(-1, 0, gate_up.size(-1) / 2), weight, state);
  std::vector<int64_t> shape = gate_up.sizes().vec();
  shape.back() = weight.size(0);
  return SwigluQuantLinearFunction::apply(as_matrix(gate_up), weight, &state,
                                          at::GradMode::is_enabled())
      .view(shape);
}

}  // namespace quest::ops
