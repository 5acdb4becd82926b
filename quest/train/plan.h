// What a run will take, and which code will run, before it starts: `quest train --dry-run` and
// `--print-plans`.
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
  std::string device;          // where it is trained, and whose memory is planned
  MemoryPlan memory;
  int64_t device_bytes = 0;  // memory of the GPU that is trained on; 0: a CPU
  std::string diagnostics;   // diagnostics_plan()
  std::string code;          // code_plan_text()
  double seconds_at(double utilization) const;

  // Whether a GPU's memory is not enough.
  bool is_too_large() const { return device_bytes > 0 && memory.total_bytes() > device_bytes; }

  // The lines that --dry-run prints.
  std::string text() const;
};

RunPlan make_plan(const TrainConfig& config, const LlamaConfig& model, const MemoryPlan& memory,
                  int64_t steps, int64_t training_tokens, double peak_flops,
                  int64_t device_bytes = 0);

// The lines that --print-plans prints: for each shape of layer its product and how its input is
// made; attention; the optimizer's path. Of the device that the configuration names, which must be
// ready (gpu_step.h: prepare_gpu): what a GPU cannot do, or none that is there, shows as the way
// that is taken instead.
std::string code_plan_text(const TrainConfig& config, const LlamaConfig& model);

}  // namespace quest::train
