// SwiGLU: y = silu(gate) * up, silu(g) = g / (1 + exp(-g)) (Shazeer, arXiv 2002.05202).
//
// gate_up (M, 2F): gate in the first F columns, up in the last F. T is float or bfloat16;
// arithmetic is float. The definition is scalar/swiglu.cpp; vector levels agree with it within the
// bound of the test and give each other's bits. Single-threaded over the rows given; any number of
// calls may run at once.
//
//   swiglu(gate_up, m, f, y);
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/base/cpu_features.h"

namespace quest::kernels {

// gate_up (M,2F) -> y (M,F)
template <class T>
void swiglu(const T* gate_up, int64_t m, int64_t f, T* y, IsaLevel level = isa_level());

// grad_y (M,F), gate_up (M,2F) -> grad_gate_up (M,2F)
template <class T>
void swiglu_backward(const T* grad_y, const T* gate_up, int64_t m, int64_t f, T* grad_gate_up,
                     IsaLevel level = isa_level());

}  // namespace quest::kernels
