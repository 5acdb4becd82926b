// Device-side helpers of the kernel files: 8 values at a time, sums over a row, launches.
//
// All arithmetic is compiled without contraction (-fmad=false), so that codes and masks have the
// bits of the scalar definition.
#pragma once

#include <cstdint>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <type_traits>

#include "quest/base/bfloat16.h"
#include "quest/kernels/cuda/launch.h"

namespace quest::kernels::cuda {

inline constexpr int kLane = 8;  // consecutive values of a row that one thread holds

// The element types of the public headers and their device twins.
template <class T>
struct DeviceType {
  using type = T;
};
template <>
struct DeviceType<bfloat16> {
  using type = __nv_bfloat16;
};
template <class T>
using device_t = typename DeviceType<T>::type;

template <class T>
const device_t<T>* dev(const T* p) {
  return reinterpret_cast<const device_t<T>*>(p);
}
template <class T>
device_t<T>* dev(T* p) {
  return reinterpret_cast<device_t<T>*>(p);
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}
// 8 aligned values.
__device__ inline void load8(const float* p, float (&v)[kLane]) {
  const float4 a = reinterpret_cast<const float4*>(p)[0];
  const float4 b = reinterpret_cast<const float4*>(p)[1];
  v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w;
  v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}
__device__ inline void load8(const __nv_bfloat16* p, float (&v)[kLane]) {
  const uint4 raw = *reinterpret_cast<const uint4*>(p);
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = __uint_as_float(words[i] << 16);
    v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}
__device__ inline void store8(float* p, const float (&v)[kLane]) {
  reinterpret_cast<float4*>(p)[0] = make_float4(v[0], v[1], v[2], v[3]);
  reinterpret_cast<float4*>(p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
__device__ inline void store8(__nv_bfloat16* p, const float (&v)[kLane]) {
  uint4 raw;
  uint32_t* words = reinterpret_cast<uint32_t*>(&raw);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
    words[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
  *reinterpret_cast<uint4*>(p) = raw;
}
__device__ inline void store8(int8_t* p, const int (&v)[kLane]) {
  uint2 raw;
  raw.x = (v[0] & 0xff) | (v[1] & 0xff) << 8 | (v[2] & 0xff) << 16 | v[3] << 24;
  raw.y = (v[4] & 0xff) | (v[5] & 0xff) << 8 | (v[6] & 0xff) << 16 | v[7] << 24;
  *reinterpret_cast<uint2*>(p) = raw;
}

// The same on rows of any length: `count` of the 8 exist, the others are zero and not written.
template <class T>
__device__ void load_part(const T* p, int count, bool vector, float (&v)[kLane]) {
  if (vector) {
    load8(p, v);
    return;
  }
#pragma unroll
  for (int i = 0; i < kLane; ++i) v[i] = i < count ? to_float(p[i]) : 0.0f;
}
template <class T>
__device__ void store_part(T* p, int count, bool vector, const float (&v)[kLane]) {
  if (vector) {
    store8(p, v);
    return;
  }
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    if (i < count) p[i] = from_float<T>(v[i]);
  }
}
__device__ inline void store_part(int8_t* p, int count, bool vector, const int (&v)[kLane]) {
  if (vector) {
    store8(p, v);
    return;
  }
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    if (i < count) p[i] = static_cast<int8_t>(v[i]);
  }
}

// 8 values rounded to T and back: what a kernel that wrote T and one that read it would compute
// with.
__device__ inline void round8(float (&)[kLane], float) {}
__device__ inline void round8(float (&v)[kLane], __nv_bfloat16) {
#pragma unroll
  for (int i = 0; i < kLane; i += 2) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(v[i], v[i + 1]);
    const uint32_t word = *reinterpret_cast<const uint32_t*>(&pair);
    v[i] = __uint_as_float(word << 16);
    v[i + 1] = __uint_as_float(word & 0xffff0000u);
  }
}

// Conversions between small integers (|n| < 2^22) and floats without the conversion unit, which
// does a sixteenth of what the adders do: beside 1.5 * 2^23 a float's last bits are an integer.
inline constexpr float kIntegerShift = 12582912.0f;
inline constexpr int kIntegerShiftBits = 0x4b400000;
// x rounded half to even, as float + kIntegerShift.
__device__ inline float shift_to_integer(float x) { return x + kIntegerShift; }
__device__ inline float float_of(int n) {
  return __int_as_float(n + kIntegerShiftBits) - kIntegerShift;
}

// Butterfly of blocks of up to 128 consecutive values, kEach (8 or 4) in each thread, neighbours in
// neighbouring lanes: first within the thread (8: strides 1, 2, 4), then across lanes; last the
// norm. The order of hadamard_transform (quest/quant/hadamard.h). All lanes of the warp must call
// it.
template <int kEach>
__device__ void butterfly(float (&v)[kEach], int block, float norm) {
#pragma unroll
  for (int stride = 1; stride < kEach; stride *= 2) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if ((i & stride) == 0) {
        const float a = v[i], b = v[i + stride];
        v[i] = a + b;
        v[i + stride] = a - b;
      }
    }
  }
#pragma unroll
  for (int step = 1; step < 128 / kEach; step *= 2) {
    if (step * kEach >= block) break;
    const float sign = (threadIdx.x & step) != 0 ? -1.0f : 1.0f;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      // other + v in the lower lane, other - v in the upper: the product is exact.
      v[i] = __fmaf_rn(v[i], sign, __shfl_xor_sync(0xffffffffu, v[i], step));
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) v[i] *= norm;
}

// Sum over the threads of the block, the same in every thread; order fixed. `shared`: 32 floats
// that nobody else uses until all threads have passed the next barrier.
__device__ inline float block_sum(float value, float* shared) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  const int warps = blockDim.x / 32;
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  const int lane = threadIdx.x & 31;
  value = lane < warps ? shared[lane] : 0.0f;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  return value;
}

// Blocks for `count` pieces of work, `each` of them in a block.
inline unsigned blocks_for(int64_t count, int64_t each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

// Kernels that deal their work out to threads, piece after piece, wherever rows begin.
inline constexpr int kFlatThreads = 256;
inline unsigned blocks_for(int64_t threads) { return blocks_for(threads, kFlatThreads); }

// A block holds one row of k values, `rounds` times 8 of them in each thread: as few rounds as
// kRowThreads threads allow, but at_least so many in rows of 1024 values and more.
inline constexpr int kRowThreads = 512;
inline int row_rounds(int64_t k, int at_least) {
  int rounds = k < 1024 ? 1 : at_least;
  while (k > static_cast<int64_t>(kRowThreads) * kLane * rounds) rounds *= 2;
  return rounds;  // 1, 2, 4 or 8
}
inline int row_threads(int64_t k, int rounds) {
  const int64_t per_round = (k + kLane * rounds - 1) / (kLane * rounds);
  return static_cast<int>((per_round + 31) / 32 * 32);
}
// run(std::integral_constant<int, rounds>)
template <class F>
void with_rounds(int rounds, F&& run) {
  switch (rounds) {
    case 1:
      return run(std::integral_constant<int, 1>{});
    case 2:
      return run(std::integral_constant<int, 2>{});
    case 4:
      return run(std::integral_constant<int, 4>{});
    default:
      return run(std::integral_constant<int, 8>{});
  }
}

}  // namespace quest::kernels::cuda
