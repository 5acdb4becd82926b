#include "quest/train/plan.h"

#include <fmt/format.h>

#include "quest/base/progress.h"

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

// Bytes of one value kept for the backward of a quantized product, or in the compute type.
double saved_bytes(const QuantSpec& spec, double compute_bytes) {
  return spec.is_quantized() ? 1.0 + 1.0 / 8 : compute_bytes;  // code and mask bit
}

int64_t activation_estimate(const LlamaConfig& m, const TrainConfig& config, int64_t rows) {
  const std::string& type = config.train.compute_type;
  const double c = type == "bf16" ? 2 : type == "fp64" ? 8 : 4;
  const double code = saved_bytes(config.quant.activation, c);
  const auto width = static_cast<double>(m.hidden_size);
  const auto q = static_cast<double>(m.q_size());
  const auto qkv = static_cast<double>(m.q_size() + 2 * m.kv_size());
  const auto f = static_cast<double>(m.intermediate_size);
  // Per token and block: two norm inputs, qkv, attention's output, gate and up; the inputs of the
  // four products; per token: the gradient and the input of the widest product.
  const double block = 2 * width * c + (qkv + q + 2 * f) * c + (2 * width + q + f) * code;
  const double working = 6 * f * c;
  const auto tokens = static_cast<double>(rows * config.train.sequence_length);
  return static_cast<int64_t>(tokens * (static_cast<double>(m.num_layers) * block + working));
}

}  // namespace

RunPlan make_plan(const TrainConfig& config, const LlamaConfig& model, int64_t steps,
                  int64_t training_tokens, int64_t rows, double peak_flops) {
  RunPlan plan;
  plan.run_folder = config.run.folder + "/" + run_folder_name(config);
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
  const int64_t size = config.train.compute_type == "fp64" ? 8 : 4;
  plan.weight_bytes = plan.parameters * size;
  plan.gradient_bytes = plan.parameters * size;
  plan.optimizer_bytes = plan.parameters * size * state_copies(config);
  plan.activation_bytes = activation_estimate(model, config, rows);
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
  line("training",
       fmt::format("{} steps of {} = {} ({:.2f} epochs of {}, {:.1f} per parameter)", steps,
                   quantity(tokens_per_step, "tokens"), quantity(steps * tokens_per_step, "tokens"),
                   epochs, quantity(training_tokens, "tokens"),
                   static_cast<double>(steps * tokens_per_step) /
                       static_cast<double>(non_embedding_parameters)));
  line("memory", fmt::format("about {}: weights {}, gradients {}, optimizer {}, activations {}",
                             quantity(total_bytes(), "B"), quantity(weight_bytes, "B"),
                             quantity(gradient_bytes, "B"), quantity(optimizer_bytes, "B"),
                             quantity(activation_bytes, "B")));
  line("compute", fmt::format("{} per token, {} in all", quantity(flops_per_token, "FLOP"),
                              quantity(flops_per_token * static_cast<double>(steps) *
                                           static_cast<double>(tokens_per_step),
                                       "FLOP")));
  line("time", fmt::format("{} at 30 % of this machine's {}, never less than {}",
                           format_duration(seconds_at(0.3)), quantity(peak_flops, "FLOP/s"),
                           format_duration(seconds_at(1))));
  return out;
}

}  // namespace quest::train
