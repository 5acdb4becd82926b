// The cache of kv_cache.h as kernels see it: addresses, elements, transforms of heads.
#pragma once

#include <cuda_fp16.h>

#include "quest/kernels/cuda/device.cuh"
#include "quest/kernels/cuda/kv_cache.h"
#include "quest/quant/hadamard.h"

namespace quest::kernels::cuda::deploy {

// One layer of a cache; plain data, passed to kernels by value.
struct DeviceCache {
  uint8_t* const* tables;
  int64_t pages_per_sequence;
  int64_t layer_offset, head_bytes;
  int kv_heads, dim, part_bytes;
  int block;   // of the Hadamard transform along a head; 1 for none
  float norm;  // of it
  bool int8;

  // K of one head of the page that holds `position`; V is part_bytes further on, then the units.
  __device__ uint8_t* head(int slot, int position, int kv_head) const {
    return tables[slot * pages_per_sequence + position / kPagePositions] + layer_offset +
           kv_head * head_bytes;
  }
  __device__ float* units(uint8_t* head) const {
    return reinterpret_cast<float*>(head + 2 * static_cast<int64_t>(part_bytes));
  }
};

inline DeviceCache device_cache(const KvCacheView& cache, int64_t layer) {
  const KvLayout& l = cache.layout;
  check_layout(l);
  DeviceCache d = {};
  d.tables = cache.tables;
  d.pages_per_sequence = cache.pages_per_sequence;
  d.layer_offset = l.offset(layer, 0);
  d.head_bytes = l.head_bytes();
  d.kv_heads = static_cast<int>(l.kv_heads);
  d.dim = static_cast<int>(l.head_dim);
  d.part_bytes = static_cast<int>(l.part_bytes());
  d.int8 = l.format == KvFormat::kInt8;
  d.block = d.int8 ? static_cast<int>(hadamard_block_size(l.head_dim)) : 1;
  d.norm = d.int8 ? hadamard_norm<float>(d.block) : 1.0f;
  return d;
}

// f(std::integral_constant<KvFormat, format>)
template <class F>
void with_format(KvFormat format, F&& f) {
  switch (format) {
    case KvFormat::kBf16:
      return f(std::integral_constant<KvFormat, KvFormat::kBf16>{});
    case KvFormat::kFp16:
      return f(std::integral_constant<KvFormat, KvFormat::kFp16>{});
    case KvFormat::kInt8:
      return f(std::integral_constant<KvFormat, KvFormat::kInt8>{});
  }
}

// Elements as they are stored. `scale` is 127 / max|x| of int8, else unused.
template <KvFormat kFormat>
struct Cached;

template <>
struct Cached<KvFormat::kBf16> {
  using Type = __nv_bfloat16;
  using Raw8 = uint4;  // 8 elements
  __device__ static Type encode(float x, float) { return __float2bfloat16_rn(x); }
  __device__ static float decode(Type x) { return __bfloat162float(x); }
  __device__ static void decode8(const Raw8& raw, float (&v)[kLane]) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[2 * i] = __uint_as_float(words[i] << 16);
      v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  }
};

template <>
struct Cached<KvFormat::kFp16> {
  using Type = __half;
  using Raw8 = uint4;
  __device__ static Type encode(float x, float) {
    x = 65504.0f < x ? 65504.0f : x;  // NaN stays
    x = -65504.0f > x ? -65504.0f : x;
    return __float2half_rn(x);
  }
  __device__ static float decode(Type x) { return __half2float(x); }
  __device__ static void decode8(const Raw8& raw, float (&v)[kLane]) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
      v[2 * i] = pair.x;
      v[2 * i + 1] = pair.y;
    }
  }
};

template <>
struct Cached<KvFormat::kInt8> {
  using Type = int8_t;
  using Raw8 = uint2;
  __device__ static Type encode(float x, float scale) {
    x *= scale;
    x = x < 127.0f ? x : 127.0f;
    x = x > -127.0f ? x : -127.0f;
    return static_cast<int8_t>(__float2int_rn(x));
  }
  __device__ static float decode(Type x) { return static_cast<float>(x); }
  // Beside 2^23 a float's last bits are an integer: one permutation of bytes and one exact
  // subtraction for each code.
  __device__ static void decode8(const Raw8& raw, float (&v)[kLane]) {
    const uint32_t words[2] = {raw.x ^ 0x80808080u, raw.y ^ 0x80808080u};  // code + 128
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      const uint32_t bits = __byte_perm(words[i / 4], 0x4b000000u, 0x7650u + i % 4);
      v[i] = __uint_as_float(bits) - 8388736.0f;  // 2^23 + 128
    }
  }
};

// Half-split rotary embedding of the pair (i, i + D/2); the operations of scalar/rope.cpp.
__device__ inline void turn(float& first, float& second, float cosine, float sine) {
  const float a = first, b = second;
  first = a * cosine - b * sine;
  second = b * cosine + a * sine;
}

// The Hadamard transform of whole heads, `values` floats in shared memory, by all threads of the
// block; before and after it they must meet at a barrier.
__device__ inline void transform_heads(const DeviceCache& cache, float* x, int values) {
#pragma unroll 1
  for (int first = 0; first < values; first += blockDim.x * kLane) {
    const int at = first + threadIdx.x * kLane;
    float v[kLane] = {};
    if (at < values) load8(x + at, v);
    butterfly(v, cache.block, cache.norm);
    if (at < values) store8(x + at, v);
  }
}

// By one warp: the unit of a position, and what its values are multiplied by (append_kv of
// quest/kernels/deploy.h).
struct CacheUnit {
  float unit, scale;
};
__device__ inline CacheUnit cache_unit(const float* x, int dim) {
  float largest = 0.0f;
  for (int d = threadIdx.x % 32; d < dim; d += 32) largest = fmaxf(largest, fabsf(x[d]));
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, step));
  }
  return {largest / 127.0f, largest > 1e-30f ? 127.0f / largest : 0.0f};
}

}  // namespace quest::kernels::cuda::deploy
