// The operations of kernels/swiglu.h on a GPU. Pointers are device memory, 16-byte aligned; T is
// float or bfloat16, arithmetic float, within the bound of the test of the scalar definition.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/kernels/cuda/stream.h"
#include "quest/quant/quant_spec.h"

namespace quest::kernels::cuda {

// gate_up (M,2F) -> y (M,F)
template <class T>
void swiglu(const T* gate_up, int64_t m, int64_t f, T* y, Stream stream);

// grad_y (M,F) is first taken through mask and inverse Hadamard transform as `spec` says (null: as
// it is) and rounded to T; then grad_gate_up (M,2F).
template <class T>
void swiglu_backward(const QuantSpec* spec, const uint8_t* mask, const T* grad_y, const T* gate_up,
                     int64_t m, int64_t f, T* grad_gate_up, Stream stream);

}  // namespace quest::kernels::cuda
