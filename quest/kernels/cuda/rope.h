// Rotary embedding on a GPU (kernels/rope.h: half-split layout, cos and sin (positions, D/2) f32).
// Bits of the scalar definition. Asynchronous in `stream`.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/kernels/cuda/stream.h"

namespace quest::kernels::cuda {

// In place on the first `heads` heads of x (rows, row_stride); row r has position
// start + r % tokens.
template <class T>
void rope(T* x, int64_t rows, int64_t row_stride, int64_t heads, int64_t head_dim, int64_t tokens,
          int64_t start, const float* cos, const float* sin, Stream stream);

// The gradient of a fused qkv matrix from those of rotated q (rows, H, D), k and v (rows, G, D),
// all dense: grad_qkv (rows, (H + 2G) D), q and k rotated back.
template <class T>
void rope_backward_qkv(const T* grad_q, const T* grad_k, const T* grad_v, int64_t rows,
                       int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t tokens,
                       const float* cos, const float* sin, T* grad_qkv, Stream stream);

}  // namespace quest::kernels::cuda
