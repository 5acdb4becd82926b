// packed_gemm_float for 8 or 16 rows of weights to a vector: numbers are looked up in a register
// (up to 4 bits) or converted, one column at a time; the four partial sums of an output are lanes
// of four registers. Included by x86/packed_gemm_avx2.cpp and x86/packed_gemm_avx512.cpp (internal
// linkage: see gemm_lowbit_driver.h).
#pragma once

#include "quest/kernels/x86/packed_gemm_driver.h"
#include "quest/kernels/x86/packed_gemm_float_vector.h"
#include "quest/kernels/x86/packed_gemm_lines.h"

namespace quest::kernels::detail {
namespace {

// Columns 4 kGroup + kByte as numbers. Levels repeat, so that bits beside an index do no harm.
template <class Values, int kGroup, int kByte>
QUEST_INLINE Float numbers(const Values& values, const PackedFloatTask& task, Float low,
                           Float high) {
  constexpr int kBits = Values::kBits;
  if constexpr (kBits > 4) {
    const Int u = Vector::bit_and(Vector::shift<8 * kByte>(values.template group<kGroup>()),
                                  Vector::broadcast(255));
    return FloatVector::fma(FloatVector::convert(u), FloatVector::broadcast(task.multiplier),
                            FloatVector::broadcast(task.offset));
  } else if constexpr (kBits == 3) {
    return FloatVector::lookup<kBits>(low, high,
                                      Vector::shift<8 * kByte>(values.template group<kGroup>()));
  } else {
    constexpr int kPerByte = 8 / kBits;
    return FloatVector::lookup<kBits>(
        low, high,
        Vector::shift<8 * kByte + kGroup % kPerByte * kBits>(values.lines[kGroup / kPerByte]));
  }
}

// Where a stream of weights is: a tile and which vector of its lines.
struct FloatStream {
  const uint8_t* bytes;
  int v;
};

// acc[s][r][i] += x[r][k] * number for the columns of `blocks` blocks, k % 4 = i. All of x is
// there.
template <class Values, int kRows, int kStreams>
__attribute__((noinline)) void float_blocks(const PackedFloatTask& task, const FloatStream* streams,
                                            int64_t blocks, const float* x, int64_t ldx,
                                            float* sums) {
  constexpr int kStride = 4 * kLanes;
  Float acc[kStreams][kRows][4];
#pragma GCC unroll 2
  for (int s = 0; s < kStreams; ++s) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        acc[s][r][i] = FloatVector::load(sums + (s * kRows + r) * kStride + i * kLanes);
      }
    }
  }
  const Float low = FloatVector::load(task.levels),
              high = FloatVector::load(task.levels + 16 - kLanes);
  const uint8_t* bytes[2] = {streams[0].bytes, streams[kStreams - 1].bytes};
  const int v[2] = {streams[0].v, streams[kStreams - 1].v};
  for (int64_t b = 0; b < blocks; ++b) {
    Values values[2] = {Values(task.w), Values(task.w)};
#pragma GCC unroll 2
    for (int s = 0; s < kStreams; ++s) {
      values[s].load(bytes[s], v[s]);
#pragma GCC unroll 8
      for (int l = 0; l < Values::kLines; ++l) {
        fetch(bytes[s] + 64 * l);
      }
      bytes[s] += 64 * Values::kLines;
    }
    for_each_group([&]<int kGroup>() QUEST_INLINE_LAMBDA {
      const auto column = [&]<int kByte>() QUEST_INLINE_LAMBDA {
        Float number[kStreams];
#pragma GCC unroll 2
        for (int s = 0; s < kStreams; ++s) {
          number[s] = numbers<Values, kGroup, kByte>(values[s], task, low, high);
        }
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          const Float value = FloatVector::broadcast(x[r * ldx + 4 * kGroup + kByte]);
#pragma GCC unroll 2
          for (int s = 0; s < kStreams; ++s) {
            acc[s][r][kByte] = FloatVector::fma(value, number[s], acc[s][r][kByte]);
          }
        }
      };
      column.template operator()<0>();
      column.template operator()<1>();
      column.template operator()<2>();
      column.template operator()<3>();
    });
    x += kTileBlock;
  }
#pragma GCC unroll 2
  for (int s = 0; s < kStreams; ++s) {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        FloatVector::store(sums + (s * kRows + r) * kStride + i * kLanes, acc[s][r][i]);
      }
    }
  }
}

// Blocks [0, blocks) of the streams from column k0 on; the last block's missing columns are zeros,
// which add nothing.
template <class Values, int kRows, int kStreams>
void float_columns(const PackedFloatTask& task, const FloatStream* streams, int64_t blocks,
                   const float* x, int64_t k0, float* sums) {
  const int64_t whole = (task.k - k0) / kTileBlock < blocks ? (task.k - k0) / kTileBlock : blocks;
  float_blocks<Values, kRows, kStreams>(task, streams, whole, x + k0, task.ldx, sums);
  if (whole == blocks) return;
  float last[kRows * kTileBlock] = {};
  for (int r = 0; r < kRows; ++r) {
    for (int64_t k = k0 + whole * kTileBlock; k < task.k; ++k) {
      last[r * kTileBlock + k - k0 - whole * kTileBlock] = x[r * task.ldx + k];
    }
  }
  FloatStream rest[kStreams];
  for (int s = 0; s < kStreams; ++s) {
    rest[s] = {streams[s].bytes + whole * 64 * Values::kLines, streams[s].v};
  }
  float_blocks<Values, kRows, kStreams>(task, rest, 1, last, kTileBlock, sums);
}

template <class Values>
struct FloatKernel {
  template <int kRows, int kStreams>
  static void sums(const PackedFloatTask& task, const int64_t* tiles, const int* v, const float* x,
                   float* out) {
    FloatStream streams[kStreams];
    for (int s = 0; s < kStreams; ++s) {
      streams[s] = {task.w.bytes + tiles[s] * task.w.tile_bytes, v[s]};
    }
    float_columns<Values, kRows, kStreams>(task, streams, task.w.blocks, x, 0, out);
  }
};

struct SparseNumbers {};
template <>
struct FloatKernel<SparseNumbers> {
  template <int kRows, int kStreams>
  static void sums(const PackedFloatTask& task, const int64_t* tiles, const int* v, const float* x,
                   float* out) {
    alignas(64) uint8_t lines[kStreams][kSparseBytes];
    FloatStream streams[kStreams];
    for (int64_t b = 0; b < task.w.blocks; b += kSparseBlocks) {
      const int64_t count = task.w.blocks - b < kSparseBlocks ? task.w.blocks - b : kSparseBlocks;
      for (int s = 0; s < kStreams; ++s) {
        spread_sparse(task.w, tiles[s], b, count, lines[s]);
        streams[s] = {lines[s], v[s]};
      }
      float_columns<Bits<8>, kRows, kStreams>(task, streams, count, x, b * kTileBlock, out);
    }
  }
};

template <class Kernel, int kRows, int kStreams>
void float_rows(const PackedFloatTask& task, const int64_t* tiles, const int* v, int64_t m) {
  alignas(64) float sums[kStreams * kRows * 4 * kLanes] = {};
  Kernel::template sums<kRows, kStreams>(task, tiles, v, task.x + m * task.ldx, sums);
  for (int s = 0; s < kStreams; ++s) {
    const int64_t n = tiles[s] * kTileRows + v[s] * kLanes;
    const int64_t columns = task.n1 - n < kLanes ? task.n1 - n : kLanes;
    for (int r = 0; r < kRows; ++r) {
      const float* sum = sums + (s * kRows + r) * 4 * kLanes;
      float* out = task.out + (m + r) * task.ldo + n;
      for (int64_t c = 0; c < columns; ++c) {
        out[c] = ((sum[c] + sum[kLanes + c]) + (sum[2 * kLanes + c] + sum[3 * kLanes + c])) *
                 task.w_units[n + c];
      }
    }
  }
}

// All rows for the tiles of one or two streams.
template <class Kernel, int kStreams>
void float_streams(const PackedFloatTask& task, const int64_t* tiles, const int* v) {
  int64_t m = task.m0;
#ifdef __AVX512BW__
  for (; m + 4 <= task.m1; m += 4) {
    for (int s = 0; s < kStreams; ++s) float_rows<Kernel, 4, 1>(task, tiles + s, v + s, m);
  }
#endif
  for (; m + 2 <= task.m1; m += 2) {
    for (int s = 0; s < kStreams; ++s) float_rows<Kernel, 2, 1>(task, tiles + s, v + s, m);
  }
  for (; m < task.m1; ++m) float_rows<Kernel, 1, kStreams>(task, tiles, v, m);
}

// 512 bits: two tiles at once, as in packed_gemm_driver.h; 256 bits: the two halves of a tile.
template <class Kernel>
void run_float_kernel(const PackedFloatTask& task) {
  const int64_t first = task.n0 / kTileRows;
  const int64_t count = (task.n1 - task.n0 + kTileRows - 1) / kTileRows;
  const int64_t step = Vector::kVectors == 1 ? (count + 1) / 2 : count;
  for (int64_t i = 0; i < step; ++i) {
    const int64_t second = Vector::kVectors == 1 ? i + step : i;
    const int64_t tiles[2] = {first + i, first + second};
    const int v[2] = {0, Vector::kVectors - 1};
    if (second < count) {
      float_streams<Kernel, 2>(task, tiles, v);
    } else {
      float_streams<Kernel, 1>(task, tiles, v);
    }
  }
}

inline void run_float(const PackedFloatTask& task) {
  if (task.w.values == PackedValues::kSparse) {
    return run_float_kernel<FloatKernel<SparseNumbers>>(task);
  }
  switch (task.w.bits) {
    case 1:
      return run_float_kernel<FloatKernel<Bits<1>>>(task);
    case 2:
      return run_float_kernel<FloatKernel<Bits<2>>>(task);
    case 3:
      return run_float_kernel<FloatKernel<Bits<3>>>(task);
    case 4:
      return run_float_kernel<FloatKernel<Bits<4>>>(task);
    case 5:
      return run_float_kernel<FloatKernel<Bits<5>>>(task);
    case 6:
      return run_float_kernel<FloatKernel<Bits<6>>>(task);
    case 7:
      return run_float_kernel<FloatKernel<Bits<7>>>(task);
    default:
      return run_float_kernel<FloatKernel<Bits<8>>>(task);
  }
}

}  // namespace
}  // namespace quest::kernels::detail
