// The definition of cross_entropy. The sum over a row is held in double, so that vector versions
// are measured against the true value.
#include "quest/kernels/cross_entropy.h"

#include <cmath>
#include <limits>

#include "quest/kernels/cross_entropy_levels.h"

namespace quest::kernels::detail {

namespace {

template <class T>
void loss_and_gradient(T* logits, const int64_t* targets, int64_t m, int64_t v, float grad_scale,
                       float* losses) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (int64_t row = 0; row < m; ++row, logits += v) {
    const int64_t target = targets[row];
    if (target == kIgnoreTarget) {
      losses[row] = 0.0f;
      for (int64_t i = 0; grad_scale != 0.0f && i < v; ++i) logits[i] = T(0.0f);
      continue;
    }
    float maximum = -kInfinity;
    for (int64_t i = 0; i < v; ++i) {
      const float logit = static_cast<float>(logits[i]);
      if (logit > maximum) maximum = logit;
    }
    double sum = 0;
    for (int64_t i = 0; i < v; ++i) sum += std::exp(static_cast<float>(logits[i]) - maximum);
    losses[row] =
        static_cast<float>(std::log(sum)) + (maximum - static_cast<float>(logits[target]));
    if (grad_scale == 0.0f) continue;
    const float inverse_sum = static_cast<float>(1.0 / sum);
    for (int64_t i = 0; i < v; ++i) {
      const float softmax = std::exp(static_cast<float>(logits[i]) - maximum) * inverse_sum;
      logits[i] = T((softmax - (i == target ? 1.0f : 0.0f)) * grad_scale);
    }
  }
}

}  // namespace

template <class T>
const CrossEntropyLevel<T>& cross_entropy_scalar() {
  static constexpr CrossEntropyLevel<T> kLevel{&loss_and_gradient<T>};
  return kLevel;
}

template const CrossEntropyLevel<float>& cross_entropy_scalar<float>();
template const CrossEntropyLevel<bfloat16>& cross_entropy_scalar<bfloat16>();

}  // namespace quest::kernels::detail
