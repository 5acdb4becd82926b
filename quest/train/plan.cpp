#include "quest/train/plan.h"

#include <fmt/format.h>

#include "quest/base/progress.h"

namespace quest::train {
RunPlan make_plan(const TrainConfig& config, const LlamaConfig& model, const MemoryPlan& memory,
                  int64_t steps, int64_t training_tokens, double peak_flops) {
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
  plan.memory = memory;
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
       fmt::format("about {}: program {}, weights {}, their copies {}, gradients {}, optimizer {}, "
                   "saved for backward {}, working {}",
                   bytes(memory.total_bytes()), bytes(memory.program_bytes),
                   bytes(memory.weight_bytes), bytes(memory.copy_bytes),
                   bytes(memory.gradient_bytes), bytes(memory.optimizer_bytes),
                   bytes(memory.saved_bytes), bytes(memory.working_bytes)));
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
