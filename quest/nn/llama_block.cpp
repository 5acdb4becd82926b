#include "quest/nn/llama_block.h"

#include <ATen/TensorOperators.h>

#include "quest/base/error.h"
#include "quest/ops/attention.h"
#include "quest/ops/rms_norm.h"
#include "quest/ops/swiglu.h"

namespace quest::nn {
namespace {

at::Tensor norm_weight(const LlamaConfig& config, ComputeType compute) {
  at::Tensor weight = make_parameter({config.hidden_size}, compute);
  weight.detach().fill_(1.0);
  return weight;
}

std::string prefix_of(int64_t index) { return fmt::format("model.layers.{}.", index); }

}  // namespace

LlamaAttention::LlamaAttention(const std::string& prefix, const LlamaConfig& config,
                               const QuantRecipe& recipe, ComputeType compute)
    : qkv_proj(prefix + "self_attn.qkv_proj", config.hidden_size,
               config.q_size() + 2 * config.kv_size(), recipe, compute),
      o_proj(prefix + "self_attn.o_proj", config.q_size(), config.hidden_size, recipe, compute),
      heads_(config.num_heads),
      kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim) {}

at::Tensor LlamaAttention::forward(const at::Tensor& x, const Rope& rope, BlockKv* kv,
                                   int64_t start) {
  const ops::AttentionShape shape{heads_, kv_heads_, head_dim_};
  const at::Tensor qkv = qkv_proj.forward(x);  // (B, T, (H + 2G) D)
  const at::Tensor mixed =
      kv == nullptr
          ? ops::causal_self_attention(qkv, rope.cos, rope.sin, shape)
          : ops::cached_self_attention(qkv, rope.cos, rope.sin, shape, kv->k, kv->v, start);
  return o_proj.forward(mixed);
}

LlamaMLP::LlamaMLP(const std::string& prefix, const LlamaConfig& config, const QuantRecipe& recipe,
                   ComputeType compute)
    : gate_up_proj(prefix + "mlp.gate_up_proj", config.hidden_size, 2 * config.intermediate_size,
                   recipe, compute),
      down_proj(prefix + "mlp.down_proj", config.intermediate_size, config.hidden_size, recipe,
                compute) {}

at::Tensor LlamaMLP::forward(const at::Tensor& x) {
  return down_proj.forward(ops::swiglu(gate_up_proj.forward(x)));
}

LlamaBlock::LlamaBlock(int64_t index, const LlamaConfig& config, const QuantRecipe& recipe,
                       ComputeType compute)
    : input_norm(norm_weight(config, compute)),
      post_attention_norm(norm_weight(config, compute)),
      attention(prefix_of(index), config, recipe, compute),
      mlp(prefix_of(index), config, recipe, compute),
      eps_(config.rms_norm_eps) {}

at::Tensor LlamaBlock::forward(const at::Tensor& x, const Rope& rope, BlockKv* kv, int64_t start) {
  const at::Tensor h = x + attention.forward(ops::rms_norm(x, input_norm, eps_), rope, kv, start);
  return h + mlp.forward(ops::rms_norm(h, post_attention_norm, eps_));
}

}  // namespace quest::nn
