#include "quest/ops/quant_linear.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include "quest/ops/dispatch.h"
#include "quest/ops/matmul.h"

namespace quest::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool has_integer_codes(const QuantSpec& spec) {
  return spec.grid != Grid::kNone && spec.grid != Grid::kMask4of8 && code_format(spec).is_integer;
}

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

// Exact product of codes, dealt out to threads by rows, or by columns when rows are few.
at::Tensor integer_product(const QuantSpec& activation, const QuantizedTensor& x,
                           const QuantizedWeight& weight, at::ScalarType compute) {
  RECORD_USER_SCOPE("quest::integer_product");
  const kernels::PackedCodes& packed = *weight.packed;
  const int64_t m = x.codes.size(0), n = packed.n;
  at::Tensor y = at::empty({m, n}, x.codes.options().dtype(compute));
  const CodeFormat format = code_format(activation);
  const int64_t tile = kernels::gemm_lowbit_column_tile(packed.level);
  with_kernel_type(compute, "quant_linear", [&](auto element) {
    using T = decltype(element);
    const auto run = [&](int64_t m0, int64_t m1, int64_t n0, int64_t n1) {
      kernels::gemm_lowbit<T>(format, data<int8_t>(x.codes), data<float>(x.units), m0, m1, packed,
                              data<float>(weight.quantized.units), n0, n1, data<T>(y), n);
    };
    constexpr int64_t kRows = 48;  // of one task: its codes stay in the L1/L2 cache
    if (m >= kRows * at::get_num_threads()) {
      at::parallel_for(0, (m + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end) {
        run(begin * kRows, std::min(m, end * kRows), 0, n);
      });
    } else {
      at::parallel_for(0, (n + tile - 1) / tile, 1, [&](int64_t begin, int64_t end) {
        run(0, m, begin * tile, std::min(n, end * tile));
      });
    }
  });
  return y;
}

// What the backward pass needs of its layer, which may be gone or have moved on by then.
class SavedLayer : public torch::CustomClassHolder {
 public:
  SavedLayer(const QuantLinearState& state, std::shared_ptr<const QuantizedWeight> side)
      : weight(std::move(side)), recipe_(state.recipe()), compute_(state.compute()) {}
  const QuantRecipe& recipe() const { return recipe_; }
  at::ScalarType compute() const { return compute_; }

  std::shared_ptr<const QuantizedWeight> weight;

 private:
  QuantRecipe recipe_;
  at::ScalarType compute_;
};

// grad_y, or grad_y^T, times the quantized matrix's values -> out_type.
at::Tensor product_with_values(const at::Tensor& grad_y, bool transposed, const QuantSpec& spec,
                               const QuantizedTensor& quantized, at::ScalarType compute,
                               at::ScalarType out_type) {
  if (compute == at::kFloat && has_integer_codes(spec) &&
      supports_matmul_codes(grad_y.size(transposed ? 1 : 0), quantized.codes.size(1),
                            quantized.codes.size(0))) {
    return matmul_codes(grad_y, transposed, quantized.units, code_numbers(spec, quantized));
  }
  return matmul(transposed ? grad_y.t() : grad_y, dequantize(spec, quantized, compute), out_type);
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
    at::Tensor y;
    if (weight_side->packed) {
      y = integer_product(recipe.activation, qx, *weight_side, state->compute());
    } else {
      const at::Tensor w = dequantize(recipe.weight, weight_side->quantized, state->compute());
      y = matmul(dequantize(recipe.activation, qx, state->compute()), w.t(), state->compute());
    }
    ctx->save_for_backward({qx.codes, qx.units, qx.mask, qx.values});
    ctx->saved_data["layer"] =
        c10::IValue::make_capsule(c10::make_intrusive<SavedLayer>(*state, weight_side));
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto holder = ctx->saved_data["layer"].toCapsule();
    const auto* state = static_cast<SavedLayer*>(holder.get());
    const QuantizedWeight& weight = *state->weight;
    const QuantRecipe& recipe = state->recipe();
    const variable_list saved = ctx->get_saved_variables();
    const QuantizedTensor qx{saved[0], saved[1], saved[2], saved[3]};
    const at::Tensor grad_y = grads[0].contiguous();
    at::Tensor grad_x, grad_weight;
    if (ctx->needs_input_grad(0)) {
      const at::Tensor grad_values =
          product_with_values(grad_y, /*transposed=*/false, recipe.weight, weight.quantized,
                              state->compute(), state->compute());
      grad_x = quantize_backward(recipe.activation, qx.mask, grad_values);
    }
    if (ctx->needs_input_grad(1)) {
      const auto master = state->compute() == at::kDouble ? at::kDouble : at::kFloat;
      const at::Tensor grad_values = product_with_values(
          grad_y, /*transposed=*/true, recipe.activation, qx, state->compute(), master);
      grad_weight = quantize_backward(recipe.weight, weight.quantized.mask, grad_values);
    }
    return {grad_x, grad_weight, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

ProductPlan choose_product_plan(const QuantRecipe& recipe, int64_t k, at::ScalarType compute) {
  if (compute == at::kDouble || !has_integer_codes(recipe.weight) ||
      !has_integer_codes(recipe.activation)) {
    return ProductPlan::kValues;
  }
  const int64_t largest =
      int64_t{code_format(recipe.weight).max_number} * code_format(recipe.activation).max_number;
  return k * largest < (int64_t{1} << 31) ? ProductPlan::kIntegerCodes : ProductPlan::kValues;
}

std::string product_plan_text(const QuantRecipe& recipe, int64_t k, at::ScalarType compute) {
  if (choose_product_plan(recipe, k, compute) == ProductPlan::kIntegerCodes) {
    return fmt::format("integer codes ({})", kernels::gemm_lowbit_plan());
  }
  return fmt::format("{} values ({})", at::toString(compute), matmul_plan(compute));
}

std::shared_ptr<const QuantizedWeight> QuantLinearState::weight_side(const at::Tensor& weight,
                                                                     bool want_mask) {
  if (cached_ && cached_data_ == weight.data_ptr() && cached_version_ == weight._version() &&
      (cached_mask_ || !want_mask)) {
    return cached_;
  }
  RECORD_USER_SCOPE("quest::weight_side");
  cached_.reset();  // frees its memory before the new one is made
  auto made = std::make_shared<QuantizedWeight>();
  made->quantized =
      quantize(recipe_.weight, weight.detach(), compute_, want_mask, name_ + ".weight");
  if (choose_product_plan(recipe_, weight.size(1), compute_) == ProductPlan::kIntegerCodes) {
    made->packed = pack_weight(code_format(recipe_.weight), made->quantized.codes);
  }
  cached_ = made;
  cached_data_ = weight.data_ptr();
  cached_version_ = weight._version();
  cached_mask_ = want_mask;
  return cached_;
}

at::Tensor quant_linear(const at::Tensor& x, const at::Tensor& weight, QuantLinearState& state) {
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
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  // Inside a Function's forward the grad mode is always off: it is read here.
  const bool grad_enabled = at::GradMode::is_enabled();
  return QuantLinearFunction::apply(as_matrix(x), weight, &state, grad_enabled).view(shape);
}

}  // namespace quest::ops
