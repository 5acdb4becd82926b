// Training steps on a GPU that the host only sets going: forward, backward, norm, clipping and
// update as CUDA graphs that are recorded at the first step, inputs from pinned memory.
//
//   GpuStep step(model, optimizer, config, /*micro_batches=*/2);
//   step.micro_batch(batch, weight);              // the batch's share of the step's mean loss
//   step.micro_batch(batch2, weight2);
//   step.finish(lr);                              // norm of the gradient, whether it is finite
//   step.apply();                                 // the update; nothing if it is not
//   GpuStep::Result r = step.take();              // of the oldest step; the only place that waits
//
// take() may come before apply() (to judge the step first) or steps later. A step whose loss or
// norm is not finite changes nothing, on the device's own account. With settings.cuda_graphs off,
// or an optimizer without such an update (can_enqueue), the same operations are started one by one.
// Thread rules: one thread. Errors: kEnvironment for CUDA's (out of memory: with what to do).
#pragma once

#include <memory>

#include "quest/data/data_loader.h"
#include "quest/nn/llama_model.h"
#include "quest/train/optimizer.h"
#include "quest/train/train_config.h"

namespace quest::train {

class GpuStep {
 public:
  struct Result {
    double loss = 0;
    double gradient_norm = 0;
  };

  GpuStep(nn::LlamaModel& model, Optimizer& optimizer, const TrainConfig& config,
          int64_t micro_batches);
  ~GpuStep();
  GpuStep(const GpuStep&) = delete;
  GpuStep& operator=(const GpuStep&) = delete;

  void micro_batch(const Batch& batch, double weight);
  void finish(double lr);
  void apply();
  Result take();
  int64_t untaken() const;  // steps finished whose result was not taken

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

// Before the first use of the GPU: a stream of our own for all that follows (graphs cannot be
// recorded on the default stream), and what `deterministic` asks of LibTorch.
void prepare_gpu(bool deterministic);

// The most memory that tensors ever held at once, in bytes. What replayed graphs use was counted
// when they were recorded.
int64_t gpu_peak_bytes();
// The most memory of the device that LibTorch's allocator ever held, in bytes: also what graphs
// keep between their replays, beside which a validation takes its own, and gaps.
int64_t gpu_peak_reserved_bytes();

// BF16 or FP32 FLOP/s of a large matrix product, measured (20 ms).
double measure_gpu_flops(bool bf16);

}  // namespace quest::train
