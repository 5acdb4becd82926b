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

#include <map>
#include <memory>
#include <string>
#include <vector>

#include <torch/torch.h>

#include "quest/model/llama_config.h"
#include "quest/nn/compute_type.h"

namespace quest::nn {

struct NamedParameter {
  std::string name;   // ours: "model.layers.0.self_attn.qkv.weight"
  at::Tensor tensor;  // the leaf that autograd fills
  bool weight_decay;  // block matrices only (not embedding, head, norms)
};
struct HfTensor {
  std::string name;  // Hugging Face's: "model.layers.0.self_attn.q_proj.weight"
  at::Tensor view;   // contiguous view into a parameter
};

// Keys and values of earlier positions, for generation.
class KvState;

class LlamaBlock;

class LlamaModel {
 public:
  LlamaModel(const LlamaConfig& config, const QuantRecipe& recipe, ComputeType compute);
  ~LlamaModel();

  const LlamaConfig& config() const { return config_; }
  const QuantRecipe& recipe() const { return recipe_; }
  ComputeType compute_type() const { return compute_; }

  // N(0, 0.02), output projections N(0, 0.02/sqrt(2L)), norms 1; a function of the seed alone.
  void init_weights(uint64_t seed);

  // Mean cross-entropy over targets that are not -100, FP32 (FP64 with kFloat64). Logits are never
  // held whole.
  at::Tensor loss(const at::Tensor& tokens, const at::Tensor& targets);
  // Per-token cross-entropy without gradients: (B,T) f32, 0 where the target is -100.
  at::Tensor token_losses(const at::Tensor& tokens, const at::Tensor& targets);
  // (B,T,V) f32, no gradients.
  at::Tensor logits(const at::Tensor& tokens);
  // Logits of the last position (B,V) f32 for tokens (B,T) that follow what is in the state.
  at::Tensor decode(const at::Tensor& tokens, KvState& state);
  std::unique_ptr<KvState> new_kv_state() const;

  // In a fixed order.
  std::vector<NamedParameter> parameters() const;
  std::vector<HfTensor> hf_tensors() const;
  void zero_grad();
  // Bytes of saved-for-backward tensors and caches are torch's business; parameters only.
  int64_t parameter_bytes() const;

 private:
  at::Tensor hidden_states(const at::Tensor& tokens,
                           KvState* state);  // (B,T,C), final norm applied

  LlamaConfig config_;
  QuantRecipe recipe_;
  ComputeType compute_;
  at::Tensor embedding_, head_, final_norm_;
  std::vector<std::unique_ptr<LlamaBlock>> blocks_;
  at::Tensor rope_cos_, rope_sin_;
};

}  // namespace quest::nn
