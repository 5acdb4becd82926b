// Rotary position embedding (Su et al., arXiv 2104.09864), half-split (Hugging Face) layout:
// element i of the first half pairs with element i of the second half of a head.
//
// x is (rows, heads, D) with a row stride in elements (so that it can rotate q and k inside a fused
// qkv matrix in place). cos, sin are (positions, D/2) f32; row r has position positions[r].
// T is float or bfloat16; arithmetic is float. All levels give the bits of the definition,
// scalar/rope.cpp. head_dim is even. Single-threaded over the rows given.
//
//   rope(qkv, rows, 3 * c, heads, d, cos, sin, positions, +1);      // q
//   rope(qkv + c, rows, 3 * c, heads, d, cos, sin, positions, +1);  // k
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/base/cpu_features.h"

namespace quest::kernels {

// In place. direction +1: forward; -1: the inverse rotation (backward pass).
template <class T>
void rope(T* x, int64_t rows, int64_t row_stride, int64_t heads, int64_t head_dim, const float* cos,
          const float* sin, const int32_t* positions, int direction, IsaLevel level = isa_level());

}  // namespace quest::kernels
