// Inside of rope: the function of one level. Not for callers.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"

namespace quest::kernels::detail {

template <class T>
struct RopeLevel {
  void (*rotate)(T* x, int64_t rows, int64_t row_stride, int64_t heads, int64_t head_dim,
                 const float* cos, const float* sin, const int32_t* positions, int direction);
};

template <class T>
const RopeLevel<T>& rope_scalar();  // scalar/rope.cpp, the definition
template <class T>
const RopeLevel<T>& rope_avx2();
template <class T>
const RopeLevel<T>& rope_avx512();

}  // namespace quest::kernels::detail
