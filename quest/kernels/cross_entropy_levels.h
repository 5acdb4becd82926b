// Inside of cross_entropy: the function of one level. Not for callers.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"

namespace quest::kernels::detail {

template <class T>
struct CrossEntropyLevel {
  void (*loss_and_gradient)(T* logits, const int64_t* targets, int64_t m, int64_t v,
                            float grad_scale, float* losses);
};

template <class T>
const CrossEntropyLevel<T>& cross_entropy_scalar();  // scalar/cross_entropy.cpp, the definition
template <class T>
const CrossEntropyLevel<T>& cross_entropy_avx2();
template <class T>
const CrossEntropyLevel<T>& cross_entropy_avx512();

}  // namespace quest::kernels::detail
