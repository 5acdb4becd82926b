// y = Q_a(x) Q_w(w)^T, the product that the method trains (QuEST, arXiv 2502.05003, section 3).
//
// Forward: both sides quantized; integer grids are multiplied exactly as integers with the scales
// in the FP32 epilogue, others as values of the compute type. Backward, Q in the rotated basis:
//   dx = (M_x * (dy Q_w)) H^T        dw = (M_w * (dy^T Q_a)) H^T
// Saved for backward: codes, units and mask bits of x; the weight's are shared by all
// micro-batches. Registered quantizers (tensor_quantizer.h) bring gradients of their own; with one
// on either side the whole layer goes through LibTorch's autograd, both sides anew in every pass.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include "quest/kernels/gemm_lowbit.h"
#include "quest/ops/quantized_tensor.h"
#include "quest/ops/tensor_quantizer.h"

namespace quest::ops {

// How a quantized product is computed, chosen once from the two specs and the compute type.
enum class ProductPlan {
  kIntegerCodes,  // kernels::gemm_lowbit, on a GPU kernels::cuda::gemm_lowbit
  kValues,        // LibTorch's product of dequantized values
  kRegistered,    // LibTorch's product and gradients of what registered quantizers give
};
// Shape (N,K) of the weight. On a GPU codes need a Hopper chip, N a multiple of 8 and K of 16, and
// at most 7 bits.
ProductPlan choose_product_plan(const QuantRecipe& recipe, int64_t n, int64_t k,
                                at::ScalarType compute, at::DeviceType device = at::kCPU);
std::string product_plan_text(const QuantRecipe& recipe, int64_t n, int64_t k,
                              at::ScalarType compute, at::DeviceType device = at::kCPU);

// The weight side, quantized once per version of the weight.
struct QuantizedWeight {
  ProductPlan plan = ProductPlan::kValues;
  QuantizedTensor quantized;
  std::shared_ptr<const kernels::PackedCodes> packed;  // for kIntegerCodes on a CPU
  at::Tensor values;  // (N,K) of the compute type, on a GPU: every backward pass reads them
  // For FP8 backward products, instead of values: (K,N) codes in e4m3; with turned_scales (1,K) f32
  // rotated ones, to be multiplied by them.
  at::Tensor turned, turned_scales;
  // Counts how often it was made: on a GPU in place, so that a backward pass must come before the
  // next weights (asserted).
  int64_t generation = 0;
};

// One linear layer's quantizers and the cached weight side. Not copyable: a layer owns one.
// Thread rules: one thread at a time.
class QuantLinearState {
 public:
  QuantLinearState(QuantRecipe recipe, at::ScalarType compute, std::string name)
      : recipe_(std::move(recipe)), compute_(compute), name_(std::move(name)) {}
  QuantLinearState(const QuantLinearState&) = delete;
  QuantLinearState& operator=(const QuantLinearState&) = delete;

  const QuantRecipe& recipe() const { return recipe_; }
  at::ScalarType compute() const { return compute_; }
  const std::string& name() const { return name_; }

  // Makes the sides that registered quantizers quantize (tensor_quantizer.h), for a weight (N,K)
  // whose master type and device `master` has. Before the first product; nothing for recipes of
  // grids.
  void make_registered_sides(int64_t n, int64_t k, const at::TensorOptions& master);
  bool has_registered() const { return registered_weight_ || registered_input_; }
  RegisteredSide* registered_weight() { return registered_weight_.get(); }
  RegisteredSide* registered_input() { return registered_input_.get(); }
  // With full names; empty for recipes of grids.
  std::vector<LearnedTensor> learned() const;
  // Until it is called again with false: learned tensors without values get their first from what
  // comes in.
  void set_beginning(bool beginning) { beginning_ = beginning; }
  bool beginning() const { return beginning_; }

  // How gradients are rounded for FP8 backward products.
  struct Fp8Backward {
    bool e5m2 = false;   // else e4m3
    at::Tensor counter;  // (1) int32 on the GPU: round by chance, anew for each value; undefined:
                         // to nearest
    uint32_t layer = 0;  // makes layers round independently
    // Rotate both sides of each product along its sum first (kernels/cuda/fp8_gradient.h).
    bool hadamard = false;
  };
  // Backward products of a GPU in FP8: rows (for dx) and columns (for dw) of the gradient are
  // rounded to FP8 with a scale each, codes are exact, or with hadamard rounded to e4m3. kUsage,
  // naming the layer, for recipes whose codes e4m3 does not hold (supports_fp8_backward) and shapes
  // that are no multiples of 16.
  void use_fp8_backward(int64_t n, int64_t k, const Fp8Backward& how);
  const std::optional<Fp8Backward>& fp8_backward() const { return fp8_backward_; }

  // weight (N,K) master. Remade when the weight's version or storage changed since the last call,
  // or when the mask is wanted for a gradient and the cached one was made without. On a GPU it is
  // remade in the same memory, which CUDA graphs rely on.
  std::shared_ptr<const QuantizedWeight> weight_side(const at::Tensor& weight, bool want_mask);

 private:
  std::shared_ptr<QuantizedWeight> make_on_cpu(const at::Tensor& weight, bool want_mask) const;
  void make_on_gpu(const at::Tensor& weight, bool want_mask, QuantizedWeight& made) const;

  QuantRecipe recipe_;
  at::ScalarType compute_;
  std::string name_;
  std::optional<Fp8Backward> fp8_backward_;
  std::unique_ptr<RegisteredSide> registered_weight_, registered_input_;
  bool beginning_ = false;
  std::shared_ptr<QuantizedWeight> cached_;
  uint32_t cached_version_ = 0;
  const void* cached_data_ = nullptr;
  bool cached_mask_ = false;
};

// Whether both sides are integers up to 16: uniform grids of up to 4 bits, ternary, FP4, 4:8.
bool supports_fp8_backward(const QuantRecipe& recipe);

// x (..., K) of the compute type, weight (N,K) FP32 (FP64 with FP64 compute) -> (..., N) compute
// type. Throws kUsage with both shapes if they do not fit, kNumeric naming the layer and row. What
// backward needs is kept by the graph: the state may end before it.
at::Tensor quant_linear(const at::Tensor& x, const at::Tensor& weight, QuantLinearState& state);

}  // namespace quest::ops
