// Inside of swiglu: the functions of one level. Not for callers.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"

namespace quest::kernels::detail {

template <class T>
struct SwigluLevel {
  void (*forward)(const T* gate_up, int64_t m, int64_t f, T* y);
  void (*backward)(const T* grad_y, const T* gate_up, int64_t m, int64_t f, T* grad_gate_up);
};

template <class T>
const SwigluLevel<T>& swiglu_scalar();  // scalar/swiglu.cpp, the definition
template <class T>
const SwigluLevel<T>& swiglu_avx2();
template <class T>
const SwigluLevel<T>& swiglu_avx512();

}  // namespace quest::kernels::detail
