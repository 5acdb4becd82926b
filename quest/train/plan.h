// What a run will take, before it starts: `quest train --dry-run`.
#pragma once

#include <cstdint>
#include <string>

#include "quest/model/llama_config.h"
#include "quest/nn/compute_type.h"
#include "quest/train/train_config.h"

namespace quest::train {

struct RunPlan {
  std::string run_folder;
  LlamaConfig model;
  QuantRecipe quant;
  int64_t parameters = 0;
  int64_t non_embedding_parameters = 0;
  int64_t steps = 0;
  int64_t tokens_per_step = 0;
  int64_t training_tokens = 0;  // in the token files
  double epochs = 0;
  double flops_per_token = 0;  // forward and backward
  double peak_flops = 0;       // per second, of this machine
  // Bytes. Activations are an estimate: what the blocks keep for backward.
  int64_t weight_bytes = 0, gradient_bytes = 0, optimizer_bytes = 0, activation_bytes = 0;
  int64_t total_bytes() const {
    return weight_bytes + gradient_bytes + optimizer_bytes + activation_bytes;
  }
  double seconds_at(double utilization) const;

  // The lines that --dry-run prints.
  std::string text() const;
};

// rows: sequences of one forward pass.
RunPlan make_plan(const TrainConfig& config, const LlamaConfig& model, int64_t steps,
                  int64_t training_tokens, int64_t rows, double peak_flops);

}  // namespace quest::train
