// fp8_gradient.h
#include <algorithm>
#include <cuda_fp8.h>

#include "quest/kernels/cuda/device.cuh"
#include "quest/kernels/cuda/fp8_gradient.h"
#include "quest/kernels/cuda/row_rule.h"

namespace quest::kernels::cuda {
namespace {

constexpr float kLargest = 448.0f;  // of e4m3
constexpr int kColumnThreads = 256;

__device__ float scale_of(float largest) {
  return largest > 0.0f ? largest * (1.0f / kLargest) : 1.0f;
}

__device__ uint32_t fp8x4(float a, float b, float c, float d) {
  const uint32_t low = __nv_cvt_float2_to_fp8x2({a, b}, __NV_SATFINITE, __NV_E4M3);
  const uint32_t high = __nv_cvt_float2_to_fp8x2({c, d}, __NV_SATFINITE, __NV_E4M3);
  return low | high << 16;
}

// The largest over the block, in every thread; NaN stays NaN (as an integer it is the largest).
__device__ float block_largest(float value, float* shared) {
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    value = __uint_as_float(
        max(__float_as_uint(value), __float_as_uint(__shfl_xor_sync(0xffffffffu, value, step))));
  }
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  const int lane = threadIdx.x & 31, warps = blockDim.x / 32;
  value = lane < warps ? shared[lane] : 0.0f;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    value = __uint_as_float(
        max(__float_as_uint(value), __float_as_uint(__shfl_xor_sync(0xffffffffu, value, step))));
  }
  return value;
}

// Blocks take rows in turn and keep the largest of their columns in registers.
template <int kRounds>
__global__ void __launch_bounds__(kRowThreads)
    gradient_rows(const __nv_bfloat16* dy, const float* column_factors, const float* row_factors,
                  int64_t m, int n, uint8_t* rows, float* row_scales, uint32_t* column_largest) {
  __shared__ float scratch[2][32];
  float largest_of[kRounds][kLane];
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
#pragma unroll
    for (int i = 0; i < kLane; ++i) largest_of[r][i] = 0.0f;
  }
  int turn = 0;
  for (int64_t row = blockIdx.x; row < m; row += gridDim.x) {
    const float row_factor = row_factors[row];
    float v[kRounds][kLane];
    float largest = 0.0f;
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const int column = (r * blockDim.x + threadIdx.x) * kLane;
#pragma unroll
      for (int i = 0; i < kLane; ++i) v[r][i] = 0.0f;
      if (column < n) {
        float factor[kLane];
        load8(dy + row * n + column, v[r]);
        load8(column_factors + column, factor);
#pragma unroll
        for (int i = 0; i < kLane; ++i) {
          largest_of[r][i] = fmaxf(largest_of[r][i], fabsf(v[r][i] * row_factor));
          v[r][i] *= factor[i];
          largest = fmaxf(largest, fabsf(v[r][i]));
        }
      }
    }
    const float scale = scale_of(block_largest(largest, scratch[turn]));
    turn ^= 1;
    const float inverse = 1.0f / scale;
    if (threadIdx.x == 0) row_scales[row] = scale;
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const int column = (r * blockDim.x + threadIdx.x) * kLane;
      if (column >= n) continue;
#pragma unroll
      for (int i = 0; i < kLane; ++i) v[r][i] *= inverse;
      uint2 word;
      word.x = fp8x4(v[r][0], v[r][1], v[r][2], v[r][3]);
      word.y = fp8x4(v[r][4], v[r][5], v[r][6], v[r][7]);
      *reinterpret_cast<uint2*>(rows + row * n + column) = word;
    }
  }
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    const int column = (r * blockDim.x + threadIdx.x) * kLane;
    if (column >= n) continue;
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      atomicMax(column_largest + column + i, __float_as_uint(largest_of[r][i]));
    }
  }
}

__global__ void make_scales(const uint32_t* largest, int64_t n, float* scales) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kColumnThreads) + threadIdx.x;
  if (i < n) scales[i] = scale_of(__uint_as_float(largest[i]));
}

// Tiles of 128 rows and 64 columns through shared memory, as bytes; a thread writes 32 rows of one
// column.
constexpr int kTileRows = 128, kTileColumns = 64, kTileThreads = 256;

__device__ void write_turned(const uint8_t (&tile)[kTileRows][kTileColumns + 4], int64_t row0,
                             int64_t column0, int64_t m, int64_t n, uint8_t* turned) {
  const int column = threadIdx.x % kTileColumns, first = threadIdx.x / kTileColumns * 32;
  if (column0 + column >= n) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = first + 16 * half;
    if (row0 + row >= m) return;  // m is a multiple of 16
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      words[w] = tile[row + 4 * w][column] | tile[row + 4 * w + 1][column] << 8 |
                 tile[row + 4 * w + 2][column] << 16 |
                 static_cast<uint32_t>(tile[row + 4 * w + 3][column]) << 24;
    }
    *reinterpret_cast<uint4*>(turned + (column0 + column) * m + row0 + row) =
        make_uint4(words[0], words[1], words[2], words[3]);
  }
}

__global__ void __launch_bounds__(kTileThreads)
    gradient_columns(const __nv_bfloat16* dy, const float* row_factors, const float* column_scales,
                     int64_t m, int64_t n, uint8_t* turned) {
  __shared__ uint8_t tile[kTileRows][kTileColumns + 4];
  const int64_t row0 = blockIdx.y * static_cast<int64_t>(kTileRows);
  const int64_t column0 = blockIdx.x * static_cast<int64_t>(kTileColumns);
  const int column = threadIdx.x % 8 * kLane;
  float inverse[kLane];
  if (column0 + column < n) {
    load8(column_scales + column0 + column, inverse);
#pragma unroll
    for (int i = 0; i < kLane; ++i) inverse[i] = 1.0f / inverse[i];
#pragma unroll
    for (int pass = 0; pass < kTileRows / 32; ++pass) {
      const int row = pass * 32 + threadIdx.x / 8;
      if (row0 + row >= m) break;
      float v[kLane];
      load8(dy + (row0 + row) * n + column0 + column, v);
      const float factor = row_factors[row0 + row];
#pragma unroll
      for (int i = 0; i < kLane; ++i) v[i] = v[i] * factor * inverse[i];
      *reinterpret_cast<uint32_t*>(&tile[row][column]) = fp8x4(v[0], v[1], v[2], v[3]);
      *reinterpret_cast<uint32_t*>(&tile[row][column + 4]) = fp8x4(v[4], v[5], v[6], v[7]);
    }
  }
  __syncthreads();
  write_turned(tile, row0, column0, m, n, turned);
}

__global__ void __launch_bounds__(kTileThreads)
    turn_codes(const int8_t* codes, int64_t m, int64_t k, uint8_t* turned) {
  __shared__ uint8_t tile[kTileRows][kTileColumns + 4];
  const int64_t row0 = blockIdx.y * static_cast<int64_t>(kTileRows);
  const int64_t column0 = blockIdx.x * static_cast<int64_t>(kTileColumns);
  const int column = threadIdx.x % 8 * kLane;
  if (column0 + column < k) {
#pragma unroll
    for (int pass = 0; pass < kTileRows / 32; ++pass) {
      const int row = pass * 32 + threadIdx.x / 8;
      if (row0 + row >= m) break;
      const uint2 raw =
          *reinterpret_cast<const uint2*>(codes + (row0 + row) * k + column0 + column);
      float v[kLane];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        v[i] = float_of(static_cast<int8_t>(raw.x >> (8 * i)));
        v[i + 4] = float_of(static_cast<int8_t>(raw.y >> (8 * i)));
      }
      *reinterpret_cast<uint32_t*>(&tile[row][column]) = fp8x4(v[0], v[1], v[2], v[3]);
      *reinterpret_cast<uint32_t*>(&tile[row][column + 4]) = fp8x4(v[4], v[5], v[6], v[7]);
    }
  }
  __syncthreads();
  write_turned(tile, row0, column0, m, k, turned);
}

dim3 tiles(int64_t m, int64_t n) {
  return dim3(static_cast<unsigned>((n + kTileColumns - 1) / kTileColumns),
              static_cast<unsigned>((m + kTileRows - 1) / kTileRows));
}

}  // namespace

bool fp8_gradient_supports(int64_t m, int64_t n) {
  // The tiles' second grid dimension has 65535 blocks.
  return n % 16 == 0 && n <= kMaxRow && m % 16 == 0 && m <= int64_t{65535} * kTileRows;
}

void fp8_gradient_rows(const bfloat16* dy, const float* column_factors, const float* row_factors,
                       int64_t m, int64_t n, uint8_t* rows, float* row_scales, float* column_scales,
                       uint32_t* workspace, Stream stream) {
  if (m == 0) return;
  check("fp8_gradient_rows",
        cudaMemsetAsync(workspace, 0, static_cast<size_t>(n) * sizeof(uint32_t), stream));
  const int rounds = row_rounds(n, 1), threads = row_threads(n, rounds);
  // As many blocks as run at once, about: each ends with an atomic maximum per column.
  const int64_t blocks = std::min<int64_t>(m, 132 * std::max(1, 1024 / threads));
  with_rounds(rounds, [&](auto count) {
    gradient_rows<decltype(count)::value><<<static_cast<unsigned>(blocks), threads, 0, stream>>>(
        dev(dy), column_factors, row_factors, m, static_cast<int>(n), rows, row_scales, workspace);
  });
  make_scales<<<static_cast<unsigned>((n + kColumnThreads - 1) / kColumnThreads), kColumnThreads, 0,
                stream>>>(workspace, n, column_scales);
  check_launch("fp8_gradient_rows");
}

void fp8_gradient_columns(const bfloat16* dy, const float* row_factors, const float* column_scales,
                          int64_t m, int64_t n, uint8_t* turned, Stream stream) {
  if (m == 0) return;
  gradient_columns<<<tiles(m, n), kTileThreads, 0, stream>>>(dev(dy), row_factors, column_scales, m,
                                                             n, turned);
  check_launch("fp8_gradient_columns");
}

void fp8_turn_codes(const int8_t* codes, int64_t m, int64_t k, uint8_t* turned, Stream stream) {
  if (m == 0) return;
  turn_codes<<<tiles(m, k), kTileThreads, 0, stream>>>(codes, m, k, turned);
  check_launch("fp8_turn_codes");
}

}  // namespace quest::kernels::cuda
