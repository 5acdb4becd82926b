// What a run will take, before it starts: `quest train --dry-run`.
#pragma once

#include <cstdint>
#include <string>

#include "quest/model/llama_config.h"
#include "quest/train/memory_plan.h"
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
  MemoryPlan memory;
  double seconds_at(double utilization) const;

  // The lines that --dry-run prints.
  std::string text() const;
};

RunPlan make_plan(const TrainConfig& config, const LlamaConfig& model, const MemoryPlan& memory,
                  int64_t steps, int64_t training_tokens, double peak_flops);

}  // namespace quest::train
