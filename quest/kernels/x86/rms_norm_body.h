// rms_norm over 16 lanes L (lanes_avx2.h, lanes_avx512.h), one row at a time: one pass for the sum,
// one for the result, the second from the first-level cache.
#pragma once

#include "quest/kernels/rms_norm_levels.h"

namespace quest::kernels::detail {

// y (C) = x * factor * weight.
template <class L, class T>
void scale_lanes(const T* x, const float* weight, int64_t c, float factor, T* y) {
  using F = typename L::F;
  const F scale = L::set1(factor);
  int64_t i = 0;
  for (; i + L::kWidth <= c; i += L::kWidth) {
    L::store(y + i, L::mul(L::mul(L::load(x + i), scale), L::load(weight + i)));
  }
  if (i < c) {
    const int rest = static_cast<int>(c - i);
    const F a = L::mul(L::load_partial(x + i, rest), scale);
    L::store_partial(y + i, L::mul(a, L::load_partial(weight + i, rest)), rest);
  }
}

template <class L, class T>
void rms_norm_lanes(const T* x, const float* weight, int64_t m, int64_t c, float eps, T* y,
                    float* inverse_rms) {
  using F = typename L::F;
  const int64_t whole = c / L::kWidth * L::kWidth;
  const int tail = static_cast<int>(c - whole);
  for (int64_t row = 0; row < m; ++row, x += c, y += c) {
    F s0 = L::zero(), s1 = L::zero();
    int64_t i = 0;
    for (; i + 2 * L::kWidth <= whole; i += 2 * L::kWidth) {
      const F a = L::load(x + i), b = L::load(x + i + L::kWidth);
      s0 = L::fma(a, a, s0);
      s1 = L::fma(b, b, s1);
    }
    for (; i < whole; i += L::kWidth) {
      const F a = L::load(x + i);
      s0 = L::fma(a, a, s0);
    }
    if (tail != 0) {
      const F a = L::load_partial(x + whole, tail);
      s1 = L::fma(a, a, s1);
    }
    const float mean = L::sum(L::add(s0, s1)) / static_cast<float>(c);
    const float inverse = 1.0f / __builtin_sqrtf(mean + eps);
    scale_lanes<L>(x, weight, c, inverse, y);
    if (inverse_rms != nullptr) inverse_rms[row] = inverse;
  }
}

// One group of lanes of the gradient; see scalar/rms_norm.cpp for the formula.
template <class L>
struct RmsNormGradient {
  using F = typename L::F;
  F inverse, minus_mean;

  struct Result {
    F grad_x, grad_weight;
  };
  inline __attribute__((always_inline)) Result operator()(F grad, F x, F weight,
                                                          F old_grad_weight) const {
    const F xhat = L::mul(x, inverse);
    const F inner = L::fma(xhat, minus_mean, L::mul(grad, weight));
    return {L::mul(inverse, inner), L::fma(grad, xhat, old_grad_weight)};
  }
};

template <class L, class T>
void rms_norm_backward_lanes(const T* grad_y, const T* x, const float* weight,
                             const float* inverse_rms, const T* residual_grad, int64_t m, int64_t c,
                             T* grad_x, float* grad_weight) {
  using F = typename L::F;
  const int64_t whole = c / L::kWidth * L::kWidth;
  const int tail = static_cast<int>(c - whole);
  for (int64_t row = 0; row < m; ++row, grad_y += c, x += c, grad_x += c) {
    F dot = L::zero();
    for (int64_t i = 0; i < whole; i += L::kWidth) {
      dot = L::fma(L::mul(L::load(grad_y + i), L::load(weight + i)), L::load(x + i), dot);
    }
    if (tail != 0) {
      const F g =
          L::mul(L::load_partial(grad_y + whole, tail), L::load_partial(weight + whole, tail));
      dot = L::fma(g, L::load_partial(x + whole, tail), dot);
    }
    const float inverse = inverse_rms[row];
    const float mean = L::sum(dot) / static_cast<float>(c) * inverse;
    const RmsNormGradient<L> gradient{L::set1(inverse), L::set1(-mean)};
    const T* residual = residual_grad == nullptr ? nullptr : residual_grad + row * c;
    for (int64_t i = 0; i < whole; i += L::kWidth) {
      const auto g = gradient(L::load(grad_y + i), L::load(x + i), L::load(weight + i),
                              L::load(grad_weight + i));
      L::store(grad_weight + i, g.grad_weight);
      L::store(grad_x + i,
               residual == nullptr ? g.grad_x : L::add(g.grad_x, L::load(residual + i)));
    }
    if (tail != 0) {
      const auto g = gradient(
          L::load_partial(grad_y + whole, tail), L::load_partial(x + whole, tail),
          L::load_partial(weight + whole, tail), L::load_partial(grad_weight + whole, tail));
      L::store_partial(grad_weight + whole, g.grad_weight, tail);
      const F sum = residual == nullptr ? g.grad_x
                                        : L::add(g.grad_x, L::load_partial(residual + whole, tail));
      L::store_partial(grad_x + whole, sum, tail);
    }
  }
}

}  // namespace quest::kernels::detail
