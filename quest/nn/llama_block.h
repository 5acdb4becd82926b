// One Llama block: attention and MLP, each behind an RMSNorm and added to the residual stream.
//
// Legend: B batch, T tokens, C model width, H heads, G key-value heads, D head size, F MLP width.
#pragma once

#include <array>
#include <string>

#include <ATen/core/Tensor.h>

#include "quest/model/llama_config.h"
#include "quest/nn/quant_linear.h"

namespace quest::nn {

// Rotary tables (positions, D/2) f32, shared by all blocks.
struct Rope {
  at::Tensor cos;
  at::Tensor sin;
};

// Keys and values of earlier positions of one block: (B, G, capacity, D) of the compute type.
struct BlockKv {
  at::Tensor k;
  at::Tensor v;
};

// The residual stream, (B,T,C), as a sum that whoever reads it next forms: x + delta. delta is
// undefined at the start of the model.
struct Residual {
  at::Tensor x;
  at::Tensor delta;
};

// What is computed again in the backward pass to save memory: nothing, the insides of the MLP (half
// of what a block keeps), or the whole block (its input alone is kept).
enum class Recompute { kOff, kMlp, kBlock };
// "off", "mlp", "block"; throws kUsage.
Recompute recompute_from_name(std::string_view name);

class LlamaAttention {
 public:
  LlamaAttention(const std::string& prefix, const LlamaConfig& config, const QuantRecipe& recipe,
                 const Placement& placement);

  // in, norm (C) -> {in.x + in.delta, attention of its norm}. With kv: appends at position start
  // and attends to all before.
  Residual forward(const Residual& in, const at::Tensor& norm, double eps, const Rope& rope,
                   BlockKv* kv, int64_t start);

  QuantLinear qkv_proj;  // ((H + 2G) D, C): q rows, k rows, v rows
  QuantLinear o_proj;    // (C, H D)

 private:
  int64_t heads_, kv_heads_, head_dim_;
};

class LlamaMLP {
 public:
  LlamaMLP(const std::string& prefix, const LlamaConfig& config, const QuantRecipe& recipe,
           const Placement& placement);

  // in, norm (C) -> {in.x + in.delta, MLP of its norm}
  Residual forward(const Residual& in, const at::Tensor& norm, double eps);

  QuantLinear gate_up_proj;  // (2F, C): gate rows, up rows
  QuantLinear down_proj;     // (C, F)
};

class LlamaBlock {
 public:
  LlamaBlock(int64_t index, const LlamaConfig& config, const QuantRecipe& recipe,
             const Placement& placement);

  // recompute: what the backward pass computes again (training only: kv is null then).
  Residual forward(const Residual& in, const Rope& rope, BlockKv* kv, int64_t start,
                   Recompute recompute = Recompute::kOff);
  // Its four products.
  std::array<QuantLinear*, 4> layers() {
    return {&attention.qkv_proj, &attention.o_proj, &mlp.gate_up_proj, &mlp.down_proj};
  }

  at::Tensor input_norm;           // (C)
  at::Tensor post_attention_norm;  // (C)
  LlamaAttention attention;
  LlamaMLP mlp;

 private:
  double eps_;
};

}  // namespace quest::nn
