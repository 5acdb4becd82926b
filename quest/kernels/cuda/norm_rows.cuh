// RMSNorm of x + delta in FP32 in the order of the CPU's engine, as a source of rows for
// quantize_row.cuh, and its quantizer with one row spread over a cluster of blocks.
#pragma once

#include "quest/kernels/cuda/quantize_row_parts.cuh"

namespace quest::kernels::cuda::deploy {

// One warp: lane l adds the squares of values 32 j + l, j < groups, to `sum` in order. The next
// values come while these are added.
__device__ inline float add_squares(const float* values, int groups, float sum) {
  constexpr int kAhead = 16;
  const float* mine = values + threadIdx.x % 32;
  float now[kAhead];
  const auto fetch = [&](int first) {
#pragma unroll
    for (int i = 0; i < kAhead; ++i) now[i] = mine[(first + i) * 32];
  };
  const int whole = groups / kAhead * kAhead;
  if (whole > 0) fetch(0);
  for (int j = 0; j < whole; j += kAhead) {
    float old[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) old[i] = now[i];
    if (j + kAhead < whole) fetch(j + kAhead);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) sum = __fmaf_rn(old[i], old[i], sum);
  }
  for (int j = whole; j < groups; ++j) sum = __fmaf_rn(mine[j * 32], mine[j * 32], sum);
  return sum;
}

// rms_norm_lanes (quest/kernels/x86/rms_norm_body.h) by one warp: s0 in lanes 0 to 15, s1 in 16 to
// 31.
struct NormSum {
  float sum = 0.0f;

  // `count` values of the row that begin at a multiple of 32; count % 32 only at its end.
  __device__ void add(const float* values, int count) {
    const int groups = count / 32, rest = count % 32, lane = threadIdx.x % 32;
    sum = add_squares(values, groups, sum);
    // A last whole group of 16 belongs to s0, what is less than 16 to s1.
    const int at = rest < 16 ? lane - 16 : lane;
    if (at >= 0 && at < rest) {
      const float value = values[groups * 32 + at];
      sum = __fmaf_rn(value, value, sum);
    }
  }
  __device__ float inverse_rms(int c, float eps) {
#pragma unroll
    for (int step = 16; step >= 1; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    return 1.0f / sqrtf(sum / static_cast<float>(c) + eps);
  }
};

// The partial sums run along the row, so the row goes through shared memory and one warp adds it
// up.
struct NormRows {
  static constexpr int kRounds = 1;
  const float* x;
  const float* delta;  // or null
  const float* weight;
  float eps;
  float* h;  // or null

  // 8 values of x + delta.
  __device__ void sum8(int64_t at, int count, bool whole, float (&v)[kLane]) const {
    load_part(x + at, count, whole, v);
    if (delta == nullptr) return;
    float d[kLane];
    load_part(delta + at, count, whole, d);
#pragma unroll
    for (int i = 0; i < kLane; ++i) v[i] += d[i];
  }

  template <int kCount>
  __device__ void load(int64_t row, int k, bool vector, float (&v)[kCount][kLane],
                       float* scratch) const {
    __shared__ __align__(16) float part[kRowThreads * kLane];
    const int width = blockDim.x * kLane;
    const auto count_at = [&](int column) { return column < k ? min(kLane, k - column) : 0; };
    constexpr bool kWeightsFirst = kCount <= 2;  // while they fit in registers
    float w[kWeightsFirst ? kCount : 1][kLane];
    if constexpr (kWeightsFirst) {
#pragma unroll
      for (int r = 0; r < kCount; ++r) {
        const int column = r * width + threadIdx.x * kLane;
        load_part(weight + column, count_at(column), vector && column < k, w[r]);
      }
    }
    wait_for_previous();
#pragma unroll
    for (int r = 0; r < kCount; ++r) {
      const int column = r * width + threadIdx.x * kLane, count = count_at(column);
      const bool whole = vector && column < k;
      const int64_t at = row * k + column;
      sum8(at, count, whole, v[r]);
      if (delta != nullptr && count > 0) store_part(h + at, count, whole, v[r]);
    }
    NormSum sum;
#pragma unroll
    for (int r = 0; r < kCount; ++r) {
      if (r > 0) __syncthreads();
      store8(part + threadIdx.x * kLane, v[r]);
      __syncthreads();
      if (threadIdx.x < 32) sum.add(part, max(0, min(width, k - r * width)));
    }
    if (threadIdx.x < 32) {
      const float inverse = sum.inverse_rms(k, eps);
      if (threadIdx.x == 0) scratch[0] = inverse;
    }
    __syncthreads();
    const float inverse = scratch[0];
#pragma unroll
    for (int r = 0; r < kCount; ++r) {
      const int column = r * width + threadIdx.x * kLane;
      float later[kLane];
      if constexpr (!kWeightsFirst) {
        load_part(weight + column, count_at(column), vector && column < k, later);
      }
#pragma unroll
      for (int i = 0; i < kLane; ++i) {
        v[r][i] = v[r][i] * inverse * (kWeightsFirst ? w[kWeightsFirst ? r : 0][i] : later[i]);
      }
    }
  }
};

// The cluster: every block adds up the whole row, which costs nobody a wait for other blocks, and
// then quantizes its own part. In a block, loaders bring the row into shared memory, segment by
// segment; the part's own threads add a segment up while the next ones are on their way.
inline constexpr int kSegment = 1024, kSegmentThreads = kSegment / kLane;
inline constexpr int kMostLoaders = 4;  // groups of kSegmentThreads
inline constexpr int64_t kMostNormInParts = 8192;
// Of 16 rows, blocks of their own take half the time (measured on an H200).
inline constexpr int64_t kMostNormsInParts = 4;

// One of the block's barriers 1 to 15, at which `threads` threads are counted: those that bring
// something, and those that wait for it.
__device__ inline void arrive_at(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
__device__ inline void meet_at(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

template <CodeKind kCode, int kRounds>  // segments of a loader
__global__ void __launch_bounds__(kMostLoaders* kSegmentThreads + kRowThreads / 2)
    norm_row_parts(NormRows source, RowRule rule, int k, int width, int groups, QuantizedRows out) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ float row_values[];
  __shared__ PartsShared shared;
  const RowPart part(shared, width);
  let_next_start();
  const bool vector = k % kLane == 0;
  const int segments = (k + kSegment - 1) / kSegment, loaders = groups * kSegmentThreads;
  const int own = static_cast<int>(blockDim.x) - loaders, counted = own + kSegmentThreads;
  const int64_t at_row = part.row * k;
  const int thread = static_cast<int>(threadIdx.x) - own;
  if (thread >= 0) {
    float v[kRounds][kLane];
    wait_for_previous();
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const int column = r * loaders * kLane + thread * kLane;
      const int count = column < k ? min(kLane, k - column) : 0;
      source.sum8(at_row + column, count, vector && count > 0, v[r]);
    }
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const int segment = r * groups + thread / kSegmentThreads;
      if (segment >= segments) break;
      store8(row_values + (r * loaders + thread) * kLane, v[r]);
      arrive_at(1 + segment, counted);
    }
    await_cluster();
    return;
  }
  const int column = part.column(threadIdx.x), count = part.count(threadIdx.x, k);
  const bool whole = vector && count > 0;
  float weight[kLane], h[kLane] = {};
  load_part(source.weight + column, count, whole, weight);
  wait_for_previous();
  NormSum sum;
  for (int s = 0; s < segments; ++s) {
    meet_at(1 + s, counted);
    sum.add(row_values + s * kSegment, min(kSegment, k - s * kSegment));
  }
  const float inverse = sum.inverse_rms(k, source.eps);
  if (count > 0) load8(row_values + column, h);
  float v[kLane];
#pragma unroll
  for (int i = 0; i < kLane; ++i) v[i] = h[i] * inverse * weight[i];
  quantize_part<kCode>(part, rule, k, v, shared, out, [&] {  // x has been read
    if (source.delta != nullptr && count > 0) {
      store_part(source.h + at_row + column, count, whole, h);
    }
  });
#endif
}

inline void launch_norm(const char* operation, const NormRows& source, const RowRule& rule,
                        int64_t m, int64_t k, const QuantizedRows& out, cudaStream_t stream) {
  const int parts = parts_of_row(m, kMostNormsInParts, k);
  if (m == 0 || parts == 1 || k > kMostNormInParts) {
    launch_quantize_rows(operation, source, rule, m, k, out, stream, /*overlaps=*/true);
    return;
  }
  const int width = part_width(k, parts), own = part_threads(width);
  const int segments = static_cast<int>((k + kSegment - 1) / kSegment);
  const int groups = segments < kMostLoaders ? segments : kMostLoaders;
  const auto run = [&](auto code) {
    const auto kernel = segments <= groups ? &norm_row_parts<decltype(code)::value, 1>
                                           : &norm_row_parts<decltype(code)::value, 2>;
    launch_dependent_clusters(operation, kernel, dim3(parts, static_cast<unsigned>(m)), parts,
                              dim3(own + groups * kSegmentThreads),
                              static_cast<size_t>(segments) * kSegment * sizeof(float), stream,
                              source, rule, static_cast<int>(k), width, groups, out);
  };
  with_code(rule.code, run);
}

}  // namespace quest::kernels::cuda::deploy
