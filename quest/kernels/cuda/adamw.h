// The optimizer step on a GPU, without the host waiting: norm of the gradient, clipping, the
// decision to skip a step that is not finite, and AdamW (Loshchilov and Hutter, arXiv 1711.05101).
//
// What a step's kernels tell each other and the host is a device array of floats, `control`:
//
//   gradient_squares(g, n, partials + i * kSquareBlocks, stream);       // for each tensor
//   begin_step(partials, tensors * kSquareBlocks, 1.0f, 0.9, 0.95, control, stream);
//   adamw(w, g, m, v, n, {...}, control, stream);                       // for each tensor
//
// Sums have a fixed order. Pointers are device memory, 16-byte aligned. Asynchronous in `stream`.
#pragma once

#include <cstdint>

#include "quest/kernels/cuda/stream.h"

namespace quest::kernels::cuda {

// Slots of control.
enum StepControl : int {
  kLearningRate = 0,  // written by the host before the step
  kLoss = 1,          // of the step; written before begin_step
  kGradientNorm = 2,  // before clipping; written by begin_step, as are the following
  kSkipped = 3,       // 1: loss or norm is not finite, nothing is updated
  kClipFactor = 4,    // gradients are multiplied by it
  kUpdates = 5,       // updates done so far, exact up to 2^24; begin_step counts this one
  kStepSize = 6,      // learning rate / (1 - beta1^t)
  kRootBias2 = 7,     // sqrt(1 - beta2^t)
  kStepControls = 8,
};

inline constexpr int64_t kSquareBlocks = 256;

// partials (kSquareBlocks) f64: sums of squares of parts of g (n).
void gradient_squares(const float* g, int64_t n, double* partials, Stream stream);

// count partials -> control. max_norm 0: no clipping; else the factor is that of PyTorch's
// clip_grad_norm_: max_norm / (norm + 1e-6) where that is below 1.
void begin_step(const double* partials, int64_t count, double max_norm, double beta1, double beta2,
                float* control, Stream stream);

struct AdamWSettings {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0;
};

// w, m, v (n) f32 in place from the gradient g (n), which stays as it is.
void adamw(float* w, const float* g, float* m, float* v, int64_t n, const AdamWSettings& settings,
           const float* control, Stream stream);

}  // namespace quest::kernels::cuda
