// The optimizer step on a GPU, without the host waiting: norm of the gradient, clipping, the
// decision to skip a step that is not finite, and AdamW (Loshchilov and Hutter, arXiv 1711.05101).
//
// What a step's kernels tell each other and the host is a device array of floats, `control`:
//
//   gradient_squares(gradients, count, partials, stream);
//   begin_step(partials, count * kSquareBlocks, 1.0f, 0.9, 0.95, control, stream);
//   adamw(tensors, count, {...}, control, stream);
//
// All tensors of a model are one launch, or one for every 76 (AdamW) or 199 (squares) of them:
// their addresses are parameters of the launch (tensor_table.h), which a CUDA graph keeps. The
// lists themselves are host memory, read before the call returns.
//
// Sums have a fixed order, whatever shares a launch: each tensor is dealt out to kSquareBlocks
// parts of 256 threads by groups of 4 values; a thread adds the squares of two groups in FP32 and
// such sums in FP64; then the threads of a part in a tree; then begin_step all parts, those of the
// first tensor first, part i to thread i % 256, and these in the same tree.
//
// Pointers are device memory of floats; those that are not 16-byte aligned take slower reads, with
// the same result. Asynchronous in `stream`.
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

struct GradientValues {
  const float* g;
  int64_t n;
};

// partials (count, kSquareBlocks) f64: sums of squares of parts of each gradient; 0 for those
// without values.
void gradient_squares(const GradientValues* gradients, int64_t count, double* partials,
                      Stream stream);

// count partials -> control. max_norm 0: no clipping; else the factor is that of PyTorch's
// clip_grad_norm_: max_norm / (norm + 1e-6) where that is below 1.
void begin_step(const double* partials, int64_t count, double max_norm, double beta1, double beta2,
                float* control, Stream stream);

struct AdamWSettings {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
};

struct AdamWTensor {
  float* w;
  const float* g;
  float *m, *v;
  int64_t n;
  float weight_decay;
};

// w, m, v (n) f32 of each tensor in place from its gradient g (n), which stays as it is. No two
// tensors may overlap.
void adamw(const AdamWTensor* tensors, int64_t count, const AdamWSettings& settings,
           const float* control, Stream stream);

}  // namespace quest::kernels::cuda
