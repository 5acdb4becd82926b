// What one warp does of a product with weights in lane order, and what becomes of the sums: device
// code of packed_product.cuh. (One row alone, in one kernel with its quantizer: plane_product.cuh.)
#pragma once

#include <cstdint>

#include "quest/kernels/cuda/device.cuh"
#include "quest/kernels/cuda/packed_fields.h"
#include "quest/kernels/cuda/packed_product.h"
#include "quest/kernels/cuda/tensor_core.cuh"
#include "quest/kernels/lane_order.h"

namespace quest::kernels::cuda {

// From one row's sums in shared memory to the next: lanes that add at once meet different banks.
__host__ __device__ constexpr int sums_stride(int block_tiles) { return block_tiles * 16 + 4; }

template <int kKind>
struct PackedKind {
  static constexpr int kBits = packed_bits(kKind);
  static constexpr bool kIsTable = kKind == kPackedFp4, kIsOneBit = kKind == kPackedOneBit;
  // Bytes of a row of activations in one span.
  static constexpr int kSpanBytes = kIsOneBit ? 32 : 256;
};

// One span of 16 rows times up to 8 kTilesM rows of activations, in the registers of a warp.
template <int kKind, int kTilesM>
struct WarpProduct {
  using Kind = PackedKind<kKind>;
  static constexpr int kBits = Kind::kBits;
  static constexpr bool kInPlace = !Kind::kIsTable && !Kind::kIsOneBit && kTilesM <= 2;
  static constexpr int kSets = kInPlace ? kFieldSets : 1;

  int sums[kSets][kTilesM][4];
  int row_offset[kTilesM];  // of this lane's activations in shared memory

  __device__ void begin(int m, int row_bytes) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) {
      // Rows past the end give sums that nobody takes.
      row_offset[i] =
          min(8 * i + lane / 4, m - 1) * row_bytes + (Kind::kIsOneBit ? 4 : 32) * (lane % 4);
    }
    clear();
  }
  __device__ void clear() {
#pragma unroll
    for (int s = 0; s < kSets; ++s) {
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[s][i][j] = 0;
      }
    }
  }

  // w: the lane's 4 kBits words of the span. a: activations of the span in row 0.
  __device__ void add(const uint32_t (&w)[4 * kBits], const uint8_t* a, const uint32_t* table) {
    if constexpr (Kind::kIsOneBit) {
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
        const auto* bits = reinterpret_cast<const uint32_t*>(a + row_offset[i]);
        mma_bits(sums[0][i], w[0], w[1], w[2], w[3], bits[0], bits[4]);
      }
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) add_half(w + half * 2 * kBits, a + half * 128, table);
    }
  }

  __device__ void add_half(const uint32_t* w, const uint8_t* a, const uint32_t* table) {
    if constexpr (kInPlace) {
      uint32_t b[kTilesM][8];
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) load_activations(a + row_offset[i], b[i]);
      for_each_field<kBits>(w, [&](uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, int first,
                                   int second, int set) {
#pragma unroll
        for (int i = 0; i < kTilesM; ++i) {
          mma_u8(sums[set][i], a0, a1, a2, a3, b[i][first], b[i][second]);
        }
      });
    } else {
      uint32_t v[8][2];
      unpack_half(w, table, v);
#pragma unroll
      for (int i = 0; i < kTilesM; ++i) {
        uint32_t b[8];
        load_activations(a + row_offset[i], b);
#pragma unroll
        for (int s = 0; s < 8; s += 2) {
          if constexpr (Kind::kIsTable) {
            mma_s8(sums[0][i], v[s][0], v[s][1], v[s + 1][0], v[s + 1][1], b[s], b[s + 1]);
          } else {
            mma_u8(sums[0][i], v[s][0], v[s][1], v[s + 1][0], v[s + 1][1], b[s], b[s + 1]);
          }
        }
      }
    }
  }

  // v[group][row half]: values, or numbers of a table.
  static __device__ void unpack_half(const uint32_t* w, const uint32_t* table,
                                     uint32_t (&v)[8][2]) {
    if constexpr (Kind::kIsTable) {
      const uint32_t numbers[4] = {table[0], table[1], table[2], table[3]};
#pragma unroll
      for (int l = 0; l < 4; ++l) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          looked_up_groups(w[2 * l + h], numbers, v[2 * l][h], v[2 * l + 1][h]);
        }
      }
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
#pragma unroll
        for (int h = 0; h < 2; ++h) v[j][h] = unpacked_group<kBits>(w, j, h);
      }
    }
  }

  static __device__ void load_activations(const uint8_t* a, uint32_t (&b)[8]) {
    const uint4 low = *reinterpret_cast<const uint4*>(a);
    const uint4 high = *reinterpret_cast<const uint4*>(a + 16);
    b[0] = low.x, b[1] = low.y, b[2] = low.z, b[3] = low.w;
    b[4] = high.x, b[5] = high.y, b[6] = high.z, b[7] = high.w;
  }

  // Adds the sums of a tile to dots (m, stride), from the tile's first row on, and forgets them.
  __device__ void flush(int m, int stride, int32_t* dots) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    asm volatile("" : "+r"(stride));  // so that no address is computed, and kept, before the loop
#pragma unroll
    for (int i = 0; i < kTilesM; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int column = 8 * i + 2 * (lane % 4) + j % 2, row = lane / 4 + 8 * (j / 2);
        int sum = sums[0][i][j];
        if constexpr (kInPlace) {
          sum = value_of_sets<kBits>([&](int set) { return sums[set][i][j]; });
        }
        if (column < m) atomicAdd(dots + column * stride + row, sum);
      }
    }
    clear();
  }
};

__device__ inline void write_output(const ProductTask& p, int row, int64_t n, const int32_t* dots,
                                    int stride, const int32_t* sums, const float* a_units,
                                    float unit, int32_t number_sum) {
  if (p.form == ProductForm::kHalves) {
    const int32_t high = exact_sum(p, dots[2 * row * stride], sums[2 * row], 0);
    const int32_t low = exact_sum(p, dots[(2 * row + 1) * stride], sums[2 * row + 1], 0);
    static_cast<float*>(p.out)[row * p.out_stride + n] =
        __ll2float_rn(int64_t{256} * high + low) * (a_units[row] * unit);
    return;
  }
  const int32_t acc = exact_sum(p, dots[row * stride], sums[row], number_sum);
  const float value = static_cast<float>(acc) * (a_units[row] * unit);
  if (p.acc != nullptr) p.acc[row * p.out_stride + n] = acc;
  if (p.form == ProductForm::kFloat) {
    static_cast<float*>(p.out)[row * p.out_stride + n] = value;
  } else {
    static_cast<__nv_bfloat16*>(p.out)[row * p.out_stride + n] = __float2bfloat16_rn(value);
  }
}

}  // namespace quest::kernels::cuda
