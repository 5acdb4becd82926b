// Products of one row by bits: device code of decode_linear.cuh.
//
// Weights u and indices i of activations as bit planes, activations x = slope i + offset:
//   sum_k u x = sum_p 2^p (sum_q slope 2^q popcount(u plane p & i plane q)
//                          + offset popcount(u plane p))
// One mma of bits takes 16 rows x 256 columns of a plane of weights beside the planes of the row
// and one of ones, which are its 8 columns: as many products as weights have bits, where those of
// bytes are eight, with seven of their columns in vain.
#pragma once

#include <cstdint>
#include <cuda_runtime.h>

#include "quest/kernels/cuda/device.cuh"
#include "quest/kernels/cuda/packed_fields.h"
#include "quest/kernels/cuda/tensor_core.cuh"
#include "quest/kernels/lane_order.h"

namespace quest::kernels::cuda {

inline constexpr int kMostPlanes = 8;

// Planes of a row in shared memory, then the words of a span of ones. Word t of half c of a span is
// that of columns [128 c + 32 t, 128 c + 32 t + 32) and stands at 2 t + c of the span's 8.
struct RowPlanes {
  int count = 0, stride = 0;  // up to 8 without an offset, 7 with; bytes from one to the next
  int slope = 1, offset = 0;
  int2 scales[kMostPlanes / 2 + 1] = {};  // of the planes, then the offset, then 0: in pairs

  static constexpr int kSpanBytes = kSpanColumns / 8;
  // Planes of a span lie in different banks, of up to four.
  static constexpr int stride_of(int spans) {
    constexpr int kBanks = 128;
    return (spans * kSpanBytes + kBanks - 1) / kBanks * kBanks + kSpanBytes;
  }
  __host__ __device__ constexpr int bytes() const { return count * stride + kSpanBytes; }
  // Of the word of 32 columns, in a plane.
  __device__ static unsigned word_at(unsigned word) {
    return word / kSpanBlocks * kSpanBytes + 8 * (word % 4) + word / 4 % 2 * 4;
  }
};

// The words of columns that no value of a row of k reaches become zero, those of ones ones. By the
// whole block.
__device__ inline void clear_planes(const RowPlanes& planes, int spans, int k, uint8_t* row) {
  const unsigned plane = threadIdx.x / kSpanBlocks, in_span = threadIdx.x % kSpanBlocks;
  if (plane > static_cast<unsigned>(planes.count)) return;
  const bool ones = plane == static_cast<unsigned>(planes.count);
  const unsigned word = ones ? in_span : static_cast<unsigned>(spans - 1) * kSpanBlocks + in_span;
  if (ones || word * 32 >= static_cast<unsigned>(k)) {
    *reinterpret_cast<uint32_t*>(row + plane * planes.stride + RowPlanes::word_at(word)) =
        ones ? ~0u : 0u;
  }
}

// Each of four lanes has its bits of a word of kCount planes, 1, 2 or 4: the whole word of plane
// place % kCount for lane `place`.
template <int kCount>
__device__ inline uint32_t gathered(const uint32_t (&parts)[kCount], unsigned place) {
  constexpr unsigned kAll = 0xffffffffu;
  uint32_t halves[(kCount + 1) / 2];
  if constexpr (kCount == 1) {
    halves[0] = parts[0] | __shfl_xor_sync(kAll, parts[0], 1);
  } else {
    const bool odd = (place & 1) != 0;
#pragma unroll
    for (int j = 0; j < kCount / 2; ++j) {
      const uint32_t even_part = parts[2 * j], odd_part = parts[2 * j + 1];
      halves[j] =
          (odd ? odd_part : even_part) | __shfl_xor_sync(kAll, odd ? even_part : odd_part, 1);
    }
  }
  if constexpr (kCount <= 2) {
    return halves[0] | __shfl_xor_sync(kAll, halves[0], 2);
  } else {
    const bool upper = (place & 2) != 0;
    return (upper ? halves[1] : halves[0]) |
           __shfl_xor_sync(kAll, upper ? halves[0] : halves[1], 2);
  }
}

// Where the bit of value i of 8 stands in its thread's part of a plane, beside weights of kBits.
template <int kBits>
__device__ constexpr uint32_t plane_part_bit(int i) {
  return 1u << (8 * (i % 4) + (i < 4 ? 0 : kPlaneStep<kBits>));
}

// Rows of indices as planes beside weights of kBits. A thread has 8 columns of each round of
// kColumns: indices as bytes, 0 from column k on. By the whole block.
template <int kBits, int kColumns, int kRounds>
__device__ inline void stage_planes(const RowPlanes& planes, uint32_t (&indices)[kRounds][2], int k,
                                    uint8_t* row) {
  constexpr int kAtOnce = kBits == 3 ? 4 : kBits;  // as many as activations often have bits
  constexpr unsigned kWords = kColumns / 32;       // of a round
  constexpr int kRoundBytes = kColumns / kSpanColumns * RowPlanes::kSpanBytes;
  const unsigned place = threadIdx.x % 4, word = threadIdx.x / 4;
  const int base = plane_bit<kBits>(8 * static_cast<int>(place));
  int left = place < kAtOnce ? planes.count - static_cast<int>(place) : 0;  // planes of this lane
  uint8_t* to = row + place * planes.stride + RowPlanes::word_at(word);
#pragma unroll 1
  for (int rest = planes.count; rest > 0; rest -= kAtOnce) {
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      uint32_t parts[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const uint32_t low = indices[r][0] >> j & 0x01010101u;
        const uint32_t high = indices[r][1] >> j & 0x01010101u;
        parts[j] = (low | high << kPlaneStep<kBits>) << base;
      }
      // Of each byte what the next planes take is then lowest.
      indices[r][0] >>= kAtOnce;
      indices[r][1] >>= kAtOnce;
      const uint32_t plane = gathered(parts, place);
      if (left > 0 && (r * kWords + word) * 32 < static_cast<unsigned>(k)) {
        *reinterpret_cast<uint32_t*>(to + r * kRoundBytes) = plane;
      }
    }
    to += kAtOnce * planes.stride;
    left -= kAtOnce;
  }
}

// One span of 16 rows of weights times the row, in the registers of a warp.
template <int kBits>
struct PlaneProduct {
  int sums[kBits][4];
  const uint8_t* at;  // this lane's words of the span
  int step, back;     // to those of the next span; from behind the last to those of the first
  int2 scale;         // of this lane's columns of sums
  bool has_columns;   // that count

  __device__ PlaneProduct(const RowPlanes& planes, const uint8_t* row, int spans, int span) {
    const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, t = lane % 4;
    const bool of_plane = g < planes.count;
    step = of_plane ? RowPlanes::kSpanBytes : 0;
    back = spans * step;
    at = row + min(g, planes.count) * planes.stride + 8 * t + span * step;
    has_columns = 2 * t <= planes.count;
    scale = planes.scales[t];
    clear();
  }
  __device__ void clear() {
#pragma unroll
    for (int p = 0; p < kBits; ++p) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[p][i] = 0;
    }
  }
  // w: the lane's words of the span.
  __device__ void add(const uint32_t (&w)[4 * kBits]) {
    const uint2 a = *reinterpret_cast<const uint2*>(at);
    at += step;
    uint32_t planes[2][2][kBits];  // of half of the span, of row g + 8 h
#pragma unroll
    for (int c = 0; c < 2; ++c) {
#pragma unroll
      for (int h = 0; h < 2; ++h) bit_planes<kBits>(w + c * 2 * kBits, h, planes[c][h]);
    }
#pragma unroll
    for (int p = 0; p < kBits; ++p) {
      mma_bits(sums[p], planes[0][0][p], planes[0][1][p], planes[1][0][p], planes[1][1][p], a.x,
               a.y);
    }
  }
  // Adds the sums to the dots of the tile's 16 rows and forgets them. Modulo 2^32.
  __device__ void flush(int32_t* dots) {
    if (has_columns) {
      const unsigned g = threadIdx.x % 32 / 4;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        int columns[2] = {0, 0};
#pragma unroll
        for (int p = 0; p < kBits; ++p) {
#pragma unroll
          for (int j = 0; j < 2; ++j) columns[j] += sums[p][2 * h + j] << p;
        }
        atomicAdd(dots + g + 8 * h, columns[0] * scale.x + columns[1] * scale.y);
      }
    }
    clear();
    at -= back;
  }
};

}  // namespace quest::kernels::cuda
