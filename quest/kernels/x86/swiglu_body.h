// swiglu over 16 lanes L (lanes_avx2.h, lanes_avx512.h).
#pragma once

#include "quest/kernels/swiglu_levels.h"
#include "quest/kernels/x86/exp.h"

namespace quest::kernels::detail {

template <class L>
inline __attribute__((always_inline)) typename L::F sigmoid_lanes(typename L::F x) {
  const typename L::F one = L::set1(1.0f);
  return L::div(one, L::add(one, exp_lanes<L>(L::sub(L::zero(), x))));
}

template <class L, class T>
void swiglu_lanes(const T* gate_up, int64_t m, int64_t f, T* y) {
  using F = typename L::F;
  const auto one_group = [](F gate, F up) __attribute__((always_inline)) {
    return L::mul(L::mul(gate, sigmoid_lanes<L>(gate)), up);
  };
  const int64_t whole = f / L::kWidth * L::kWidth;
  const int tail = static_cast<int>(f - whole);
  for (int64_t row = 0; row < m; ++row, gate_up += 2 * f, y += f) {
    const T* up = gate_up + f;
    for (int64_t i = 0; i < whole; i += L::kWidth) {
      L::store(y + i, one_group(L::load(gate_up + i), L::load(up + i)));
    }
    if (tail != 0) {
      const F result =
          one_group(L::load_partial(gate_up + whole, tail), L::load_partial(up + whole, tail));
      L::store_partial(y + whole, result, tail);
    }
  }
}

template <class L, class T>
void swiglu_backward_lanes(const T* grad_y, const T* gate_up, int64_t m, int64_t f,
                           T* grad_gate_up) {
  using F = typename L::F;
  struct Grads {
    F gate, up;
  };
  const auto one_group = [](F grad, F gate, F up) __attribute__((always_inline)) {
    const F one = L::set1(1.0f);
    const F s = sigmoid_lanes<L>(gate);
    const F slope = L::mul(s, L::fma(gate, L::sub(one, s), one));
    return Grads{L::mul(L::mul(grad, up), slope), L::mul(grad, L::mul(gate, s))};
  };
  const int64_t whole = f / L::kWidth * L::kWidth;
  const int tail = static_cast<int>(f - whole);
  for (int64_t row = 0; row < m; ++row, grad_y += f, gate_up += 2 * f, grad_gate_up += 2 * f) {
    for (int64_t i = 0; i < whole; i += L::kWidth) {
      const Grads g =
          one_group(L::load(grad_y + i), L::load(gate_up + i), L::load(gate_up + f + i));
      L::store(grad_gate_up + i, g.gate);
      L::store(grad_gate_up + f + i, g.up);
    }
    if (tail != 0) {
      const Grads g =
          one_group(L::load_partial(grad_y + whole, tail), L::load_partial(gate_up + whole, tail),
                    L::load_partial(gate_up + f + whole, tail));
      L::store_partial(grad_gate_up + whole, g.gate, tail);
      L::store_partial(grad_gate_up + f + whole, g.up, tail);
    }
  }
}

}  // namespace quest::kernels::detail
