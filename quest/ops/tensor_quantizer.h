// Quantizers that are none of the grids, over LibTorch's autograd: one file and one registration
// make a new one (docs/extend.md). All baselines that the paper compares with are such
// (baselines.h).
//
//   class MyQuantizer : public TensorQuantizer {
//     at::Tensor forward(const at::Tensor& x) override { ... }
//   };
//   register_quantizer({.name = "mine", .help = "..."}, [](const QuantizerPlace& place) {
//     return std::make_unique<MyQuantizer>(place.bits);
//   });                                              // then: quest train --quant w4a4_mine
//
// The layer rotates x before and the product needs nothing after, so a quantizer works with and
// without the Hadamard transform and knows nothing of it. It computes in FP32 (FP64 in FP64 models)
// whatever the model's compute type; its values are then rounded to that type and multiplied.
//
// Learned tensors (a step, a clipping point) belong to the layer: they are trained, weight-decayed,
// saved, resumed and averaged with the model's parameters, under the names
// "<layer>.weight_quantizer.<name>" and "<layer>.input_quantizer.<name>".
//
// Thread rules: one thread at a time, as the layer.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "quest/quant/quantizer.h"
#include "quest/quant/registered_quantizer.h"

namespace quest::ops {

// Where a quantizer is used.
struct QuantizerPlace {
  int bits = 4;
  bool is_weight = true;     // else the layer's input
  int64_t n = 0, k = 0;      // the layer's outputs and inputs: a weight is (N,K), an input (M,K)
  at::TensorOptions master;  // of learned tensors: FP32 (FP64 in FP64 models) on the device
};

// A tensor that a quantizer learns: a leaf, of the type and device of QuantizerPlace::master.
struct LearnedTensor {
  std::string name;  // "step"
  at::Tensor value;
};

// What a quantizer rounds values to, for statistics of their use.
struct QuantizerCodes {
  std::vector<double> levels;  // in units of the scale, ascending: all that can occur
  at::Tensor places;           // of each value among the levels: (rows,K), any integral type
};

class TensorQuantizer {
 public:
  virtual ~TensorQuantizer() = default;

  // x (rows,K), FP32 or FP64, rotated if the spec says so -> quantized values of the same shape and
  // type. Differentiable with respect to x and the learned tensors. No operation in it may wait
  // for a GPU.
  virtual at::Tensor forward(const at::Tensor& x) = 0;
  // The same tensors at every call.
  virtual std::vector<LearnedTensor> learned() { return {}; }
  // First values of the learned tensors, from the first x that training sees. Without gradients.
  virtual void begin(const at::Tensor& /*x*/) {}
  // Of the values that forward(x) gives. Without gradients. Empty: it has none, or does not say.
  virtual QuantizerCodes codes(const at::Tensor& /*x*/) { return {}; }
};

using QuantizerFactory = std::function<std::unique_ptr<TensorQuantizer>(const QuantizerPlace&)>;

// Makes the name known to specs and recipes, and the factory to layers. Throws kUsage if the name
// is taken. Before any model is made.
void register_quantizer(RegisteredQuantizer entry, QuantizerFactory factory);

// A leaf that has no values yet (NaN) and requires a gradient.
at::Tensor learned_tensor(const QuantizerPlace& place, std::vector<int64_t> shape);

// One side of a layer that a registered quantizer quantizes. Made by the layer's state.
class RegisteredSide {
 public:
  RegisteredSide(const QuantSpec& spec, const QuantizerPlace& place, std::string name);

  // x (rows,K) of any float type -> values of compute type, by way of autograd. With `beginning`
  // the learned tensors that have no values yet get their first. kUsage, naming the layer, if they
  // have none otherwise.
  at::Tensor values(const at::Tensor& x, at::ScalarType compute, bool beginning);
  // Of the same values; after values().
  QuantizerCodes codes(const at::Tensor& x);
  // With full names.
  std::vector<LearnedTensor> learned() const;

 private:
  bool has_values() const;
  at::Tensor rotated_rows(const at::Tensor& x) const;

  QuantSpec spec_;
  at::ScalarType master_;
  std::string name_;  // "model.layers.0.mlp.down_proj.input_quantizer"
  std::unique_ptr<TensorQuantizer> quantizer_;
  bool ready_ = false;  // learned tensors are known to have values
};

// For quantizers and tests; differentiable.
// Rows times the Hadamard matrix of the method (its own inverse). x (M,K).
at::Tensor hadamard(const at::Tensor& x);
// Values of a grid's quantizer with its gradient estimator, in the rotated basis, of type `type`.
// Not for kRegistered.
at::Tensor fake_quantize(const QuantSpec& spec, const at::Tensor& x, at::ScalarType type,
                         std::string_view name);

}  // namespace quest::ops
