#include "quest/train/memory_plan.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>

#include "quest/nn/compute_type.h"
#include "quest/nn/quant_linear.h"
#include "quest/ops/fused_linear.h"
#include "quest/ops/linear_cross_entropy.h"
#include "quest/train/optimizer.h"

namespace quest::train {
namespace {

// Copies of the parameters that the optimizer and the averages keep.
int64_t state_copies(const TrainConfig& config) {
  const std::string& name = config.optimizer.name;
  int64_t copies = name == "sgd" ? (config.optimizer.momentum > 0 ? 1 : 0) : 2;
  if (config.averaging.ema_decay > 0) copies += 1;
  if (config.averaging.horizon > 0) copies += 2;
  return copies;
}

double mask_bytes(const QuantSpec& spec) { return ops::has_gradient_mask(spec) ? 1.0 / 8 : 0; }

// True if quantizing hands on the tensor that it was given.
bool passes_through(const QuantSpec& spec) { return spec.grid == Grid::kNone && !spec.hadamard; }

// Bytes of one value that ops::quantize keeps for the backward pass.
// Registered quantizers keep what they round, too, in FP32.
double kept_bytes(const QuantSpec& spec, double compute_size) {
  if (spec.registered != nullptr) return compute_size + std::max(4.0, compute_size);
  const bool codes = ops::has_code_grid(spec) && compute_size < 8;
  return (codes ? 1.0 : compute_size) + mask_bytes(spec);
}

struct Sizes {
  Sizes(const LlamaConfig& m, const TrainConfig& config, int64_t rows)
      : tokens(static_cast<double>(rows * config.train.sequence_length)),
        width(static_cast<double>(m.hidden_size)),
        q(static_cast<double>(m.q_size())),
        kv(static_cast<double>(m.kv_size())),
        mlp(static_cast<double>(m.intermediate_size)),
        vocabulary(static_cast<double>(m.vocab_size)),
        blocks(static_cast<double>(m.num_layers)),
        on_gpu(config.train.device == "cuda"),
        fp8_backward(config.train.backward == "fp8"),
        rotates_gradient(config.train.gradient_hadamard) {
    type = nn::scalar_type(nn::compute_type_from_name(config.train.compute_type));
    compute = static_cast<double>(c10::elementSize(type));
    master = type == at::kDouble ? 8 : 4;
  }

  double tokens, width, q, kv, mlp, vocabulary, blocks;
  bool on_gpu, fp8_backward, rotates_gradient;
  at::ScalarType type;
  double compute, master;  // bytes of a value
};

// The weight side that a layer keeps from one optimizer step to the next. On a GPU the values are
// there for every grid, and a copy even of masters that are of the compute type; with FP8 backward
// products codes in e4m3 in their place (ops::QuantizedWeight).
double weight_copies(const Sizes& s, const LlamaConfig& m, const QuantRecipe& recipe) {
  const auto per_value = [&](const QuantSpec& spec, bool tiles) {
    if (s.on_gpu) {
      const bool codes = ops::has_code_grid(spec);
      return (s.fp8_backward && codes ? 1 : s.compute) + (codes ? 1 : 0) + mask_bytes(spec);
    }
    const double own = passes_through(spec) && s.compute == s.master ? s.master : 0;
    return kept_bytes(spec, s.compute) - own + (tiles ? 1 : 0);
  };
  const auto product = [&](double outputs, int64_t inputs) {
    const bool tiles =
        !s.on_gpu && ops::choose_product_plan(recipe, static_cast<int64_t>(outputs), inputs,
                                              s.type) == ops::ProductPlan::kIntegerCodes;
    return outputs * static_cast<double>(inputs) * per_value(recipe.weight, tiles);
  };
  const double block = product(s.q + 2 * s.kv, m.hidden_size) + product(s.width, m.q_size()) +
                       product(2 * s.mlp, m.hidden_size) + product(s.width, m.intermediate_size);
  return s.blocks * block + s.vocabulary * s.width * per_value(QuantSpec{}, false);
}

// Per token and block: the inputs of both norms and their FP32 scales, qkv, the output of attention
// with its FP32 normalizers, gate and up, the inputs of the four products. A part that is computed
// again keeps the two tensors of the residual stream that come in.
double saved_for_backward(const Sizes& s, const LlamaConfig& m, const TrainConfig& config) {
  const QuantSpec& activation = config.quant.activation;
  const double input = kept_bytes(activation, s.compute);
  const double norm = s.width * s.compute + 4 + s.width * input;  // with its output as an input
  const double attended = passes_through(activation) ? 0 : s.q * s.compute;  // else o_proj's input
  const double attention = norm + (s.q + 2 * s.kv) * s.compute + attended +
                           4 * static_cast<double>(m.num_heads) + s.q * input;
  const double mlp = norm + 2 * s.mlp * s.compute + s.mlp * input;
  const double residual = 2 * s.width * s.compute;
  const double block = config.train.recompute == "block" ? residual
                       : config.train.recompute == "mlp" ? attention + residual
                                                         : attention + mlp;
  const double head = residual + 4;  // final norm: input, and output's gradient
  double saved = s.blocks * block + head;
  if (config.train.recompute == "block") saved += attention + mlp;  // of the one at work
  if (config.train.recompute == "mlp") saved += mlp;
  return s.tokens * saved;
}

// The heap keeps what was freed, in pieces that seldom fit the next size: these add up.
double working_memory(const Sizes& s, const LlamaConfig& m, bool accumulates) {
  const double rows = std::min(
      s.tokens, static_cast<double>(ops::logits_chunk_rows(m.vocab_size, int64_t(s.compute))));
  const double head_weight = s.vocabulary * s.width;
  // A chunk of logits; the head's gradient as the product gives it, before it is summed in FP32.
  double out = rows * s.vocabulary * s.compute;
  if (s.compute != s.master) out += head_weight * s.compute;
  // A further micro-batch makes the largest gradient before it is added to the first one's.
  if (accumulates) out += head_weight * s.master;
  // Backward of the MLP: gradients of gate, up and their product, inputs as values, and the weight
  // with its gradient in both types.
  out += s.tokens * 6 * s.mlp * s.compute;
  out += 2 * s.mlp * s.width * (2 * s.compute + s.master);
  return out;
}

// Backward of gate and up in FP8, the widest product: their gradients, and of these either both FP8
// forms beside the turned codes of the input, or a turned copy and its FP8 form (rotated ones are
// made one after the other); two gradients of the residual stream. Then the weight's gradient as
// the product gives it.
double fp8_working_memory(const Sizes& s) {
  const double gate_up = 2 * s.mlp;
  const double forms = s.rotates_gradient ? gate_up * (s.compute + 1) : 2 * gate_up + s.width;
  return s.tokens * ((gate_up + 2 * s.width) * s.compute + forms) + gate_up * s.width * s.compute;
}

// On a GPU: a chunk of logits, whose products with the head are summed in the gradient itself; and
// of a block's backward pass the larger of two, both with two gradients of the residual stream:
// gradients of gate, up and their product; or of the attention's output, of q, k and v alone and
// fused, and the sums of q's gradient in FP32. Weights need nothing: their values are kept, their
// gradients are made in FP32 where they stay; but for FP8 products.
double gpu_working_memory(const Sizes& s, const LlamaConfig& m, bool accumulates) {
  const double rows = std::min(s.tokens, static_cast<double>(ops::logits_chunk_rows(
                                             m.vocab_size, int64_t(s.compute), at::kCUDA)));
  double out = rows * s.vocabulary * s.compute;
  // A further micro-batch makes the largest gradient before it is added to the first one's.
  if (accumulates) out += s.vocabulary * s.width * s.master;
  const double mlp = (2 * s.width + 3 * s.mlp) * s.compute;
  const double attention = (2 * s.width + s.q + 2 * (s.q + 2 * s.kv)) * s.compute + 4 * s.q;
  const double plain = s.tokens * std::max(mlp, attention);
  return out + (s.fp8_backward ? std::max(plain, fp8_working_memory(s)) : plain);
}

// Bytes that a layer makes of one value of its input without a gradient to come: what the quantizer
// gives, values of it where the product takes no codes, and what passes of their own write before.
double input_bytes(const Sizes& s, const QuantRecipe& recipe, double outputs, double inputs) {
  const QuantSpec& spec = recipe.activation;
  double out = kept_bytes(spec, s.compute) - mask_bytes(spec);
  const bool multiplies_codes =
      ops::choose_product_plan(recipe, static_cast<int64_t>(outputs), static_cast<int64_t>(inputs),
                               s.type, at::kCUDA) == ops::ProductPlan::kIntegerCodes;
  if (ops::has_code_grid(spec) && !multiplies_codes) out += s.compute;
  if (!ops::fuses_input(recipe)) out += s.compute;
  return out;
}

// A forward pass on a GPU that keeps nothing: at its fullest place in a block (before the end of
// o_proj or of down_proj, beside the residual stream that came in), or at a chunk of logits; with
// the tokens, and the weights put aside where an average's take their place.
double gpu_validation_memory(const Sizes& s, const LlamaConfig& m, const TrainConfig& config) {
  const QuantRecipe& recipe = config.quant;
  const double attention =
      (4 * s.width + 2 * s.q + 2 * s.kv) * s.compute + s.q * input_bytes(s, recipe, s.width, s.q);
  const double mlp =
      (6 * s.width + 2 * s.mlp) * s.compute + s.mlp * input_bytes(s, recipe, s.width, s.mlp);
  const double rows = std::min(s.tokens, static_cast<double>(ops::logits_chunk_rows(
                                             m.vocab_size, int64_t(s.compute), at::kCUDA)));
  const double head = s.tokens * (s.width * s.compute + 4) + rows * s.vocabulary * s.compute;
  const bool averages = config.averaging.ema_decay > 0 || config.averaging.horizon > 0;
  return std::max(s.tokens * std::max(attention, mlp), head) + s.tokens * 2 * sizeof(int64_t) +
         (averages ? static_cast<double>(m.parameters()) * s.master : 0);
}

bool steps_are_graphs(const TrainConfig& config) {
  return config.train.cuda_graphs && make_optimizer(config.optimizer, {})->can_enqueue();
}

}  // namespace

MemoryPlan make_memory_plan(const TrainConfig& config, const LlamaConfig& model, int64_t rows,
                            int64_t program_bytes, int64_t validation_rows) {
  const Sizes s(model, config, rows);
  const int64_t masters = model.parameters() * static_cast<int64_t>(s.master);
  MemoryPlan plan;
  plan.program_bytes = s.on_gpu ? 0 : program_bytes;
  plan.weight_bytes = masters;
  plan.copy_bytes = static_cast<int64_t>(weight_copies(s, model, config.quant));
  plan.gradient_bytes = masters;
  plan.optimizer_bytes = masters * state_copies(config);
  plan.saved_bytes = static_cast<int64_t>(saved_for_backward(s, model, config));
  const bool accumulates = rows < config.train.batch_size;
  plan.working_bytes = static_cast<int64_t>(s.on_gpu ? gpu_working_memory(s, model, accumulates)
                                                     : working_memory(s, model, accumulates));
  if (s.on_gpu && validation_rows > 0) {
    const Sizes validated(model, config, validation_rows);
    const auto needed = static_cast<int64_t>(gpu_validation_memory(validated, model, config));
    const int64_t freed = steps_are_graphs(config) ? 0 : plan.saved_bytes + plan.working_bytes;
    plan.validation_bytes = std::max<int64_t>(0, needed - freed);
  }
  return plan;
}

int64_t anonymous_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    constexpr std::string_view kKey = "RssAnon:";
    if (line.starts_with(kKey)) return 1024 * std::atoll(line.c_str() + kKey.size());
  }
  return 0;
}

}  // namespace quest::train
