// The Llama model whose block matrices are QuantLinear layers.
//
//   LlamaModel model(config, recipe, ComputeType::kBFloat16);
//   model.init_weights(seed);
//   at::Tensor loss = model.loss(tokens, targets);   // (B,T) int64 each -> scalar f32
//   loss.backward();
//
// Fused parameters: q, k, v are one (C_q + 2 C_kv, C) matrix, gate and up one (2F, C) matrix;
// Hugging Face names are views of them (hf_tensors). Master weights are FP32 (FP64 with kFloat64);
// quantized or BF16 copies are remade when a parameter's version changes, so once per optimizer
// step. Thread rules: one thread at a time; work inside is parallel (at::parallel_for).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "quest/model/llama_config.h"
#include "quest/nn/compute_type.h"
#include "quest/nn/llama_block.h"

namespace quest::nn {

struct NamedParameter {
  std::string name;           // ours: "model.layers.0.self_attn.qkv_proj.weight"
  at::Tensor tensor;          // the leaf that autograd fills
  bool weight_decay;          // block matrices only (not embedding, head, norms)
  bool of_quantizer = false;  // learned by a registered quantizer (ops/tensor_quantizer.h)
};
// Tensors of the parameters' shapes and types, zero: state of an optimizer or of an average.
std::vector<at::Tensor> zeros_like(const std::vector<NamedParameter>& parameters);

struct HfTensor {
  std::string name;  // Hugging Face's: "model.layers.0.self_attn.q_proj.weight"
  at::Tensor view;   // contiguous view into a parameter
};

// Keys and values of the positions generated so far; grows as needed.
class KvState {
 public:
  explicit KvState(int64_t layers) : blocks_(static_cast<size_t>(layers)) {}
  int64_t length() const { return length_; }  // positions held

 private:
  friend class LlamaModel;
  std::vector<BlockKv> blocks_;
  int64_t length_ = 0;
};

// How FP8 backward products take gradients.
struct Fp8Gradients {
  bool e5m2 = false;       // else e4m3
  bool by_chance = false;  // rounded by chance, anew for each value of gradient_counter; else to
                           // nearest
  bool hadamard = false;   // both sides of each product are rotated along its sum first
};

class LlamaModel {
 public:
  // Throws kUsage if the recipe cannot be applied to the shapes. Weights are zero (norms one).
  // On a GPU kUsage for FP64, kEnvironment if none can be used.
  LlamaModel(const LlamaConfig& config, const QuantRecipe& recipe, ComputeType compute,
             at::Device device = at::kCPU);
  LlamaModel(const LlamaModel&) = delete;
  LlamaModel& operator=(const LlamaModel&) = delete;

  const LlamaConfig& config() const { return config_; }
  const QuantRecipe& recipe() const { return recipe_; }
  ComputeType compute_type() const { return compute_; }
  at::Device device() const { return device_; }

  // N(0, 0.02), output projections N(0, 0.02/sqrt(2L)), norms 1; a function of the seed alone.
  // What registered quantizers learn stays without values.
  void init_weights(uint64_t seed);
  // Gives first values to what registered quantizers learn and has none yet, by a forward pass over
  // tokens (B,T). Nothing to do for recipes of grids.
  void begin_quantizers(const at::Tensor& tokens);

  // tokens, targets (B,T) int64, on the CPU or already on the model's device (unchecked there).
  // Mean cross-entropy over targets that are not -100, FP32 (FP64 with kFloat64). Logits are never
  // held whole. Throws kData for ids outside the vocabulary.
  at::Tensor loss(const at::Tensor& tokens, const at::Tensor& targets);
  // Results of the following are on the CPU.
  // Per-token cross-entropy without gradients: (B,T) f32, 0 where the target is -100.
  at::Tensor token_losses(const at::Tensor& tokens, const at::Tensor& targets);
  // (B,T,V), FP32 (FP64 with kFloat64), no gradients.
  at::Tensor logits(const at::Tensor& tokens);
  // Logits (B,V) FP32 after the last of tokens (B,T), which follow what the state holds. The state
  // holds them too afterwards. kUsage beyond max_position_embeddings.
  at::Tensor decode(const at::Tensor& tokens, KvState& state);

  // In a fixed order.
  std::vector<NamedParameter> parameters() const;
  std::vector<HfTensor> hf_tensors() const;
  // The products of the blocks, in the order of the forward pass.
  std::vector<QuantLinear*> layers() const;
  void zero_grad();
  // What loss() keeps less of: recompute in llama_block.h. The result is the same to the bit. The
  // model must live until the backward pass.
  void set_recompute(Recompute recompute) { recompute_ = recompute; }
  Recompute recompute() const { return recompute_; }
  // Backward products of the blocks in FP8 (GPU): ops::QuantLinearState::use_fp8_backward.
  void use_fp8_backward(const Fp8Gradients& how);
  // (1) int32 on the GPU, to be changed before each backward pass; undefined unless by chance.
  const at::Tensor& gradient_counter() const { return gradient_counter_; }
  // Quantizes all weights whose version changed, in place on a GPU: otherwise the first forward
  // pass does it.
  void refresh();

 private:
  // (B,T,C) with the final norm applied.
  at::Tensor hidden_states(const at::Tensor& tokens, KvState* state);
  at::Tensor on_device(const at::Tensor& tensor) const;
  void check_targets(const at::Tensor& targets) const;
  at::Tensor head_copy(bool grad_enabled);  // the head's weight in the compute type
  const at::Tensor& head() const;
  void grow(KvState& state, int64_t batch, int64_t positions) const;

  LlamaConfig config_;
  QuantRecipe recipe_;
  ComputeType compute_;
  at::Device device_;
  Recompute recompute_ = Recompute::kOff;
  at::Tensor gradient_counter_;
  at::Tensor embedding_;   // (V,C)
  at::Tensor head_;        // (V,C); undefined if tied
  at::Tensor final_norm_;  // (C)
  std::vector<std::unique_ptr<LlamaBlock>> blocks_;
  ops::QuantLinearState head_state_;
  Rope rope_;
};

}  // namespace quest::nn
