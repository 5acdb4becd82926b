// The definition of swiglu and of its gradient.
#include <cmath>

#include "quest/kernels/swiglu_levels.h"

namespace quest::kernels::detail {

namespace {

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

template <class T>
void forward(const T* gate_up, int64_t m, int64_t f, T* y) {
  for (int64_t row = 0; row < m; ++row, gate_up += 2 * f, y += f) {
    for (int64_t i = 0; i < f; ++i) {
      const float gate = static_cast<float>(gate_up[i]);
      const float up = static_cast<float>(gate_up[f + i]);
      y[i] = T(gate * sigmoid(gate) * up);
    }
  }
}

// silu'(g) = s * (1 + g * (1 - s)) with s = sigmoid(g).
template <class T>
void backward(const T* grad_y, const T* gate_up, int64_t m, int64_t f, T* grad_gate_up) {
  for (int64_t row = 0; row < m; ++row, grad_y += f, gate_up += 2 * f, grad_gate_up += 2 * f) {
    for (int64_t i = 0; i < f; ++i) {
      const float grad = static_cast<float>(grad_y[i]);
      const float gate = static_cast<float>(gate_up[i]);
      const float up = static_cast<float>(gate_up[f + i]);
      const float s = sigmoid(gate);
      grad_gate_up[i] = T(grad * up * (s * (1.0f + gate * (1.0f - s))));
      grad_gate_up[f + i] = T(grad * (gate * s));
    }
  }
}

}  // namespace

template <class T>
const SwigluLevel<T>& swiglu_scalar() {
  static constexpr SwigluLevel<T> kLevel{&forward<T>, &backward<T>};
  return kLevel;
}

template const SwigluLevel<float>& swiglu_scalar<float>();
template const SwigluLevel<bfloat16>& swiglu_scalar<bfloat16>();

}  // namespace quest::kernels::detail
