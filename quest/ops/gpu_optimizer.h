// The optimizer step on GPU tensors without the host waiting (kernels/cuda/adamw.h): all tensors in
// a launch or a few. Their addresses go into these launches, so a CUDA graph that records them
// holds as long as the tensors stay where they are.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace quest::ops {

// Slots of the control tensor; the same as kernels::cuda::StepControl.
struct StepControl {
  static constexpr int64_t kLearningRate = 0, kLoss = 1, kGradientNorm = 2, kSkipped = 3,
                           kUpdates = 5, kSize = 8;
};

// (StepControl::kSize) f32 zeros on the GPU.
at::Tensor make_step_control();

// From the gradients (any shapes, FP32, on the GPU): norm, whether to skip, clipping factor and
// AdamW's step size into control, whose learning rate, loss and number of updates are set.
void begin_step(const std::vector<at::Tensor>& gradients, double clip_norm, double beta1,
                double beta2, const at::Tensor& control);

struct AdamWStep {
  double beta1, beta2, eps;
};
struct AdamWTensors {
  at::Tensor weight, gradient, first, second;  // of one size, FP32, contiguous, on the GPU
  double weight_decay;
};
// After begin_step: weights, first and second moments in place, unless the step is skipped.
void adamw_step(const std::vector<AdamWTensors>& parameters, const AdamWStep& settings,
                const at::Tensor& control);

}  // namespace quest::ops
