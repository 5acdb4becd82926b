// The definition of rms_norm and of its gradient. Sums over a row are held in double, so that
// vector versions are measured against the true value.
#include <cmath>

#include "quest/kernels/rms_norm_levels.h"

namespace quest::kernels::detail {

namespace {

template <class T>
void forward(const T* x, const float* weight, int64_t m, int64_t c, float eps, T* y,
             float* inverse_rms) {
  for (int64_t row = 0; row < m; ++row, x += c, y += c) {
    double squares = 0;
    for (int64_t i = 0; i < c; ++i) {
      const double value = static_cast<float>(x[i]);
      squares += value * value;
    }
    const float mean = static_cast<float>(squares / static_cast<double>(c));
    const float inverse = 1.0f / std::sqrt(mean + eps);
    for (int64_t i = 0; i < c; ++i) y[i] = T(static_cast<float>(x[i]) * inverse * weight[i]);
    if (inverse_rms != nullptr) inverse_rms[row] = inverse;
  }
}

// With xhat = x * inverse and g = grad_y * weight:
//   grad_x = inverse * (g - xhat * mean(g * xhat)),  grad_weight += grad_y * xhat.
template <class T>
void backward(const T* grad_y, const T* x, const float* weight, const float* inverse_rms,
              const T* residual_grad, int64_t m, int64_t c, T* grad_x, float* grad_weight) {
  for (int64_t row = 0; row < m; ++row, grad_y += c, x += c, grad_x += c) {
    const float inverse = inverse_rms[row];
    double dot = 0;
    for (int64_t i = 0; i < c; ++i) {
      dot +=
          static_cast<double>(static_cast<float>(grad_y[i]) * weight[i]) * static_cast<float>(x[i]);
    }
    const float mean = static_cast<float>(dot / static_cast<double>(c)) * inverse;
    for (int64_t i = 0; i < c; ++i) {
      const float grad = static_cast<float>(grad_y[i]);
      const float xhat = static_cast<float>(x[i]) * inverse;
      float result = inverse * (grad * weight[i] - xhat * mean);
      if (residual_grad != nullptr) result += static_cast<float>(residual_grad[row * c + i]);
      grad_weight[i] += grad * xhat;
      grad_x[i] = T(result);
    }
  }
}

}  // namespace

template <class T>
const RmsNormLevel<T>& rms_norm_scalar() {
  static constexpr RmsNormLevel<T> kLevel{&forward<T>, &backward<T>};
  return kLevel;
}

template const RmsNormLevel<float>& rms_norm_scalar<float>();
template const RmsNormLevel<bfloat16>& rms_norm_scalar<bfloat16>();

}  // namespace quest::kernels::detail
