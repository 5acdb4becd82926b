#include "quest/nn/llama_model.h"

#include <cmath>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "quest/base/error.h"
#include "quest/base/philox.h"
#include "quest/model/rope_table.h"
#include "quest/ops/gpu.h"
#include "quest/ops/linear_cross_entropy.h"
#include "quest/ops/rms_norm.h"

namespace quest::nn {
namespace {

Rope make_rope(const LlamaConfig& config) {
  const RopeTable table = make_rope_table(config, config.max_position_embeddings);
  const auto tensor = [&](const std::vector<float>& values) {
    at::Tensor t = at::empty({config.max_position_embeddings, config.head_dim / 2}, at::kFloat);
    std::copy(values.begin(), values.end(), t.data_ptr<float>());
    return t;
  };
  return {tensor(table.cos), tensor(table.sin)};
}

void check_tokens(const at::Tensor& tokens, int64_t vocabulary) {
  QUEST_CHECK(tokens.dim() == 2 && tokens.scalar_type() == at::kLong && tokens.numel() > 0,
              ErrorKind::kUsage, "[llama] tokens must be a non-empty (B,T) int64 matrix");
  const at::Tensor flat = tokens.contiguous();
  const int64_t* ids = flat.data_ptr<int64_t>();
  for (int64_t i = 0; i < flat.numel(); ++i) {
    QUEST_CHECK(ids[i] >= 0 && ids[i] < vocabulary, ErrorKind::kData,
                "[llama] token {} is {}, the vocabulary has {} tokens; was the data tokenized with "
                "another tokenizer?",
                i, ids[i], vocabulary);
  }
}

void fill_normal(const at::Tensor& weight, double deviation, uint64_t seed, uint64_t stream) {
  const Philox random(seed, stream);
  const at::NoGradGuard no_grad;
  at::Tensor values = at::empty(weight.sizes(), at::kFloat);
  float* out = values.data_ptr<float>();
  at::parallel_for(0, values.numel(), 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      out[i] = static_cast<float>(deviation * random.normal(static_cast<uint64_t>(i)));
    }
  });
  weight.detach().copy_(values);
}

QuantRecipe unquantized() { return recipe_from_name("bf16"); }

}  // namespace

std::vector<at::Tensor> zeros_like(const std::vector<NamedParameter>& parameters) {
  std::vector<at::Tensor> out;
  out.reserve(parameters.size());
  for (const auto& p : parameters) out.push_back(at::zeros_like(p.tensor.detach()));
  return out;
}

LlamaModel::LlamaModel(const LlamaConfig& config, const QuantRecipe& recipe, ComputeType compute,
                       at::Device device)
    : config_(config),
      recipe_(recipe),
      compute_(compute),
      device_(device),
      head_state_(unquantized(), scalar_type(compute), "lm_head") {
  validate(config, recipe);
  if (device.is_cuda()) {
    const std::string reason = ops::gpu_unusable_reason();
    QUEST_CHECK(reason.empty(), ErrorKind::kEnvironment, "{}", reason);
    QUEST_CHECK(compute != ComputeType::kFloat64, ErrorKind::kUsage,
                "compute type fp64 runs on the CPU only; a GPU computes in bf16 or fp32");
  }
  const Placement placement{compute, device};
  embedding_ = make_parameter({config.vocab_size, config.hidden_size}, placement);
  if (!config.tie_word_embeddings) {
    head_ = make_parameter({config.vocab_size, config.hidden_size}, placement);
  }
  final_norm_ = make_parameter({config.hidden_size}, placement);
  final_norm_.detach().fill_(1.0);
  for (int64_t i = 0; i < config.num_layers; ++i) {
    blocks_.push_back(std::make_unique<LlamaBlock>(i, config, recipe, placement));
  }
  rope_ = make_rope(config);
  rope_ = {on_device(rope_.cos), on_device(rope_.sin)};
}

void LlamaModel::init_weights(uint64_t seed) {
  const double residual = 0.02 / std::sqrt(2.0 * static_cast<double>(config_.num_layers));
  uint64_t stream = 0;
  for (const NamedParameter& p : parameters()) {
    if (p.of_quantizer) continue;
    const bool output = p.name.ends_with("o_proj.weight") || p.name.ends_with("down_proj.weight");
    if (p.tensor.dim() == 1) {
      p.tensor.detach().fill_(1.0);
    } else {
      fill_normal(p.tensor, output ? residual : 0.02, seed, stream);
    }
    ++stream;
  }
}

void LlamaModel::begin_quantizers(const at::Tensor& tokens) {
  bool learns = false;
  for (const QuantLinear* layer : layers()) learns |= !layer->learned().empty();
  if (!learns) return;
  const at::NoGradGuard no_grad;
  for (QuantLinear* layer : layers()) layer->set_beginning(true);
  hidden_states(tokens, nullptr);
  for (QuantLinear* layer : layers()) layer->set_beginning(false);
}

const at::Tensor& LlamaModel::head() const {
  return config_.tie_word_embeddings ? embedding_ : head_;
}

at::Tensor LlamaModel::head_copy(bool grad_enabled) {
  return head_state_.weight_side(head(), grad_enabled)->quantized.values;
}

at::Tensor LlamaModel::hidden_states(const at::Tensor& tokens, KvState* state) {
  if (tokens.is_cpu()) check_tokens(tokens, config_.vocab_size);
  Residual x{at::embedding(embedding_, on_device(tokens)).to(scalar_type(compute_)), {}};
  for (size_t i = 0; i < blocks_.size(); ++i) {
    BlockKv* kv = state == nullptr ? nullptr : &state->blocks_[i];
    x = blocks_[i]->forward(x, rope_, kv, state == nullptr ? 0 : state->length_,
                            state == nullptr ? recompute_ : Recompute::kOff);
  }
  return ops::add_rms_norm(x.x, x.delta, final_norm_, config_.rms_norm_eps);
}

at::Tensor LlamaModel::loss(const at::Tensor& tokens, const at::Tensor& targets) {
  // Recomputed parts run without gradients first and would quantize weights without their masks.
  if (recompute_ != Recompute::kOff && at::GradMode::is_enabled()) refresh();
  check_targets(targets);
  const at::Tensor hidden = hidden_states(tokens, nullptr);
  return ops::linear_cross_entropy(hidden.view({-1, config_.hidden_size}), head(),
                                   head_copy(at::GradMode::is_enabled()),
                                   on_device(targets.contiguous().view(-1)));
}

at::Tensor LlamaModel::token_losses(const at::Tensor& tokens, const at::Tensor& targets) {
  const at::NoGradGuard no_grad;
  check_targets(targets);
  const at::Tensor hidden = hidden_states(tokens, nullptr);
  return ops::linear_token_losses(hidden.view({-1, config_.hidden_size}), head_copy(false),
                                  on_device(targets.contiguous().view(-1)))
      .view(tokens.sizes())
      .cpu();
}

at::Tensor LlamaModel::logits(const at::Tensor& tokens) {
  const at::NoGradGuard no_grad;
  const at::Tensor hidden = hidden_states(tokens, nullptr);
  return at::mm(hidden.view({-1, config_.hidden_size}), head_copy(false).t())
      .to(at::TensorOptions(at::kCPU).dtype(master_scalar_type(compute_)))
      .view({tokens.size(0), tokens.size(1), config_.vocab_size});
}

void LlamaModel::grow(KvState& state, int64_t batch, int64_t positions) const {
  for (BlockKv& kv : state.blocks_) {
    const int64_t capacity = kv.k.defined() ? kv.k.size(2) : 0;
    QUEST_CHECK(capacity == 0 || kv.k.size(0) == batch, ErrorKind::kUsage,
                "[llama] decode got a batch of {}, the state holds {}", batch, kv.k.size(0));
    if (positions <= capacity) {
      continue;
    }
    const int64_t larger =
        std::min(config_.max_position_embeddings,
                 std::max<int64_t>(positions, std::max<int64_t>(64, 2 * capacity)));
    for (at::Tensor* cache : {&kv.k, &kv.v}) {
      at::Tensor bigger = at::empty({batch, config_.num_kv_heads, larger, config_.head_dim},
                                    at::TensorOptions(scalar_type(compute_)).device(device_));
      if (capacity > 0) {
        bigger.narrow(2, 0, state.length_).copy_(cache->narrow(2, 0, state.length_));
      }
      *cache = bigger;
    }
  }
}

at::Tensor LlamaModel::decode(const at::Tensor& tokens, KvState& state) {
  const at::NoGradGuard no_grad;
  check_tokens(tokens, config_.vocab_size);
  QUEST_CHECK(state.blocks_.size() == blocks_.size(), ErrorKind::kUsage,
              "[llama] decode got a state of {} layers, the model has {}", state.blocks_.size(),
              blocks_.size());
  const int64_t end = state.length_ + tokens.size(1);
  QUEST_CHECK(end <= config_.max_position_embeddings, ErrorKind::kUsage,
              "[llama] {} positions, the model reads at most {} (max_position_embeddings)", end,
              config_.max_position_embeddings);
  grow(state, tokens.size(0), end);
  const at::Tensor hidden = hidden_states(tokens, &state);
  state.length_ = end;
  const at::Tensor last = hidden.select(1, tokens.size(1) - 1);  // (B,C)
  return at::mm(last, head_copy(false).t()).to(at::TensorOptions(at::kCPU).dtype(at::kFloat));
}

std::vector<NamedParameter> LlamaModel::parameters() const {
  std::vector<NamedParameter> all;
  all.push_back({"model.embed_tokens.weight", embedding_, false});
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const LlamaBlock& block = *blocks_[i];
    const std::string prefix = fmt::format("model.layers.{}.", i);
    all.push_back({prefix + "input_layernorm.weight", block.input_norm, false});
    all.push_back({prefix + "post_attention_layernorm.weight", block.post_attention_norm, false});
    for (const QuantLinear* layer : {&block.attention.qkv_proj, &block.attention.o_proj,
                                     &block.mlp.gate_up_proj, &block.mlp.down_proj}) {
      all.push_back({layer->name() + ".weight", layer->weight(), true});
      for (ops::LearnedTensor& t : layer->learned()) {
        all.push_back({std::move(t.name), std::move(t.value), true, true});
      }
    }
  }
  all.push_back({"model.norm.weight", final_norm_, false});
  if (head_.defined()) {
    all.push_back({"lm_head.weight", head_, false});
  }
  return all;
}

std::vector<HfTensor> LlamaModel::hf_tensors() const {
  std::vector<HfTensor> all;
  const int64_t q = config_.q_size(), kv = config_.kv_size(), f = config_.intermediate_size;
  for (const NamedParameter& p : parameters()) {
    const at::Tensor tensor = p.tensor.detach();
    const std::string suffix = ".weight";
    const auto split = [&](const char* fused, std::vector<std::pair<const char*, int64_t>> parts) {
      const std::string ending = fused + suffix;
      if (!p.name.ends_with(ending)) {
        return false;
      }
      const std::string prefix = p.name.substr(0, p.name.size() - ending.size());
      int64_t row = 0;
      for (const auto& [name, rows] : parts) {
        all.push_back({prefix + name + suffix, tensor.narrow(0, row, rows)});
        row += rows;
      }
      return true;
    };
    if (!split("qkv_proj", {{"q_proj", q}, {"k_proj", kv}, {"v_proj", kv}}) &&
        !split("gate_up_proj", {{"gate_proj", f}, {"up_proj", f}})) {
      all.push_back({p.name, tensor});
    }
  }
  return all;
}

// A GPU's cross-entropy cannot say which target is wrong.
void LlamaModel::check_targets(const at::Tensor& targets) const {
  if (device_.is_cuda() && targets.is_cpu()) {
    ops::count_targets(targets.contiguous().view(-1), config_.vocab_size);
  }
}

at::Tensor LlamaModel::on_device(const at::Tensor& tensor) const { return tensor.to(device_); }

void LlamaModel::use_fp8_backward(const Fp8Gradients& gradients) {
  QUEST_CHECK(
      device_.is_cuda() && ops::gpu_has_fast_products(), ErrorKind::kUsage,
      "FP8 backward products need a Hopper GPU (H100, H200) and its code in this build; this "
      "model is on {}, see `quest doctor`",
      device_.is_cuda() ? ops::gpu_description() : "the CPU");
  ops::QuantLinearState::Fp8Backward how;
  how.e5m2 = gradients.e5m2;
  how.hadamard = gradients.hadamard;
  if (gradients.by_chance) {
    gradient_counter_ = at::zeros({1}, at::TensorOptions(at::kInt).device(device_));
    how.counter = gradient_counter_;
  }
  for (QuantLinear* layer : layers()) {
    layer->use_fp8_backward(how);
    ++how.layer;
  }
}

void LlamaModel::refresh() {
  for (QuantLinear* layer : layers()) layer->refresh();
  head_copy(/*grad_enabled=*/true);
}

std::vector<QuantLinear*> LlamaModel::layers() const {
  std::vector<QuantLinear*> all;
  for (const auto& block : blocks_) {
    for (QuantLinear* layer : block->layers()) all.push_back(layer);
  }
  return all;
}

void LlamaModel::zero_grad() {
  for (const NamedParameter& p : parameters()) {
    p.tensor.mutable_grad() = at::Tensor();
  }
}

}  // namespace quest::nn
