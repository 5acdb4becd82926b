// Quantized linear layers with what comes before them, so that a GPU makes the quantized input in
// one pass over memory and takes the gradient back in one:
//
//   auto [h, y] = norm_quant_linear(x, delta, norm, eps, weight, state);  // h = x + delta
//   at::Tensor z = swiglu_quant_linear(gate_up, weight, state);           //
//   quant_linear(swiglu(..))
//
// On a CPU, and for inputs that are rotated but not quantized, they are composed of the single
// operations. The results and the gradients of weights have the bits of that composition; the
// gradient of h is added to the norm's before it is rounded, not after. Saved for backward on a
// GPU: h and its inverse rms (gate_up), and of the input codes, units and mask bits, or its values
// if it is not quantized.
#pragma once

#include <utility>

#include "quest/ops/quant_linear.h"

namespace quest::ops {

// x, delta (..., K) of the compute type; delta may be undefined (h is x then). norm (K) master,
// weight (N,K) master. Returns h (..., K) and y (..., N) = Q_a(rms_norm(h)) Q_w(weight)^T.
std::pair<at::Tensor, at::Tensor> norm_quant_linear(const at::Tensor& x, const at::Tensor& delta,
                                                    const at::Tensor& norm, double eps,
                                                    const at::Tensor& weight,
                                                    QuantLinearState& state);

// gate_up (..., 2K) -> (..., N) = Q_a(swiglu(gate_up)) Q_w(weight)^T.
at::Tensor swiglu_quant_linear(const at::Tensor& gate_up, const at::Tensor& weight,
                               QuantLinearState& state);

// Whether a GPU makes the input of this recipe's layers in one pass.
bool fuses_input(const QuantRecipe& recipe);

}  // namespace quest::ops
