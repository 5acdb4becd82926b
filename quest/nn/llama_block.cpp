#include "quest/nn/llama_block.h"

#include "quest/base/error.h"
#include "quest/nn/recompute.h"
#include "quest/ops/attention.h"

namespace quest::nn {
namespace {

at::Tensor norm_weight(const LlamaConfig& config, const Placement& placement) {
  at::Tensor weight = make_parameter({config.hidden_size}, placement);
  weight.detach().fill_(1.0);
  return weight;
}

std::string prefix_of(int64_t index) { return fmt::format("model.layers.{}.", index); }

}  // namespace

LlamaAttention::LlamaAttention(const std::string& prefix, const LlamaConfig& config,
                               const QuantRecipe& recipe, const Placement& placement)
    : qkv_proj(prefix + "self_attn.qkv_proj", config.hidden_size,
               config.q_size() + 2 * config.kv_size(), recipe, placement),
      o_proj(prefix + "self_attn.o_proj", config.q_size(), config.hidden_size, recipe, placement),
      heads_(config.num_heads),
      kv_heads_(config.num_kv_heads),
      head_dim_(config.head_dim) {}

Residual LlamaAttention::forward(const Residual& in, const at::Tensor& norm, double eps,
                                 const Rope& rope, BlockKv* kv, int64_t start) {
  const ops::AttentionShape shape{heads_, kv_heads_, head_dim_};
  const auto [h, qkv] = qkv_proj.forward_normed(in.x, in.delta, norm, eps);  // (B, T, (H + 2G) D)
  const at::Tensor mixed =
      kv == nullptr
          ? ops::causal_self_attention(qkv, rope.cos, rope.sin, shape)
          : ops::cached_self_attention(qkv, rope.cos, rope.sin, shape, kv->k, kv->v, start);
  return {h, o_proj.forward(mixed)};
}

LlamaMLP::LlamaMLP(const std::string& prefix, const LlamaConfig& config, const QuantRecipe& recipe,
                   const Placement& placement)
    : gate_up_proj(prefix + "mlp.gate_up_proj", config.hidden_size, 2 * config.intermediate_size,
                   recipe, placement),
      down_proj(prefix + "mlp.down_proj", config.intermediate_size, config.hidden_size, recipe,
                placement) {}

Residual LlamaMLP::forward(const Residual& in, const at::Tensor& norm, double eps) {
  const auto [h, gate_up] = gate_up_proj.forward_normed(in.x, in.delta, norm, eps);  // (B, T, 2F)
  return {h, down_proj.forward_swiglu(gate_up)};
}

LlamaBlock::LlamaBlock(int64_t index, const LlamaConfig& config, const QuantRecipe& recipe,
                       const Placement& placement)
    : input_norm(norm_weight(config, placement)),
      post_attention_norm(norm_weight(config, placement)),
      attention(prefix_of(index), config, recipe, placement),
      mlp(prefix_of(index), config, recipe, placement),
      eps_(config.rms_norm_eps) {}

Residual LlamaBlock::forward(const Residual& in, const Rope& rope, BlockKv* kv, int64_t start,
                             Recompute recomputed) {
  const auto run_mlp = [this](const Residual& mixed) {
    return mlp.forward(mixed, post_attention_norm, eps_);
  };
  const auto run = [&](const Residual& x) {
    return run_mlp(attention.forward(x, input_norm, eps_, rope, kv, start));
  };
  // As a function of lists of tensors. The parts live on until the backward pass: they hold what
  // they use by value or by members of this block and of its model.
  const auto again = [](auto part, const Residual& x) {
    const variable_list out = recompute(
        [part](const variable_list& v) {
          const Residual r = part(Residual{v[0], v[1]});
          return variable_list{r.x, r.delta};
        },
        {x.x, x.delta});
    return Residual{out[0], out[1]};
  };
  switch (recomputed) {
    case Recompute::kOff:
      return run(in);
    case Recompute::kMlp:
      return again(run_mlp, attention.forward(in, input_norm, eps_, rope, kv, start));
    case Recompute::kBlock:
      QUEST_ASSERT(kv == nullptr, "a recomputed block with a key-value cache");
      return again(
          [this, run_mlp, &rope](const Residual& x) {
            return run_mlp(attention.forward(x, input_norm, eps_, rope, nullptr, 0));
          },
          in);
  }
  QUEST_ASSERT(false, "recompute {}", static_cast<int>(recomputed));
}

Recompute recompute_from_name(std::string_view name) {
  if (name == "off") return Recompute::kOff;
  if (name == "mlp") return Recompute::kMlp;
  QUEST_CHECK(name == "block", ErrorKind::kUsage, "recompute is \"{}\", allowed: off, mlp, block",
              name);
  return Recompute::kBlock;
}

}  // namespace quest::nn
