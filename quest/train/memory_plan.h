// How much memory a training run takes, before it starts.
//
// An estimate of the process's own memory while training (anonymous_bytes), within 25 % of what was
// measured for models of 3.6M to 72M parameters in FP32 and BF16. FP64, whose operations save more,
// is underestimated.
//
// With train.device cuda: of the GPU's memory, counted from the operations: what tensors hold in a
// step (gpu_step.h: gpu_peak_bytes), and what a validation needs beside it. Not in it: what CUDA
// and its libraries take for themselves, the gaps that the allocator leaves, and diagnostics. FP32,
// whose attention is made of plain operations, is underestimated.
//
//   MemoryPlan plan = make_memory_plan(config, model, rows, anonymous_bytes(), validation_rows);
//   plan.total_bytes();
#pragma once

#include <cstdint>

#include "quest/model/llama_config.h"
#include "quest/train/train_config.h"

namespace quest::train {

struct MemoryPlan {
  int64_t program_bytes = 0;    // the process before the model: state of libraries; GPU: 0
  int64_t weight_bytes = 0;     // FP32 masters
  int64_t copy_bytes = 0;       // of the weights: codes, masks, tiles, or in the compute type; on a
                                // GPU no tiles, and values of the compute type beside the codes
  int64_t gradient_bytes = 0;   // FP32
  int64_t optimizer_bytes = 0;  // its state, and averages of the weights
  int64_t saved_bytes = 0;      // what all blocks keep for the backward pass
  int64_t working_bytes = 0;    // freed within a step: a chunk of logits, gradients on their way
  // GPU: what a validation needs beyond that. CUDA graphs keep the memory of a step for themselves,
  // so all of it; else what is more than a step has freed. CPU: 0.
  int64_t validation_bytes = 0;
  int64_t total_bytes() const {
    return program_bytes + weight_bytes + copy_bytes + gradient_bytes + optimizer_bytes +
           saved_bytes + working_bytes + validation_bytes;
  }
};

// rows: sequences of one forward pass; validation_rows: of a validation's, 0 where there is none.
// program_bytes: anonymous_bytes() before the model was made.
MemoryPlan make_memory_plan(const TrainConfig& config, const LlamaConfig& model, int64_t rows,
                            int64_t program_bytes, int64_t validation_rows = 0);

// Memory that this process alone takes now: tensors, heap, stacks. Pages of mapped files (token
// files, code of libraries) are left out, since the system drops them when memory is short and
// reads them again. 0 where the system does not say (RssAnon in /proc/self/status).
int64_t anonymous_bytes();

}  // namespace quest::train
