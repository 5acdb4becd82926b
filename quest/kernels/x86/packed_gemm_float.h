// packed_gemm_float for 8 or 16 rows of weights to a vector: numbers are looked up in a register
// (up to 4 bits), put together from their bits (uniform, 4 bits) or converted, one column at a
// time; the four partial sums of an output are lanes of four registers. Included by
// x86/packed_gemm_avx2.cpp and x86/packed_gemm_avx512.cpp (internal linkage: see
// gemm_lowbit_driver.h).
#pragma once

#include <type_traits>

#include "quest/kernels/x86/packed_gemm_driver.h"
#include "quest/kernels/x86/packed_gemm_float_vector.h"
#include "quest/kernels/x86/packed_gemm_lines.h"

namespace quest::kernels::detail {
namespace {

// Uniform numbers 2 u - 15.
struct UniformFour : Bits<4> {
  using Bits<4>::Bits;
};

// What numbers are looked up in. Levels repeat, so that bits beside an index do no harm. With 16
// lanes an index has 4 bits, which hold several values of 1 or 2: table j has the levels of the one
// whose bits are j values up.
template <int kBits>
struct Levels {
  static constexpr int kTables = kLanes == 16 && kBits <= 2 ? 4 / kBits : 1;
  Float tables[kTables], high;

  explicit QUEST_INLINE Levels(const PackedFloatTask& task) {
    high = FloatVector::load(task.levels + 16 - kLanes);
    tables[0] = FloatVector::load(task.levels);
    for (int j = 1; j < kTables; ++j) {
      alignas(64) float table[16];
      for (int index = 0; index < 16; ++index) table[index] = task.levels[index >> (j * kBits)];
      tables[j] = FloatVector::load(table);
    }
  }
};

// Columns 4 kGroup + kByte as numbers.
template <class Values, int kGroup, int kByte>
QUEST_INLINE Float numbers(const Values& values, const PackedFloatTask& task,
                           const Levels<Values::kBits>& levels) {
  constexpr int kBits = Values::kBits;
  if constexpr (kBits > 4) {
    const Int u = Vector::bit_and(Vector::shift<8 * kByte>(values.template group<kGroup>()),
                                  Vector::broadcast(255));
    return FloatVector::fma(FloatVector::convert(u), FloatVector::broadcast(task.multiplier),
                            FloatVector::broadcast(task.offset));
  } else if constexpr (kBits == 3) {
    return FloatVector::lookup<kBits>(levels.tables[0], levels.high,
                                      Vector::shift<8 * kByte>(values.template group<kGroup>()));
  } else {
    constexpr int kPerByte = 8 / kBits;
    constexpr int kPlane = kGroup % kPerByte;
    constexpr int kAt = 8 * kByte + kPlane * kBits;  // of the value's bits
    const Int line = values.lines[kGroup / kPerByte];
    // Where the bits of u are at kAt, below the exponent of 2^E, E = 24 - kAt, they are 2^E + 2 u:
    // no shift and no lookup. 16 lanes do the rest by lookup: that measured better than all one
    // way.
    if constexpr (std::is_same_v<Values, UniformFour> && kAt >= 4 && kAt <= 16) {
      return FloatVector::uniform_four<kAt>(line);
    } else if constexpr (std::is_same_v<Values, UniformFour> && kLanes == 8) {
      constexpr int kShift = kAt == 0 ? -4 : 16;
      return FloatVector::uniform_four<kAt - kShift>(Vector::shift<kShift>(line));
    } else {
      constexpr int kTables = Levels<kBits>::kTables;
      return FloatVector::lookup<kBits>(levels.tables[kPlane % kTables], levels.high,
                                        Vector::shift<kAt - kPlane % kTables * kBits>(line));
    }
  }
}

// Calls f.template operator()<group, byte>() for the 32 columns of a block, for each byte in the
// order of the groups. Groups that share a shift come one after the other.
template <class Values, class F>
QUEST_INLINE void for_each_column(F&& f) {
  constexpr int kShared = Levels<Values::kBits>::kTables;
  for_each_group([&]<int kFirst>() QUEST_INLINE_LAMBDA {
    if constexpr (kFirst % kShared == 0) {
      const auto columns = [&]<int kByte>() QUEST_INLINE_LAMBDA {
        f.template operator()<kFirst, kByte>();
        if constexpr (kShared >= 2) f.template operator()<kFirst + 1, kByte>();
        if constexpr (kShared == 4) f.template operator()<kFirst + 2, kByte>();
        if constexpr (kShared == 4) f.template operator()<kFirst + 3, kByte>();
      };
      columns.template operator()<0>();
      columns.template operator()<1>();
      columns.template operator()<2>();
      columns.template operator()<3>();
    }
  });
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
  const auto for_each_sum = [&](auto&& f) QUEST_INLINE_LAMBDA {
#pragma GCC unroll 4
    for (int s = 0; s < kStreams; ++s) {
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          f(acc[s][r][i], sums + (s * kRows + r) * kStride + i * kLanes);
        }
      }
    }
  };
  for_each_sum([](Float& sum, const float* p) QUEST_INLINE_LAMBDA { sum = FloatVector::load(p); });
  const Levels<Values::kBits> levels(task);
  const uint8_t* bytes[kStreams];
  int v[kStreams];
  for (int s = 0; s < kStreams; ++s) {
    bytes[s] = streams[s].bytes;
    v[s] = streams[s].v;
  }
  for (int64_t b = 0; b < blocks; ++b) {
    Values values[4] = {Values(task.w), Values(task.w), Values(task.w), Values(task.w)};
#pragma GCC unroll 4
    for (int s = 0; s < kStreams; ++s) {
      values[s].load(bytes[s], v[s]);
#pragma GCC unroll 8
      for (int l = 0; l < Values::kLines; ++l) {
        fetch(bytes[s] + 64 * l);
      }
      bytes[s] += 64 * Values::kLines;
    }
    for_each_column<Values>([&]<int kGroup, int kByte>() QUEST_INLINE_LAMBDA {
      Float number[kStreams];
#pragma GCC unroll 4
      for (int s = 0; s < kStreams; ++s) {
        number[s] = numbers<Values, kGroup, kByte>(values[s], task, levels);
      }
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const Float value = FloatVector::broadcast(x[r * ldx + 4 * kGroup + kByte]);
#pragma GCC unroll 4
        for (int s = 0; s < kStreams; ++s) {
          acc[s][r][kByte] = FloatVector::fma(value, number[s], acc[s][r][kByte]);
        }
      }
    });
    x += kTileBlock;
  }
  for_each_sum([](Float sum, float* p) QUEST_INLINE_LAMBDA { FloatVector::store(p, sum); });
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

// All rows for the tiles of the streams.
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

// 512 bits: kStreams parts of the tiles at once, each going on from tile to tile, as in
// packed_gemm_driver.h.
template <class Kernel, int kStreams>
void run_float_streams(const PackedFloatTask& task) {
  const int64_t first = task.n0 / kTileRows;
  const int64_t count = (task.n1 - task.n0 + kTileRows - 1) / kTileRows;
  const int64_t step = count / kStreams;
  const int v[kStreams] = {};
  for (int64_t i = 0; i < step; ++i) {
    int64_t tiles[kStreams];
    for (int s = 0; s < kStreams; ++s) tiles[s] = first + i + s * step;
    float_streams<Kernel, kStreams>(task, tiles, v);
  }
  for (int64_t i = first + kStreams * step; i < first + count; ++i) {
    float_streams<Kernel, 1>(task, &i, v);
  }
}

// 512 bits: four streams share a read of x for one row, where its reads cost most; two for more
// rows. 256 bits: the two halves of a tile.
template <class Kernel>
void run_float_kernel(const PackedFloatTask& task) {
#ifdef __AVX512BW__
  if (task.m1 - task.m0 == 1) return run_float_streams<Kernel, 4>(task);
  run_float_streams<Kernel, 2>(task);
#else
  const int v[2] = {0, 1};
  for (int64_t n = task.n0; n < task.n1; n += kTileRows) {
    const int64_t tiles[2] = {n / kTileRows, n / kTileRows};
    float_streams<Kernel, 2>(task, tiles, v);
  }
#endif
}

// Calls f.template operator()<Values>() by the values of the weight.
template <class F>
void with_float_values(const PackedFloatTask& task, F&& f) {
  if (task.w.values == PackedValues::kSparse) return f.template operator()<SparseNumbers>();
  switch (task.w.bits) {
    case 1:
      return f.template operator()<Bits<1>>();
    case 2:
      return f.template operator()<Bits<2>>();
    case 3:
      return f.template operator()<Bits<3>>();
    case 4:
      return task.is_uniform ? f.template operator()<UniformFour>()
                             : f.template operator()<Bits<4>>();
    case 5:
      return f.template operator()<Bits<5>>();
    case 6:
      return f.template operator()<Bits<6>>();
    case 7:
      return f.template operator()<Bits<7>>();
    default:
      return f.template operator()<Bits<8>>();
  }
}

inline void run_float(const PackedFloatTask& task) {
  with_float_values(task, [&]<class Values>() { run_float_kernel<FloatKernel<Values>>(task); });
}

}  // namespace
}  // namespace quest::kernels::detail
