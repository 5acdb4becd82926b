#include "quest/ops/quant_linear.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include "quest/kernels/cuda/fp8_gradient.h"
#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/ops/baselines.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"
#include "quest/ops/quant_product.h"

namespace quest::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::shared_ptr<const kernels::PackedCodes> pack_weight(const CodeFormat& format,
                                                        const at::Tensor& codes) {
  const int64_t n = codes.size(0), k = codes.size(1);
  auto packed = std::make_shared<kernels::PackedCodes>(kernels::make_packed_codes(format, n, k));
  const int64_t tile = kernels::gemm_lowbit_column_tile(packed->level);
  parallel_rows((n + tile - 1) / tile, tile * k, [&](int64_t begin, int64_t end) {
    kernels::pack_rows(*packed, data<int8_t>(codes), begin * tile, std::min(n, end * tile));
  });
  return packed;
}

class QuantLinearFunction : public torch::autograd::Function<QuantLinearFunction> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            QuantLinearState* state, bool grad_enabled) {
    const QuantRecipe& recipe = state->recipe();
    const auto weight_side = state->weight_side(weight, grad_enabled && weight.requires_grad());
    const bool want_mask = grad_enabled && x.requires_grad();
    QuantizedTensor qx =
        quantize(recipe.activation, x, state->compute(), want_mask, state->name() + " input");
    ctx->save_for_backward({qx.codes, qx.units, qx.mask, qx.values});
    save_layer(ctx, *state, weight_side);
    return forward_product(recipe, qx, *weight_side, state->compute());
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const SavedLayer layer = saved_layer(ctx);
    const variable_list saved = ctx->get_saved_variables();
    const QuantizedTensor qx{saved[0], saved[1], saved[2], saved[3]};
    const at::Tensor grad_y = grads[0].contiguous();
    const SavedLayer::Gradients gradients =
        layer.gradients(grad_y, qx, ctx->needs_input_grad(0), ctx->needs_input_grad(1));
    at::Tensor grad_x;
    if (gradients.values.defined()) {
      grad_x = quantize_backward(layer.recipe().activation, qx.mask, gradients.values);
    }
    return {grad_x, gradients.weight, at::Tensor(), at::Tensor()};
  }
};

// Whoever links a layer has the baselines' names before main.
[[maybe_unused]] const bool g_has_baselines = (register_baselines(), true);

at::Tensor registered_linear(const at::Tensor& x, const at::Tensor& weight,
                             QuantLinearState& state) {
  const auto values = [&](RegisteredSide* side, const QuantSpec& spec, const at::Tensor& tensor,
                          const char* what) {
    if (side != nullptr) return side->values(tensor, state.compute(), state.beginning());
    if (!spec.is_quantized() && !spec.hadamard) return tensor.to(state.compute());
    return fake_quantize(spec, tensor, state.compute(), state.name() + what);
  };
  const at::Tensor qx = values(state.registered_input(), state.recipe().activation, x, " input");
  const at::Tensor qw = values(state.registered_weight(), state.recipe().weight, weight, ".weight");
  return at::linear(qx, qw);
}

}  // namespace

void QuantLinearState::make_registered_sides(int64_t n, int64_t k,
                                             const at::TensorOptions& master) {
  const auto make = [&](const QuantSpec& spec, bool is_weight, const char* what) {
    if (spec.registered == nullptr) return std::unique_ptr<RegisteredSide>();
    return std::make_unique<RegisteredSide>(
        spec, QuantizerPlace{spec.bits, is_weight, n, k, master}, name_ + what);
  };
  registered_weight_ = make(recipe_.weight, true, ".weight_quantizer");
  registered_input_ = make(recipe_.activation, false, ".input_quantizer");
}

std::vector<LearnedTensor> QuantLinearState::learned() const {
  std::vector<LearnedTensor> all;
  for (const auto* side : {&registered_weight_, &registered_input_}) {
    if (!*side) continue;
    for (LearnedTensor& t : (*side)->learned()) all.push_back(std::move(t));
  }
  return all;
}

std::shared_ptr<const QuantizedWeight> QuantLinearState::weight_side(const at::Tensor& weight,
                                                                     bool want_mask) {
  if (cached_ && cached_data_ == weight.data_ptr() && cached_version_ == weight._version() &&
      (cached_mask_ || !want_mask)) {
    return cached_;
  }
  RECORD_USER_SCOPE("quest::weight_side");
  if (weight.is_cuda()) {
    if (!cached_ || cached_data_ != weight.data_ptr())
      cached_ = std::make_shared<QuantizedWeight>();
    make_on_gpu(weight.detach(), want_mask, *cached_);
    ++cached_->generation;
  } else {
    cached_.reset();  // frees its memory before the new one is made
    cached_ = make_on_cpu(weight.detach(), want_mask);
  }
  cached_data_ = weight.data_ptr();
  cached_version_ = weight._version();
  cached_mask_ = want_mask;
  return cached_;
}

std::shared_ptr<QuantizedWeight> QuantLinearState::make_on_cpu(const at::Tensor& weight,
                                                               bool want_mask) const {
  auto made = std::make_shared<QuantizedWeight>();
  made->plan = choose_product_plan(recipe_, weight.size(0), weight.size(1), compute_);
  made->quantized = quantize(recipe_.weight, weight, compute_, want_mask, name_ + ".weight");
  if (made->plan == ProductPlan::kIntegerCodes) {
    made->packed = pack_weight(code_format(recipe_.weight), made->quantized.codes);
  }
  return made;
}

void QuantLinearState::make_on_gpu(const at::Tensor& weight, bool want_mask,
                                   QuantizedWeight& made) const {
  const int64_t n = weight.size(0), k = weight.size(1);
  const QuantSpec& spec = recipe_.weight;
  QuantizedTensor& q = made.quantized;
  made.plan = choose_product_plan(recipe_, n, k, compute_, at::kCUDA);
  const auto make = [&](at::Tensor& tensor, std::vector<int64_t> shape, at::ScalarType type) {
    if (!tensor.defined()) tensor = at::empty(shape, weight.options().dtype(type));
  };
  if (!fp8_backward_) make(made.values, {n, k}, compute_);
  if (!has_code_grid(spec)) q.values = made.values;
  if (spec.grid == Grid::kNone && !spec.hadamard) {
    made.values.copy_(weight);
    return;
  }
  kernels::cuda::QuantizedRows rows;
  if (made.values.defined()) rows.values = made.values.data_ptr();
  rows.values_are_bfloat16 = compute_ == at::kBFloat16;
  if (has_code_grid(spec)) {
    make(q.codes, {n, k}, at::kChar);
    make(q.units, {n}, at::kFloat);
    rows.codes = data<int8_t>(q.codes);
    rows.units = data<float>(q.units);
  }
  if (want_mask && has_gradient_mask(spec)) {
    make(q.mask, {n, (k + 7) / 8}, at::kByte);
    rows.mask = data<uint8_t>(q.mask);
  }
  kernels::cuda::hadamard_quantize<float>(spec, data<float>(weight), n, k, rows, current_stream());
  if (fp8_backward_) {
    make(made.turned, {k, n}, at::kFloat8_e4m3fn);
    kernels::cuda::fp8_turn_codes(data<int8_t>(q.codes), n, k, data<uint8_t>(made.turned),
                                  current_stream());
    if (fp8_backward_->hadamard) {
      make(made.turned_scales, {1, k}, at::kFloat);
      rotate_turned_codes(made.turned, made.turned_scales);
    }
  }
}

void QuantLinearState::use_fp8_backward(int64_t n, int64_t k, const Fp8Backward& how) {
  QUEST_CHECK(supports_fp8_backward(recipe_), ErrorKind::kUsage,
              "FP8 backward products need integer grids of at most 4 bits on both sides; {} is {} "
              "and {}",
              name_, to_string(recipe_.weight), to_string(recipe_.activation));
  QUEST_CHECK(
      compute_ == at::kBFloat16 && n % 16 == 0 && k % 16 == 0, ErrorKind::kUsage,
      "FP8 backward products need BF16 compute and layers of multiples of 16; {} is {} x {} "
      "and computes in {}",
      name_, n, k, at::toString(compute_));
  fp8_backward_ = how;
  cached_.reset();
}

void check_linear(const at::Tensor& x, const at::Tensor& weight, const QuantLinearState& state) {
  QUEST_CHECK(weight.dim() == 2 && x.dim() >= 1 && x.size(-1) == weight.size(1), ErrorKind::kUsage,
              "[quant_linear] {}: x has K={}, weight expects K={}", state.name(), x.size(-1),
              weight.size(1));
  QUEST_CHECK(x.scalar_type() == state.compute(), ErrorKind::kUsage,
              "[quant_linear] {}: x is {}, the layer computes in {}", state.name(),
              at::toString(x.scalar_type()), at::toString(state.compute()));
  const auto master = state.compute() == at::kDouble ? at::kDouble : at::kFloat;
  QUEST_CHECK(weight.scalar_type() == master && weight.is_contiguous(), ErrorKind::kUsage,
              "[quant_linear] {}: weight is {}, a layer that computes in {} needs a contiguous {}",
              state.name(), at::toString(weight.scalar_type()), at::toString(state.compute()),
              at::toString(master));
  QUEST_CHECK(x.device() == weight.device(), ErrorKind::kUsage,
              "[quant_linear] {}: x is on {}, the weight on {}", state.name(), x.device().str(),
              weight.device().str());
}

at::Tensor quant_linear(const at::Tensor& x, const at::Tensor& weight, QuantLinearState& state) {
  check_linear(x, weight, state);
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  if (state.has_registered()) return registered_linear(as_matrix(x), weight, state).view(shape);
  QUEST_ASSERT(!state.recipe().weight.registered && !state.recipe().activation.registered,
               "{} was not made for its registered quantizers", state.name());
  // Inside a Function's forward the grad mode is always off: it is read here.
  const bool grad_enabled = at::GradMode::is_enabled();
  return QuantLinearFunction::apply(as_matrix(x), weight, &state, grad_enabled).view(shape);
}

}  // namespace quest::ops
