// attend_exact of attention_decode.h: a block for each row and query head. 256 keys at a time: a
// thread for each key's score, the softmax of four blocks of 64, then a thread for each column of
// the values.
#include <cmath>

#include "quest/kernels/cuda/attention_decode.h"
#include "quest/kernels/cuda/dependent_launch.cuh"
#include "quest/kernels/cuda/deploy_math.cuh"
#include "quest/kernels/cuda/kv_cache.cuh"

namespace quest::kernels::cuda::deploy {
namespace {

constexpr int kThreads = 256;  // keys at a time, and at least D
constexpr int kBlocks = kThreads / kPagePositions;
constexpr int kSumLanes = 16;

// s = sum_d q_d k_d, fma in the order of d.
template <KvFormat kFormat, bool kVector>
__device__ float score_of(const uint8_t* key, const float* q, int dim) {
  float sum = 0.0f;
  if constexpr (kVector) {
    using Raw8 = typename Cached<kFormat>::Raw8;
    const Raw8* raw = reinterpret_cast<const Raw8*>(key);
#pragma unroll 8
    for (int d = 0; d < dim; d += kLane) {
      float k[kLane];
      Cached<kFormat>::decode8(raw[d / kLane], k);
#pragma unroll
      for (int i = 0; i < kLane; ++i) sum = __fmaf_rn(q[d + i], k[i], sum);
    }
  } else {
    const auto* k = reinterpret_cast<const typename Cached<kFormat>::Type*>(key);
    for (int d = 0; d < dim; ++d) sum = __fmaf_rn(q[d], Cached<kFormat>::decode(k[d]), sum);
  }
  return sum;
}

template <KvFormat kFormat, bool kVector>
__global__ void __launch_bounds__(kThreads)
    attend_row(DeviceCache cache, const float* qkv, int heads, float scale, KvRows rows,
               float* out) {
  using Type = typename Cached<kFormat>::Type;
  constexpr bool kInt8 = kFormat == KvFormat::kInt8;
  __shared__ __align__(16) float q[kThreads];
  __shared__ float weights[kThreads];    // p
  __shared__ float of_values[kThreads];  // int8: times the values' units
  __shared__ float warp_largest[kThreads / 32];
  __shared__ float total;
  let_next_start();
  wait_for_previous();
  const int head = blockIdx.x, dim = cache.dim, tid = threadIdx.x;
  const int kv_head = head / (heads / cache.kv_heads);
  const int64_t row = blockIdx.y;
  const int slot = rows.slot[row], keys = rows.position[row] + 1;
  const int64_t width = static_cast<int64_t>(heads + 2 * cache.kv_heads) * dim;
  if (tid < dim) q[tid] = qkv[row * width + head * dim + tid] * scale;
  __syncthreads();

  float largest = -INFINITY, sum = 0.0f, o = 0.0f;  // l of lane tid, o of column tid
  for (int first = 0; first < keys; first += kThreads) {
    const int count = min(kThreads, keys - first);
    float score = -INFINITY, value_unit = 1.0f;
    if (tid < count) {
      uint8_t* base = cache.head(slot, first + tid, kv_head);
      const int at = tid % kPagePositions;
      const int row_bytes = dim * static_cast<int>(sizeof(Type));
      score = score_of<kFormat, kVector>(base + at * row_bytes, q, dim);
      if constexpr (kInt8) {
        score *= cache.units(base)[at];
        value_unit = cache.units(base)[kPagePositions + at];
      }
    }
    float block_largest = score;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      block_largest = fmaxf(block_largest, __shfl_xor_sync(0xffffffffu, block_largest, step));
    }
    if (tid % 32 == 0) warp_largest[tid / 32] = block_largest;
    __syncthreads();
    // m of each block of 64, and what the blocks before it are rescaled by.
    const int blocks = (count + kPagePositions - 1) / kPagePositions;
    float rescale[kBlocks], mine = 0.0f;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      rescale[b] = 1.0f;
      if (b < blocks) {
        const float now = fmaxf(largest, fmaxf(warp_largest[2 * b], warp_largest[2 * b + 1]));
        rescale[b] = exp_as_cpu(largest - now);
        largest = now;
        if (b == tid / kPagePositions) mine = now;
      }
    }
    const float weight = exp_as_cpu(score - mine);
    weights[tid] = tid < count ? weight : 0.0f;
    if constexpr (kInt8) of_values[tid] = weight * value_unit;
    __syncthreads();
    const float* of_column = kInt8 ? of_values : weights;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      if (b >= blocks) break;
      const int begin = b * kPagePositions, end = min(count, begin + kPagePositions);
      if (tid < kSumLanes) {
        sum *= rescale[b];
        for (int j = begin; j < end; j += kSumLanes) sum += weights[j + tid];
      }
      if (tid < dim) {
        const Type* v = reinterpret_cast<const Type*>(cache.head(slot, first + begin, kv_head) +
                                                      cache.part_bytes) +
                        tid;
        o *= rescale[b];
#pragma unroll 16
        for (int j = begin; j < end; ++j) {
          o = __fmaf_rn(of_column[j], Cached<kFormat>::decode(v[(j - begin) * dim]), o);
        }
      }
    }
    __syncthreads();
  }
  if (tid < 32) {
#pragma unroll
    for (int step = kSumLanes / 2; step >= 1; step /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, step);
    }
    if (tid == 0) total = sum;
  }
  __syncthreads();
  o /= total;
  if constexpr (kInt8) {
    if (tid < dim) q[tid] = o;
    __syncthreads();
    transform_heads(cache, q, dim);
    __syncthreads();
    if (tid < dim) o = q[tid];
  }
  if (tid < dim) out[(row * heads + head) * dim + tid] = o;
}

}  // namespace

void attend_exact(const KvCacheView& cache, int64_t layer, const float* qkv, int64_t heads,
                  const KvRows& rows, float* out, Stream stream) {
  check_attend(cache.layout, heads);
  const DeviceCache d = device_cache(cache, layer);
  const float scale = 1.0f / std::sqrt(static_cast<float>(d.dim));
  const auto run = [&](auto format, auto vector, int64_t first, int64_t count) {
    const KvRows part{rows.slot + first, rows.position + first, count};
    const int64_t width = (heads + 2 * d.kv_heads) * d.dim;
    launch_dependent("attend_exact", &attend_row<decltype(format)::value, decltype(vector)::value>,
                     dim3(static_cast<unsigned>(heads), static_cast<unsigned>(count)),
                     dim3(kThreads), 0, stream, d, qkv + first * width, static_cast<int>(heads),
                     scale, part, out + first * heads * d.dim);
  };
  constexpr int64_t kMostRows = 65535;  // of a grid's second extent
  for (int64_t first = 0; first < rows.rows; first += kMostRows) {
    const int64_t count = rows.rows - first < kMostRows ? rows.rows - first : kMostRows;
    with_format(cache.layout.format, [&](auto format) {
      if (d.dim % kLane == 0) {
        run(format, std::true_type{}, first, count);
      } else {
        run(format, std::false_type{}, first, count);
      }
    });
  }
}

}  // namespace quest::kernels::cuda::deploy
