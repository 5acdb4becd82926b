// RMSNorm of x + delta in FP32 in the order of the CPU's engine, as a source of rows for
// quantize_row.cuh, and its quantizer with one row spread over a cluster of blocks.
//
// Rows that get units are x * weight: the norm's factor goes into the unit
// (kernels/deploy.h rms_norm_by_unit).
#pragma once

#include <algorithm>

#include "quest/kernels/cuda/quantize_row_parts.cuh"

namespace quest::kernels::cuda::deploy {

// kByUnit: for rows that get units.
template <bool kByUnit>
struct NormRows {
  static constexpr int kRounds = 1;
  static constexpr bool kHasFactor = kByUnit;
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
    float* const chunks = norm_chunks();
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
    square_chunks(v, k, chunks);
    if constexpr (!kByUnit) {
      __syncthreads();
      if (threadIdx.x < 32) scratch[0] = inverse_rms(chunks, k, eps);
      __syncthreads();
    }
    const float inverse = kByUnit ? 1.0f : scratch[0];
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
  // Of the unit, by one warp, behind load() and a barrier.
  __device__ float factor(int k) const { return inverse_rms(norm_chunks(), k, eps); }

 private:
  __device__ static float* norm_chunks() {
    __shared__ float chunks[kMaxChunks];
    return chunks;
  }
};

// The cluster: every block adds up the whole row, which costs nobody a wait for other blocks, and
// then quantizes its own part. Of its threads the first have 8 values of the part each, the others,
// loaders, a piece of the whole row.
inline constexpr int kMostLoaders = 512;
inline constexpr int64_t kMostNormInParts = 8192;
// Of 16 rows, blocks of their own take half the time (measured on an H200).
inline constexpr int64_t kMostNormsInParts = 4;

template <CodeKind kCode, bool kByUnit, int kRounds>  // of 8 values of a loader
__global__ void __launch_bounds__(kMostLoaders + kRowThreads / 2)
    norm_row_parts(NormRows<kByUnit> source, RowRule rule, int k, int width, int own,
                   QuantizedRows out) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __shared__ PartsShared shared;
  __shared__ float chunks[kMaxChunks];
  const RowPart part(shared, width);
  let_next_start();
  const bool vector = k % kLane == 0;
  const int64_t at_row = part.row * k;
  const int loader = static_cast<int>(threadIdx.x) - own,
            loaders = static_cast<int>(blockDim.x) - own;
  if (loader >= 0) {
    float v[kRounds][kLane];
    wait_for_previous();
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const int column = (r * loaders + loader) * kLane;
      const int count = column < k ? min(kLane, k - column) : 0;
      source.sum8(at_row + column, count, vector && count > 0, v[r]);
    }
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const int column = (r * loaders + loader) * kLane;
      const float sum = square_chunk(v[r]);
      if (loader % 16 == 0 && column < k) chunks[column / 128] = sum;
    }
    __syncthreads();
    await_cluster();
    return;
  }
  const int column = part.column(threadIdx.x), count = part.count(threadIdx.x, k);
  const bool whole = vector && count > 0;
  float weight[kLane], h[kLane], v[kLane];
  load_part(source.weight + column, count, whole, weight);
  wait_for_previous();
  source.sum8(at_row + column, count, whole, h);
  __syncthreads();
  const float inverse = inverse_rms(chunks, k, source.eps);
#pragma unroll
  for (int i = 0; i < kLane; ++i) v[i] = (kByUnit ? h[i] : h[i] * inverse) * weight[i];
  quantize_part<kCode>(part, rule, k, kByUnit ? inverse : 1.0f, v, shared, out, [&] {  // x is read
    if (source.delta != nullptr && count > 0) {
      store_part(source.h + at_row + column, count, whole, h);
    }
  });
#endif
}

template <bool kByUnit>
void launch_norm(const char* operation, const NormRows<kByUnit>& source, const RowRule& rule,
                 int64_t m, int64_t k, const QuantizedRows& out, cudaStream_t stream) {
  const int parts = parts_of_row(m, kMostNormsInParts, k);
  if (m == 0 || parts == 1 || k > kMostNormInParts) {
    launch_quantize_rows(operation, source, rule, m, k, out, stream, /*overlaps=*/true);
    return;
  }
  const int width = part_width(k, parts), own = part_threads(width);
  const int loaders = std::min(kMostLoaders, part_threads(static_cast<int>(k)));
  const auto run = [&](auto code) {
    const auto kernel = k <= loaders * kLane ? &norm_row_parts<decltype(code)::value, kByUnit, 1>
                                             : &norm_row_parts<decltype(code)::value, kByUnit, 2>;
    launch_dependent_clusters(operation, kernel, dim3(parts, static_cast<unsigned>(m)), parts,
                              dim3(own + loaders), 0, stream, source, rule, static_cast<int>(k),
                              width, own, out);
  };
  with_code(rule.code, run);
}

}  // namespace quest::kernels::cuda::deploy
