// Softmax cross-entropy of rows of logits, with the gradient written over the logits.
//
// logits (M,V), T float or bfloat16; targets (M) int64, -100 is ignored (loss 0, gradient 0).
// loss[m] = log(sum_v exp(l[m][v])) - l[m][target]; arithmetic float, relative to the row's largest
// logit, so that nothing overflows. Logits may be -inf (not all of a row); NaN or +inf give a NaN
// loss. The definition is scalar/cross_entropy.cpp (the sum in double); vector levels agree with it
// within the bound of the test and give each other's bits. Single-threaded over the rows given; any
// number of calls may run at once.
//
//   cross_entropy(logits, targets, m, v, 1.0f / m, losses);
//   // logits now hold the gradient of the mean loss
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/base/cpu_features.h"

namespace quest::kernels {

inline constexpr int64_t kIgnoreTarget = -100;

// losses (M) f32. If grad_scale != 0, logits become (softmax - onehot) * grad_scale in place.
// Targets are trusted to be in [0, V) or -100: the caller checks.
template <class T>
void cross_entropy(T* logits, const int64_t* targets, int64_t m, int64_t v, float grad_scale,
                   float* losses, IsaLevel level = isa_level());

}  // namespace quest::kernels
