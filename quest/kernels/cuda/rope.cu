// rope.h: one thread rotates the pairs (i, i + D/2) of 8 (or, for odd sizes, 1) consecutive i.
#include "quest/kernels/cuda/device.cuh"
#include "quest/kernels/cuda/rope.h"

namespace quest::kernels::cuda {
namespace {

// (first, second) -> (first c - second s, second c + first s); the inverse has -s.
template <int kWide, class D>
__device__ void load_n(const D* p, float (&v)[kLane]) {
  if constexpr (kWide == kLane) {
    load8(p, v);
  } else {
    v[0] = to_float(*p);
  }
}
template <int kWide, class D>
__device__ void store_n(D* p, const float (&v)[kLane]) {
  if constexpr (kWide == kLane) {
    store8(p, v);
  } else {
    *p = from_float<D>(v[0]);
  }
}

template <int kWide, class D>
__device__ void rotate(const D* from, D* to, const float* cos, const float* sin, int64_t half,
                       float sign) {
  float first[kLane], second[kLane], c[kLane], s[kLane];
  load_n<kWide>(from, first);
  load_n<kWide>(from + half, second);
  load_n<kWide>(cos, c);
  load_n<kWide>(sin, s);
#pragma unroll
  for (int i = 0; i < kWide; ++i) {
    const float a = first[i], b = second[i], sine = sign * s[i];
    first[i] = a * c[i] - b * sine;
    second[i] = b * c[i] + a * sine;
  }
  store_n<kWide>(to, first);
  store_n<kWide>(to + half, second);
}

template <int kWide, class D>
__global__ void rotate_rows(D* x, int64_t rows, int64_t row_stride, int64_t heads, int64_t half,
                            int64_t tokens, int64_t start, const float* cos, const float* sin) {
  const uint32_t per_head = static_cast<uint32_t>(half / kWide);
  uint32_t index = blockIdx.x * static_cast<uint32_t>(kFlatThreads) + threadIdx.x;
  if (index >= rows * heads * per_head) return;
  const int64_t i = index % per_head * kWide;
  index /= per_head;
  const uint32_t head = index % static_cast<uint32_t>(heads);
  const int64_t row = index / static_cast<uint32_t>(heads);
  const int64_t position = start + static_cast<uint32_t>(row) % static_cast<uint32_t>(tokens);
  D* p = x + row * row_stride + head * 2 * half + i;
  rotate<kWide>(p, p, cos + position * half + i, sin + position * half + i, half, 1.0f);
}

template <int kWide, class D>
__global__ void gather_rotated_back(const D* grad_q, const D* grad_k, const D* grad_v, int64_t rows,
                                    int64_t heads, int64_t kv_heads, int64_t half, int64_t tokens,
                                    const float* cos, const float* sin, D* grad_qkv) {
  const uint32_t per_head = static_cast<uint32_t>(half / kWide);
  const uint32_t all = static_cast<uint32_t>(heads + 2 * kv_heads);
  uint32_t index = blockIdx.x * static_cast<uint32_t>(kFlatThreads) + threadIdx.x;
  if (index >= rows * all * per_head) return;
  const int64_t i = index % per_head * kWide;
  index /= per_head;
  const int64_t head = index % all, row = index / all;
  const D* from;
  if (head < heads) {
    from = grad_q + (row * heads + head) * 2 * half + i;
  } else if (head < heads + kv_heads) {
    from = grad_k + (row * kv_heads + head - heads) * 2 * half + i;
  } else {
    from = grad_v + (row * kv_heads + head - heads - kv_heads) * 2 * half + i;
  }
  D* to = grad_qkv + (row * all + head) * 2 * half + i;
  if (head < heads + kv_heads) {
    const int64_t at = static_cast<uint32_t>(row) % static_cast<uint32_t>(tokens) * half + i;
    rotate<kWide>(from, to, cos + at, sin + at, half, -1.0f);
    return;
  }
  float v[kLane];
  load_n<kWide>(from, v);
  store_n<kWide>(to, v);
  load_n<kWide>(from + half, v);
  store_n<kWide>(to + half, v);
}

}  // namespace

template <class T>
void rope(T* x, int64_t rows, int64_t row_stride, int64_t heads, int64_t head_dim, int64_t tokens,
          int64_t start, const float* cos, const float* sin, Stream stream) {
  if (rows * heads == 0) return;
  const int64_t half = head_dim / 2;
  if (half % kLane == 0 && row_stride % kLane == 0) {
    rotate_rows<kLane><<<blocks_for(rows * heads * half / kLane), kFlatThreads, 0, stream>>>(
        dev(x), rows, row_stride, heads, half, tokens, start, cos, sin);
  } else {
    rotate_rows<1><<<blocks_for(rows * heads * half), kFlatThreads, 0, stream>>>(
        dev(x), rows, row_stride, heads, half, tokens, start, cos, sin);
  }
  check_launch("rope");
}

template <class T>
void rope_backward_qkv(const T* grad_q, const T* grad_k, const T* grad_v, int64_t rows,
                       int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t tokens,
                       const float* cos, const float* sin, T* grad_qkv, Stream stream) {
  if (rows == 0) return;
  const int64_t half = head_dim / 2, all = heads + 2 * kv_heads;
  if (half % kLane == 0) {
    gather_rotated_back<kLane><<<blocks_for(rows * all * half / kLane), kFlatThreads, 0, stream>>>(
        dev(grad_q), dev(grad_k), dev(grad_v), rows, heads, kv_heads, half, tokens, cos, sin,
        dev(grad_qkv));
  } else {
    gather_rotated_back<1><<<blocks_for(rows * all * half), kFlatThreads, 0, stream>>>(
        dev(grad_q), dev(grad_k), dev(grad_v), rows, heads, kv_heads, half, tokens, cos, sin,
        dev(grad_qkv));
  }
  check_launch("rope_backward_qkv");
}

#define QUEST_INSTANTIATE(T)                                                                    \
  template void rope<T>(T*, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, const float*, \
                        const float*, Stream);                                                  \
  template void rope_backward_qkv<T>(const T*, const T*, const T*, int64_t, int64_t, int64_t,   \
                                     int64_t, int64_t, const float*, const float*, T*, Stream);
QUEST_INSTANTIATE(float)
QUEST_INSTANTIATE(bfloat16)

}  // namespace quest::kernels::cuda
