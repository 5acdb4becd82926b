#include "quest/nn/authors_layout.h"

#include "quest/base/error.h"

namespace quest::nn {
namespace {

// Moves rows of each rotary head between the two layouts, others stay.
at::Tensor permute_rotary(const AuthorsTensor& t, const at::Tensor& from, bool to_half_split) {
  at::Tensor result = from.detach().clone();
  if (t.rotary_heads == 0) {
    return result;
  }
  const int64_t half = t.head_dim / 2, columns = from.size(1);
  const at::Tensor heads = from.detach().narrow(0, 0, t.rotary_heads * t.head_dim);
  const at::Tensor moved = to_half_split
                               ? heads.reshape({t.rotary_heads, half, 2, columns}).transpose(1, 2)
                               : heads.reshape({t.rotary_heads, 2, half, columns}).transpose(1, 2);
  result.narrow(0, 0, t.rotary_heads * t.head_dim).copy_(moved.reshape(heads.sizes()));
  return result;
}

}  // namespace

at::Tensor AuthorsTensor::rows_of(const at::Tensor& like_parameter) const {
  return like_parameter.detach().narrow(0, first_row, rows);
}

std::vector<AuthorsTensor> authors_tensors(const LlamaModel& model) {
  const LlamaConfig& config = model.config();
  const int64_t f = config.intermediate_size;
  std::vector<AuthorsTensor> all;
  for (const NamedParameter& p : model.parameters()) {
    const auto add = [&](std::string name) {
      all.push_back({std::move(name), p.tensor, 0, p.tensor.size(0), 0, config.head_dim});
    };
    if (p.name == "model.embed_tokens.weight") {
      add("transformer.wte.weight");
    } else if (p.name == "model.norm.weight") {
      add("transformer.ln_f.weight");
    } else if (p.name == "lm_head.weight") {
      add(p.name);
    } else {
      const std::string start = "model.layers.";
      const size_t dot = p.name.find('.', start.size());
      const std::string block =
          "transformer.h." + p.name.substr(start.size(), dot - start.size()) + ".";
      const std::string layer = p.name.substr(dot + 1);
      if (layer == "input_layernorm.weight") {
        add(block + "ln_1.weight");
      } else if (layer == "post_attention_layernorm.weight") {
        add(block + "ln_2.weight");
      } else if (layer == "self_attn.qkv_proj.weight") {
        add(block + "attn.c_attn.weight");
        all.back().rotary_heads = config.num_heads + config.num_kv_heads;
      } else if (layer == "self_attn.o_proj.weight") {
        add(block + "attn.c_proj.weight");
      } else if (layer == "mlp.gate_up_proj.weight") {
        all.push_back({block + "mlp.w1.weight", p.tensor, 0, f, 0, config.head_dim});
        all.push_back({block + "mlp.w2.weight", p.tensor, f, f, 0, config.head_dim});
      } else {
        QUEST_ASSERT(layer == "mlp.down_proj.weight", "unknown parameter {}", p.name);
        add(block + "mlp.c_proj.weight");
      }
    }
  }
  return all;
}

at::Tensor from_authors_layout(const AuthorsTensor& t, const at::Tensor& theirs) {
  return permute_rotary(t, theirs, true);
}

at::Tensor to_authors_layout(const AuthorsTensor& t, const at::Tensor& ours) {
  return permute_rotary(t, ours, false);
}

}  // namespace quest::nn
