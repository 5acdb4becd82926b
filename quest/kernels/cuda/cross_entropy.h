// Softmax cross-entropy of rows of logits on a GPU (kernels/cross_entropy.h).
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/kernels/cuda/stream.h"

namespace quest::kernels::cuda {

// logits (M,V), targets (M) int64 (-100: ignored, loss and gradient 0), losses (M) f32. If
// grad_scale (device memory, one float) is not null, logits become
// (softmax - onehot) * *grad_scale. A target outside [0,V) that is not -100 gives a NaN loss.
template <class T>
void cross_entropy(T* logits, const int64_t* targets, int64_t m, int64_t v, const float* grad_scale,
                   float* losses, Stream stream);

}  // namespace quest::kernels::cuda
