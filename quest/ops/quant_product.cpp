#include "quest/ops/quant_product.h"

#include <utility>

#include <ATen/ops/_scaled_mm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones.h>
#include <ATen/record_function.h>

#include "quest/kernels/cuda/fp8_gradient.h"
#include "quest/kernels/cuda/gemm_lowbit.h"
#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"
#include "quest/ops/matmul.h"

namespace quest::ops {
namespace {

bool has_integer_codes(const QuantSpec& spec) {
  return has_code_grid(spec) && code_format(spec).is_integer;
}

// Codes that are their own numbers: what the GPU's int8 product and the CPU's FP32 product with
// codes multiply.
bool codes_are_numbers(const QuantSpec& spec) {
  const CodeFormat format = code_format(spec);
  return format.multiplier == 1 && format.offset == 0;
}

// Exact product of codes on a CPU, dealt out to threads by rows, or by columns when rows are few.
at::Tensor integer_product_on_cpu(const QuantSpec& activation, const QuantizedTensor& x,
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

at::Tensor integer_product_on_gpu(const QuantizedTensor& x, const QuantizedWeight& weight,
                                  at::ScalarType compute) {
  const int64_t m = x.codes.size(0), k = x.codes.size(1), n = weight.quantized.codes.size(0);
  at::Tensor y = at::empty({m, n}, x.codes.options().dtype(compute));
  with_kernel_type(compute, "quant_linear", [&](auto element) {
    using T = decltype(element);
    kernels::cuda::gemm_lowbit<T>(
        data<int8_t>(x.codes), data<float>(x.units), data<int8_t>(weight.quantized.codes),
        data<float>(weight.quantized.units), m, n, k, data<T>(y), current_stream());
  });
  return y;
}

// grad_y, or grad_y^T, times the quantized matrix's values -> out_type.
at::Tensor product_with_values(const at::Tensor& grad_y, bool transposed, const QuantSpec& spec,
                               const QuantizedTensor& quantized, at::ScalarType compute,
                               at::ScalarType out_type) {
  if (compute == at::kFloat && grad_y.is_cpu() && has_integer_codes(spec) &&
      codes_are_numbers(spec) &&
      supports_matmul_codes(grad_y.size(transposed ? 1 : 0), quantized.codes.size(1),
                            quantized.codes.size(0))) {
    return matmul_codes(grad_y, transposed, quantized.units, quantized.codes);
  }
  return matmul(transposed ? grad_y.t() : grad_y, dequantize(spec, quantized, compute), out_type);
}

// FP8 a (M,L) times b (N,L)^T, with a scale for each row of both -> (M,N) bfloat16.
at::Tensor fp8_product(const at::Tensor& a, const at::Tensor& a_scales, const at::Tensor& b,
                       const at::Tensor& b_scales) {
  return at::_scaled_mm(a, b.t(), a_scales, b_scales, {}, {}, at::kBFloat16,
                        /*use_fast_accum=*/false);
}

// codes (M,K) -> (K,M) e4m3
at::Tensor turned_codes(const at::Tensor& codes) {
  const int64_t m = codes.size(0), k = codes.size(1);
  at::Tensor turned = at::empty({k, m}, codes.options().dtype(at::kFloat8_e4m3fn));
  kernels::cuda::fp8_turn_codes(data<int8_t>(codes), m, k, data<uint8_t>(turned), current_stream());
  return turned;
}

kernels::cuda::Fp8Rounding fp8_rounding(const QuantLinearState::Fp8Backward& how) {
  kernels::cuda::Fp8Rounding rounding;
  rounding.format = how.e5m2 ? kernels::cuda::Fp8Format::kE5m2 : kernels::cuda::Fp8Format::kE4m3;
  rounding.counter = pointer_or_null<int32_t>(how.counter);
  rounding.layer = how.layer;
  return rounding;
}

at::TensorOptions fp8_of(const at::Tensor& like, const QuantLinearState::Fp8Backward& how) {
  return like.options().dtype(how.e5m2 ? at::kFloat8_e5m2 : at::kFloat8_e4m3fn);
}

}  // namespace

at::Tensor forward_product(const QuantRecipe& recipe, const QuantizedTensor& x,
                           const QuantizedWeight& weight, at::ScalarType compute) {
  if (weight.plan == ProductPlan::kIntegerCodes) {
    return x.codes.is_cuda() ? integer_product_on_gpu(x, weight, compute)
                             : integer_product_on_cpu(recipe.activation, x, weight, compute);
  }
  const at::Tensor w = weight.values.defined()
                           ? weight.values
                           : dequantize(recipe.weight, weight.quantized, compute);
  return matmul(dequantize(recipe.activation, x, compute), w.t(), compute);
}

SavedLayer::Gradients SavedLayer::gradients(const at::Tensor& grad_y, const QuantizedTensor& x,
                                            bool want_values, bool want_weight) const {
  QUEST_ASSERT(weight_->generation == generation_,
               "a weight was quantized anew between a forward pass and its backward pass");
  if (weight_->turned.defined()) return fp8_gradients(grad_y, x);
  Gradients out;
  if (want_weight) {
    const auto master = compute_ == at::kDouble ? at::kDouble : at::kFloat;
    const at::Tensor grad =
        product_with_values(grad_y, /*transposed=*/true, recipe_.activation, x, compute_, master);
    out.weight = quantize_backward(recipe_.weight, weight_->quantized.mask, grad);
  }
  if (want_values) {
    out.values = weight_->values.defined()
                     ? matmul(grad_y, weight_->values, compute_)
                     : product_with_values(grad_y, /*transposed=*/false, recipe_.weight,
                                           weight_->quantized, compute_, compute_);
  }
  return out;
}

void rotate_turned_codes(const at::Tensor& turned, const at::Tensor& scales) {
  kernels::cuda::fp8_hadamard_rows<uint8_t>(data<uint8_t>(turned), nullptr, turned.size(0),
                                            turned.size(1), {}, data<uint8_t>(turned),
                                            data<float>(scales), current_stream());
}

at::Tensor SavedLayer::weight_gradient(const at::Tensor& grad) const {
  const int64_t n = grad.size(0), k = grad.size(1);
  at::Tensor out = at::empty({n, k}, grad.options().dtype(at::kFloat));
  kernels::cuda::mask_hadamard<bfloat16, float>(recipe_.weight, data<bfloat16>(grad),
                                                pointer_or_null<uint8_t>(weight_->quantized.mask),
                                                n, k, data<float>(out), current_stream());
  return out;
}

SavedLayer::Gradients SavedLayer::fp8_gradients(const at::Tensor& grad_y,
                                                const QuantizedTensor& x) const {
  const int64_t m = grad_y.size(0), n = grad_y.size(1);
  QUEST_CHECK(
      kernels::cuda::fp8_gradient_supports(m, n), ErrorKind::kUsage,
      "FP8 backward products need tokens in multiples of 16, at most 4 million; this product "
      "has {} tokens and {} outputs",
      m, n);
  return fp8_.hadamard ? rotated_gradients(grad_y, x) : rounded_gradients(grad_y, x);
}

SavedLayer::Gradients SavedLayer::rounded_gradients(const at::Tensor& grad_y,
                                                    const QuantizedTensor& x) const {
  const int64_t m = grad_y.size(0), n = grad_y.size(1), k = x.codes.size(1);
  const auto bytes = fp8_of(grad_y, fp8_), floats = grad_y.options().dtype(at::kFloat);
  const at::Tensor rows = at::empty({m, n}, bytes), row_scales = at::empty({m, 1}, floats);
  const at::Tensor columns = at::empty({n, m}, bytes), column_scales = at::empty({n, 1}, floats);
  const at::Tensor workspace = at::empty({m + n}, grad_y.options().dtype(at::kInt));
  kernels::cuda::fp8_gradient(
      data<bfloat16>(grad_y), data<float>(weight_->quantized.units), data<float>(x.units), m, n,
      fp8_rounding(fp8_), data<uint8_t>(rows), data<float>(row_scales), data<uint8_t>(columns),
      data<float>(column_scales), data<uint32_t>(workspace), current_stream());
  const at::Tensor ones = at::ones({1, k}, floats);
  Gradients out;
  out.values = fp8_product(rows, row_scales, weight_->turned, ones);
  out.weight = weight_gradient(fp8_product(columns, column_scales, turned_codes(x.codes), ones));
  return out;
}

// Each operand by itself: the gradient's columns are those of a turned copy.
SavedLayer::Gradients SavedLayer::rotated_gradients(const at::Tensor& grad_y,
                                                    const QuantizedTensor& x) const {
  const auto bytes = fp8_of(grad_y, fp8_), floats = grad_y.options().dtype(at::kFloat);
  const auto rotated = [&](const at::Tensor& gradient, const at::Tensor& factor, uint32_t layer) {
    const int64_t rows = gradient.size(0), length = gradient.size(1);
    const at::Tensor values = at::empty({rows, length}, bytes),
                     scales = at::empty({rows, 1}, floats);
    kernels::cuda::Fp8Rounding rounding = fp8_rounding(fp8_);
    rounding.layer = layer;
    kernels::cuda::fp8_hadamard_rows<bfloat16>(data<bfloat16>(gradient), data<float>(factor), rows,
                                               length, rounding, data<uint8_t>(values),
                                               data<float>(scales), current_stream());
    return std::pair(values, scales);
  };
  Gradients out;
  {
    const auto [rows, scales] = rotated(grad_y, weight_->quantized.units, fp8_.layer);
    out.values = fp8_product(rows, scales, weight_->turned, weight_->turned_scales);
  }
  const auto [columns, scales] = rotated(grad_y.t().contiguous(), x.units, ~fp8_.layer);
  const at::Tensor codes = turned_codes(x.codes);
  const at::Tensor code_scales = at::empty({1, codes.size(0)}, floats);
  rotate_turned_codes(codes, code_scales);
  out.weight = weight_gradient(fp8_product(columns, scales, codes, code_scales));
  return out;
}

void save_layer(torch::autograd::AutogradContext* ctx, const QuantLinearState& state,
                std::shared_ptr<const QuantizedWeight> weight) {
  ctx->saved_data["layer"] =
      c10::IValue::make_capsule(c10::make_intrusive<SavedLayer>(state, std::move(weight)));
}

SavedLayer saved_layer(torch::autograd::AutogradContext* ctx) {
  const auto holder = ctx->saved_data["layer"].toCapsule();
  return *static_cast<SavedLayer*>(holder.get());
}

bool supports_fp8_backward(const QuantRecipe& recipe) {
  const auto fits = [](const QuantSpec& spec) {
    return has_integer_codes(spec) && codes_are_numbers(spec) &&
           code_format(spec).max_number <= kernels::cuda::kMaxFp8Code;
  };
  return fits(recipe.weight) && fits(recipe.activation);
}

ProductPlan choose_product_plan(const QuantRecipe& recipe, int64_t n, int64_t k,
                                at::ScalarType compute, at::DeviceType device) {
  if (recipe.weight.registered != nullptr || recipe.activation.registered != nullptr) {
    return ProductPlan::kRegistered;
  }
  if (compute == at::kDouble || !has_integer_codes(recipe.weight) ||
      !has_integer_codes(recipe.activation)) {
    return ProductPlan::kValues;
  }
  if (device == at::kCUDA &&
      (!codes_are_numbers(recipe.weight) || !codes_are_numbers(recipe.activation) ||
       !kernels::cuda::gemm_lowbit_supports(n, k))) {
    return ProductPlan::kValues;
  }
  const int64_t largest =
      int64_t{code_format(recipe.weight).max_number} * code_format(recipe.activation).max_number;
  return k * largest < (int64_t{1} << 31) ? ProductPlan::kIntegerCodes : ProductPlan::kValues;
}

std::string product_plan_text(const QuantRecipe& recipe, int64_t n, int64_t k,
                              at::ScalarType compute, at::DeviceType device) {
  const ProductPlan plan = choose_product_plan(recipe, n, k, compute, device);
  if (plan == ProductPlan::kRegistered) {
    return fmt::format("{} values of {} x {} (LibTorch, autograd)", at::toString(compute),
                       to_string(recipe.weight), to_string(recipe.activation));
  }
  if (plan == ProductPlan::kIntegerCodes) {
    return fmt::format("integer codes ({})", device == at::kCUDA ? kernels::cuda::gemm_lowbit_plan()
                                                                 : kernels::gemm_lowbit_plan());
  }
  return fmt::format("{} values ({})", at::toString(compute),
                     device == at::kCUDA ? "cuBLAS" : matmul_plan(compute));
}

}  // namespace quest::ops
