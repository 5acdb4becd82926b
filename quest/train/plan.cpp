#include "quest/train/plan.h"

#include <fmt/format.h>

#include "quest/base/progress.h"
#include "quest/nn/compute_type.h"
#include "quest/nn/quant_linear.h"
#include "quest/ops/attention.h"
#include "quest/ops/fused_linear.h"
#include "quest/ops/quant_linear.h"
#include "quest/train/diagnostics.h"
#include "quest/train/optimizer.h"

namespace quest::train {
namespace {

// The passes over memory that make a product's input, the layer's quantizer last.
std::string input_text(std::vector<std::string> passes, const QuantSpec& activation, bool fused) {
  if (activation.is_quantized()) {
    passes.emplace_back("quantizer");
  } else if (activation.hadamard) {
    passes.emplace_back("Hadamard transform");
  }
  if (passes.empty()) return "as it is";
  if (passes.size() == 1) return passes.front();
  return fmt::format("{} {}", fmt::join(passes, ", "),
                     fused ? "in one pass" : "one after the other");
}

// What GpuStep and the loop on a CPU make of the rule.
std::string optimizer_text(const TrainConfig& config) {
  const std::string& name = config.optimizer.name;
  if (config.train.device != "cuda") {
    return fmt::format("{}: LibTorch's {}", name,
                       name == "schedule_free_adamw" ? "operations" : "fused update");
  }
  if (!make_optimizer(config.optimizer, {})->can_enqueue()) {
    return fmt::format(
        "{}: LibTorch's operations, for which the host waits in every step; no CUDA graphs", name);
  }
  return fmt::format(
      "{}: norm, clipping and update on the GPU, all tensors in a launch or a few, {}", name,
      config.train.cuda_graphs ? "the whole step as CUDA graphs"
                               : "every operation started by the host");
}

}  // namespace

std::string code_plan_text(const TrainConfig& config, const LlamaConfig& model) {
  const at::DeviceType device = config.train.device == "cuda" ? at::kCUDA : at::kCPU;
  const at::ScalarType type =
      nn::scalar_type(nn::compute_type_from_name(config.train.compute_type));
  std::string out;
  const auto line = [&out](const char* name, const std::string& value) {
    out += fmt::format("{:<12} {}\n", name, value);
  };
  const auto layer = [&](const char* name, int64_t n, int64_t k, const QuantRecipe& recipe,
                         std::vector<std::string> passes) {
    const bool fused = device == at::kCUDA && ops::fuses_input(recipe);
    line(name, fmt::format("{} x {}: {}; input: {}", n, k,
                           ops::product_plan_text(recipe, n, k, type, device),
                           input_text(std::move(passes), recipe.activation, fused)));
  };
  const std::vector<std::string> norm = {"residual sum", "RMS norm"};
  line("device", fmt::format("{}, {}", config.train.device, config.train.compute_type));
  layer("qkv_proj", model.q_size() + 2 * model.kv_size(), model.hidden_size, config.quant, norm);
  layer("o_proj", model.hidden_size, model.q_size(), config.quant, {});
  layer("gate_up_proj", 2 * model.intermediate_size, model.hidden_size, config.quant, norm);
  layer("down_proj", model.hidden_size, model.intermediate_size, config.quant, {"SwiGLU"});
  layer("lm_head", model.vocab_size, model.hidden_size, recipe_from_name("bf16"), norm);
  line("attention",
       ops::attention_plan(type, {model.num_heads, model.num_kv_heads, model.head_dim}, device));
  if (device == at::kCUDA) {
    const std::string backward =
        config.train.backward == "fp8"
            ? fmt::format("FP8, sums promoted every 128, of codes and gradients in {} ({}){}",
                          config.train.gradient_format, config.train.gradient_rounding,
                          config.train.gradient_hadamard
                              ? ", both rotated along the sum and rounded, unfused"
                              : "")
            : fmt::format("{} values (cuBLAS)", at::toString(type));
    line("backward", fmt::format("{}; recomputed: {}{}", backward, config.train.recompute,
                                 config.train.deterministic ? "; the same bits every time" : ""));
  }
  line("optimizer", optimizer_text(config));
  return out;
}

RunPlan make_plan(const TrainConfig& config, const LlamaConfig& model, const MemoryPlan& memory,
                  int64_t steps, int64_t training_tokens, double peak_flops, int64_t device_bytes) {
  RunPlan plan;
  plan.run_folder = fmt::format("{}/{}", config.run.folder, run_folder_name(config));
  plan.model = model;
  plan.quant = config.quant;
  plan.parameters = model.parameters();
  plan.non_embedding_parameters = model.non_embedding_parameters();
  plan.steps = steps;
  plan.tokens_per_step = config.train.batch_size * config.train.sequence_length;
  plan.training_tokens = training_tokens;
  plan.epochs =
      static_cast<double>(steps * plan.tokens_per_step) / static_cast<double>(training_tokens);
  plan.flops_per_token = model.training_flops_per_token(config.train.sequence_length);
  plan.peak_flops = peak_flops;
  plan.device = config.train.device;
  plan.memory = memory;
  plan.device_bytes = device_bytes;
  plan.diagnostics = diagnostics_plan(config, model, steps);
  plan.code = code_plan_text(config, model);
  return plan;
}

double RunPlan::seconds_at(double utilization) const {
  return flops_per_token * static_cast<double>(steps * tokens_per_step) /
         (peak_flops * utilization);
}

std::string RunPlan::text() const {
  const auto quantity = [](auto value, const char* unit) {
    return format_quantity(static_cast<double>(value), unit);
  };
  std::string out;
  const auto line = [&out](const char* name, const std::string& value) {
    out += fmt::format("{:<12} {}\n", name, value);
  };
  line("run", run_folder);
  line("model", fmt::format("{} blocks, width {}, {} heads of {} ({} key-value), MLP {}, "
                            "vocabulary {}{}",
                            model.num_layers, model.hidden_size, model.num_heads, model.head_dim,
                            model.num_kv_heads, model.intermediate_size, model.vocab_size,
                            model.tie_word_embeddings ? ", tied head" : ""));
  line("parameters", fmt::format("{} in all, {} without embedding and head", parameters,
                                 non_embedding_parameters));
  line("quantizers", fmt::format("{}: weights {}, activations {}", quant.name,
                                 to_string(quant.weight), to_string(quant.activation)));
  line("training", fmt::format("{} of {} = {} ({:.2f} epochs of {}, {:.1f} per parameter)",
                               format_count(steps, "step"), quantity(tokens_per_step, "tokens"),
                               quantity(steps * tokens_per_step, "tokens"), epochs,
                               quantity(training_tokens, "tokens"),
                               static_cast<double>(steps * tokens_per_step) /
                                   static_cast<double>(non_embedding_parameters)));
  const auto bytes = [&](int64_t value) { return quantity(value, "B"); };
  line("memory",
       fmt::format("about {}{}weights {}, their copies {}, gradients {}, optimizer {}, saved for "
                   "backward {}, working {}{}",
                   bytes(memory.total_bytes()),
                   device == "cuda" ? fmt::format(" of the GPU's {}: ", bytes(device_bytes))
                                    : fmt::format(": program {}, ", bytes(memory.program_bytes)),
                   bytes(memory.weight_bytes), bytes(memory.copy_bytes),
                   bytes(memory.gradient_bytes), bytes(memory.optimizer_bytes),
                   bytes(memory.saved_bytes), bytes(memory.working_bytes),
                   memory.validation_bytes > 0
                       ? fmt::format(", validation {}", bytes(memory.validation_bytes))
                       : ""));
  if (is_too_large()) {
    line("",
         "that is more than it has: a smaller train.micro_batch_size or eval.batch_size, or "
         "train.recompute, needs less");
  }
  line("compute", fmt::format("{} per token, {} in all", quantity(flops_per_token, "FLOP"),
                              quantity(flops_per_token * static_cast<double>(steps) *
                                           static_cast<double>(tokens_per_step),
                                       "FLOP")));
  line("time", fmt::format("{} at 30 % of this machine's {}, never less than {}",
                           format_duration(seconds_at(0.3)), quantity(peak_flops, "FLOP/s"),
                           format_duration(seconds_at(1))));
  if (!diagnostics.empty()) line("diagnostics", diagnostics);
  return out;
}

}  // namespace quest::train
