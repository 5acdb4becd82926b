// fp8_gradient.h
#include <algorithm>
#include <cuda_fp8.h>

#include "quest/kernels/cuda/device.cuh"
#include "quest/kernels/cuda/fp8_gradient.h"
#include "quest/quant/hadamard.h"

namespace quest::kernels::cuda {
namespace {

// What differs between the two formats.
template <Fp8Format kFormat>
struct Format {
  static constexpr bool kE5m2 = kFormat == Fp8Format::kE5m2;
  static constexpr float kLargest = kE5m2 ? 57344.0f : 448.0f;
  static constexpr float kLeastNormal = kE5m2 ? 0x1p-14f : 0x1p-6f;
  static constexpr float kLeastStep = kE5m2 ? 0x1p-16f : 0x1p-9f;  // between subnormals
  static constexpr int kDroppedBits = kE5m2 ? 21 : 20;             // of a float's mantissa
  static constexpr __nv_fp8_interpretation_t kKind = kE5m2 ? __NV_E5M2 : __NV_E4M3;
};

// 1 also where all values are so small that the scale's inverse would be infinite: they round to 0.
template <Fp8Format kFormat>
__device__ float scale_of(float largest) {
  const float scale = largest * (1.0f / Format<kFormat>::kLargest);
  return largest == 0.0f || scale < 1e-37f ? 1.0f : scale;
}

template <Fp8Format kFormat>
__device__ uint32_t fp8x4(float a, float b, float c, float d) {
  const uint32_t low = __nv_cvt_float2_to_fp8x2({a, b}, __NV_SATFINITE, Format<kFormat>::kKind);
  const uint32_t high = __nv_cvt_float2_to_fp8x2({c, d}, __NV_SATFINITE, Format<kFormat>::kKind);
  return low | high << 16;
}

// A well mixed word of a counter (the finalizer of MurmurHash3).
__device__ uint32_t mixed(uint32_t x) {
  x ^= x >> 16;
  x *= 0x85ebca6bu;
  x ^= x >> 13;
  x *= 0xc2b2ae35u;
  return x ^ x >> 16;
}

// One of the two neighbours of v in the format, up with the probability that keeps the mean. NaN
// and infinity stay.
template <Fp8Format kFormat>
__device__ float rounded_by_chance(float v, uint32_t random) {
  using F = Format<kFormat>;
  const float size = fabsf(v);
  float q;
  if (size < F::kLeastNormal) {
    const float chance = static_cast<float>(random >> 8) * 0x1p-24f;
    q = floorf(size * (1.0f / F::kLeastStep) + chance) * F::kLeastStep;
  } else if (size < F::kLargest) {
    const uint32_t bits = __float_as_uint(size) + (random >> (32 - F::kDroppedBits));
    q = __uint_as_float(bits >> F::kDroppedBits << F::kDroppedBits);
  } else {
    q = size;
  }
  return copysignf(q, v);
}

// 8 values of one place of the gradient, by chance if there is a seed.
template <Fp8Format kFormat>
__device__ void choose8(float (&v)[kLane], bool by_chance, uint32_t seed, int64_t at) {
  if (!by_chance) return;
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    v[i] = rounded_by_chance<kFormat>(v[i], mixed(mixed(static_cast<uint32_t>(at + i)) ^ seed));
  }
}

// Magnitudes as unsigned integers have the order of the floats, NaN being the largest.
__device__ uint32_t magnitude(float x) { return __float_as_uint(fabsf(x)); }

// Largest magnitudes of the rows of dy s_w and of the columns of dy s_x. A warp takes 256 columns
// of every 8th of 64 rows.
constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kLargestRows = 64, kLargestColumns = 32 * kLane;
__global__ void __launch_bounds__(kThreads)
    find_largest(const __nv_bfloat16* dy, const float* s_w, const float* s_x, int64_t m, int64_t n,
                 uint32_t* row_largest, uint32_t* column_largest) {
  __shared__ uint32_t shared[kLargestColumns];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t column = blockIdx.x * static_cast<int64_t>(kLargestColumns) + lane * kLane;
  const int64_t first = blockIdx.y * static_cast<int64_t>(kLargestRows);
  shared[threadIdx.x] = 0;
  float factor[kLane] = {};
  if (column < n) load8(s_w + column, factor);
  uint32_t largest[kLane] = {};
#pragma unroll
  for (int step = 0; step < kLargestRows / kWarps; ++step) {
    const int64_t row = first + step * kWarps + warp;
    if (row >= m) break;
    float v[kLane] = {};
    if (column < n) load8(dy + row * n + column, v);
    const float row_factor = s_x[row];
    uint32_t of_row = 0;
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      largest[i] = max(largest[i], magnitude(v[i] * row_factor));
      of_row = max(of_row, magnitude(v[i] * factor[i]));
    }
    of_row = __reduce_max_sync(0xffffffffu, of_row);
    if (lane == 0) atomicMax(row_largest + row, of_row);
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kLane; ++i) atomicMax(shared + lane * kLane + i, largest[i]);
  __syncthreads();
  const int64_t own = blockIdx.x * static_cast<int64_t>(kLargestColumns) + threadIdx.x;
  if (own < n) atomicMax(column_largest + own, shared[threadIdx.x]);
}

// Tiles of 128 x 128 bytes are turned over through shared memory.
constexpr int kTile = 128;
using Tile = uint32_t[kTile][kTile / 4 + 1];

// Words of 4 bytes of 4 rows -> words of 4 rows of each byte's column.
__device__ void turn4(uint32_t (&w)[4]) {
  const uint32_t a = __byte_perm(w[0], w[1], 0x5140), b = __byte_perm(w[2], w[3], 0x5140);
  const uint32_t c = __byte_perm(w[0], w[1], 0x7362), d = __byte_perm(w[2], w[3], 0x7362);
  w[0] = __byte_perm(a, b, 0x5410);
  w[1] = __byte_perm(a, b, 0x7632);
  w[2] = __byte_perm(c, d, 0x5410);
  w[3] = __byte_perm(c, d, 0x7632);
}

// A thread writes 16 rows of 4 columns; m and n are multiples of 16.
__device__ void write_turned(const Tile& tile, int64_t row0, int64_t column0, int64_t m, int64_t n,
                             uint8_t* turned) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int word = warp % 2 * 16 + lane % 16;       // 4 columns
  const int row = (warp / 2 * 2 + lane / 16) * 16;  // 16 rows: two lanes write 32 bytes
  if (row0 + row >= m || column0 + 4 * word >= n) return;
  uint32_t w[4][4];  // [4 rows][column]
#pragma unroll
  for (int part = 0; part < 4; ++part) {
#pragma unroll
    for (int i = 0; i < 4; ++i) w[part][i] = tile[row + 4 * part + i][word];
    turn4(w[part]);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    *reinterpret_cast<uint4*>(turned + (column0 + 4 * word + i) * m + row0 + row) =
        make_uint4(w[0][i], w[1][i], w[2][i], w[3][i]);
  }
}

// Tile passes: 16 threads of 8 columns are a row, a pass is 16 rows.
constexpr int kPassRows = kThreads / (kTile / kLane);

// Of the rounding by chance, the same for all values of a tensor.
__device__ uint32_t seed_of(const int32_t* counter, uint32_t layer) {
  return counter != nullptr ? mixed(static_cast<uint32_t>(*counter)) ^ mixed(layer) : 0u;
}

template <Fp8Format kFormat>
__global__ void __launch_bounds__(kThreads)
    round_gradient(const __nv_bfloat16* dy, const float* s_w, const float* s_x, int64_t m,
                   int64_t n, const uint32_t* row_largest, const uint32_t* column_largest,
                   uint8_t* rows, float* row_scales, uint8_t* turned, float* column_scales,
                   const int32_t* counter, uint32_t layer) {
  __shared__ Tile tile;
  const bool by_chance = counter != nullptr;
  const uint32_t seed = seed_of(counter, layer);
  const int64_t row0 = blockIdx.y * static_cast<int64_t>(kTile);
  const int64_t column0 = blockIdx.x * static_cast<int64_t>(kTile);
  const int offset = threadIdx.x % (kTile / kLane) * kLane;
  const int64_t column = column0 + offset;
  if (column < n) {
    float factor[kLane], inverse[kLane];
    load8(s_w + column, factor);
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      const float scale = scale_of<kFormat>(__uint_as_float(column_largest[column + i]));
      inverse[i] = 1.0f / scale;
      if (blockIdx.y == 0 && threadIdx.x < kTile / kLane) column_scales[column + i] = scale;
    }
#pragma unroll 4
    for (int pass = 0; pass < kTile / kPassRows; ++pass) {
      const int place = pass * kPassRows + threadIdx.x / (kTile / kLane);
      const int64_t row = row0 + place;
      if (row >= m) break;
      float v[kLane], by_row[kLane];
      load8(dy + row * n + column, v);
      const float row_scale = scale_of<kFormat>(__uint_as_float(row_largest[row]));
      const float row_inverse = 1.0f / row_scale, row_factor = s_x[row];
      if (column == 0) row_scales[row] = row_scale;
#pragma unroll
      for (int i = 0; i < kLane; ++i) {
        by_row[i] = v[i] * factor[i] * row_inverse;
        v[i] = v[i] * row_factor * inverse[i];
      }
      // The two forms are rounded independently.
      choose8<kFormat>(by_row, by_chance, seed, row * n + column);
      choose8<kFormat>(v, by_chance, ~seed, row * n + column);
      *reinterpret_cast<uint2*>(rows + row * n + column) =
          make_uint2(fp8x4<kFormat>(by_row[0], by_row[1], by_row[2], by_row[3]),
                     fp8x4<kFormat>(by_row[4], by_row[5], by_row[6], by_row[7]));
      tile[place][offset / 4] = fp8x4<kFormat>(v[0], v[1], v[2], v[3]);
      tile[place][offset / 4 + 1] = fp8x4<kFormat>(v[4], v[5], v[6], v[7]);
    }
  }
  __syncthreads();
  write_turned(tile, row0, column0, m, n, turned);
}

__global__ void __launch_bounds__(kThreads)
    turn_codes(const int8_t* codes, int64_t m, int64_t k, uint8_t* turned) {
  __shared__ Tile tile;
  const int64_t row0 = blockIdx.y * static_cast<int64_t>(kTile);
  const int64_t column0 = blockIdx.x * static_cast<int64_t>(kTile);
  const int offset = threadIdx.x % (kTile / kLane) * kLane;
  if (column0 + offset < k) {
#pragma unroll
    for (int pass = 0; pass < kTile / kPassRows; ++pass) {
      const int place = pass * kPassRows + threadIdx.x / (kTile / kLane);
      if (row0 + place >= m) break;
      const uint2 raw =
          *reinterpret_cast<const uint2*>(codes + (row0 + place) * k + column0 + offset);
      float v[kLane];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        v[i] = float_of(static_cast<int8_t>(raw.x >> (8 * i)));
        v[i + 4] = float_of(static_cast<int8_t>(raw.y >> (8 * i)));
      }
      tile[place][offset / 4] = fp8x4<Fp8Format::kE4m3>(v[0], v[1], v[2], v[3]);
      tile[place][offset / 4 + 1] = fp8x4<Fp8Format::kE4m3>(v[4], v[5], v[6], v[7]);
    }
  }
  __syncthreads();
  write_turned(tile, row0, column0, m, k, turned);
}

using cuda::load8;
// 8 bytes of e4m3.
__device__ void load8(const uint8_t* p, float (&v)[kLane]) {
  const uint2 raw = *reinterpret_cast<const uint2*>(p);
#pragma unroll
  for (int i = 0; i < kLane; i += 2) {
    const uint32_t word = i < 4 ? raw.x : raw.y;
    const auto pair = static_cast<__nv_fp8x2_storage_t>(word >> (i % 4 * 8));
    const float2 f = __half22float2(__half2(__nv_cvt_fp8x2_to_halfraw2(pair, __NV_E4M3)));
    v[i] = f.x, v[i + 1] = f.y;
  }
}

// Of rows of `length` values.
struct Rotation {
  int64_t length;
  int block;
  float norm;
};

// 8 values of a row, times factor and rotated, from `column` on; zeros beyond its end. All threads
// of a warp must call it.
template <class T>
__device__ void load_rotated(const T* x, const float* factor, int64_t column, const Rotation& r,
                             float (&v)[kLane]) {
#pragma unroll
  for (int i = 0; i < kLane; ++i) v[i] = 0.0f;
  if (column < r.length) {
    load8(x + column, v);
    if (factor != nullptr) {
      float f[kLane];
      load8(factor + column, f);
#pragma unroll
      for (int i = 0; i < kLane; ++i) v[i] *= f[i];
    }
  }
  butterfly(v, r.block, r.norm);
}

// A block takes a row, twice: for the largest magnitude, then to round.
template <Fp8Format kFormat, class T>
__global__ void __launch_bounds__(kThreads)
    rotate_rows(const T* x, const float* factor, Rotation r, uint8_t* out, float* scales,
                const int32_t* counter, uint32_t layer) {
  __shared__ uint32_t shared[kWarps];
  const int64_t row = blockIdx.x, offset = threadIdx.x * kLane;
  constexpr int64_t kStep = kThreads * kLane;
  x += row * r.length;
  float v[kLane];
  uint32_t largest = 0;
  for (int64_t first = 0; first < r.length; first += kStep) {
    load_rotated(x, factor, first + offset, r, v);
#pragma unroll
    for (int i = 0; i < kLane; ++i) largest = max(largest, magnitude(v[i]));
  }
  largest = __reduce_max_sync(0xffffffffu, largest);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = largest;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kWarps; ++i) largest = max(largest, shared[i]);
  const float scale = scale_of<kFormat>(__uint_as_float(largest)), inverse = 1.0f / scale;
  if (threadIdx.x == 0) scales[row] = scale;

  const uint32_t seed = seed_of(counter, layer);
  for (int64_t first = 0; first < r.length; first += kStep) {
    const int64_t column = first + offset, at = row * r.length + column;
    load_rotated(x, factor, column, r, v);
    if (column >= r.length) continue;
#pragma unroll
    for (int i = 0; i < kLane; ++i) v[i] *= inverse;
    choose8<kFormat>(v, counter != nullptr, seed, at);
    *reinterpret_cast<uint2*>(out + at) =
        make_uint2(fp8x4<kFormat>(v[0], v[1], v[2], v[3]), fp8x4<kFormat>(v[4], v[5], v[6], v[7]));
  }
}

// run(std::integral_constant<Fp8Format, format>)
template <class F>
void with_format(Fp8Format format, F&& run) {
  if (format == Fp8Format::kE5m2) {
    run(std::integral_constant<Fp8Format, Fp8Format::kE5m2>{});
  } else {
    run(std::integral_constant<Fp8Format, Fp8Format::kE4m3>{});
  }
}

dim3 blocks_of(int64_t m, int64_t n, int rows, int columns) {
  return dim3(static_cast<unsigned>((n + columns - 1) / columns),
              static_cast<unsigned>((m + rows - 1) / rows));
}

}  // namespace

bool fp8_gradient_supports(int64_t m, int64_t n) {
  // A grid's second dimension has 65535 blocks.
  return n % 16 == 0 && m % 16 == 0 && m <= int64_t{65535} * kLargestRows;
}

void fp8_gradient(const bfloat16* dy, const float* s_w, const float* s_x, int64_t m, int64_t n,
                  const Fp8Rounding& rounding, uint8_t* rows, float* row_scales, uint8_t* turned,
                  float* column_scales, uint32_t* workspace, Stream stream) {
  if (m == 0) return;
  uint32_t *row_largest = workspace, *column_largest = workspace + m;
  check("fp8_gradient",
        cudaMemsetAsync(workspace, 0, static_cast<size_t>(m + n) * sizeof(uint32_t), stream));
  find_largest<<<blocks_of(m, n, kLargestRows, kLargestColumns), kThreads, 0, stream>>>(
      dev(dy), s_w, s_x, m, n, row_largest, column_largest);
  with_format(rounding.format, [&](auto format) {
    round_gradient<decltype(format)::value><<<blocks_of(m, n, kTile, kTile), kThreads, 0, stream>>>(
        dev(dy), s_w, s_x, m, n, row_largest, column_largest, rows, row_scales, turned,
        column_scales, rounding.counter, rounding.layer);
  });
  check_launch("fp8_gradient");
}

void fp8_turn_codes(const int8_t* codes, int64_t m, int64_t k, uint8_t* turned, Stream stream) {
  if (m == 0) return;
  turn_codes<<<blocks_of(m, k, kTile, kTile), kThreads, 0, stream>>>(codes, m, k, turned);
  check_launch("fp8_turn_codes");
}

template <class T>
void fp8_hadamard_rows(const T* x, const float* factor, int64_t rows, int64_t length,
                       const Fp8Rounding& rounding, uint8_t* out, float* scales, Stream stream) {
  const int64_t block = hadamard_block_size(length);
  if (rows == 0) return;
  const Rotation rotation{length, static_cast<int>(block), hadamard_norm<float>(block)};
  with_format(rounding.format, [&](auto format) {
    rotate_rows<decltype(format)::value><<<blocks_for(rows, 1), kThreads, 0, stream>>>(
        dev(x), factor, rotation, out, scales, rounding.counter, rounding.layer);
  });
  check_launch("fp8_hadamard_rows");
}

template void fp8_hadamard_rows<bfloat16>(const bfloat16*, const float*, int64_t, int64_t,
                                          const Fp8Rounding&, uint8_t*, float*, Stream);
template void fp8_hadamard_rows<uint8_t>(const uint8_t*, const float*, int64_t, int64_t,
                                         const Fp8Rounding&, uint8_t*, float*, Stream);

}  // namespace quest::kernels::cuda
