// Device code of packed_product.h, and its launch. Of packed_gemm.cu alone: a kernel that two
// objects instantiate is two kernels to the driver, but one to a static variable of its launcher.
//
// A block owns some row tiles. In a slab of columns whose activations fit into shared memory its
// units of work (tile, span of 256 columns) lie in a row, in memory as well, and each warp takes an
// equal share of them: K is split over the warps as finely as it takes to keep all of them loading.
// A warp adds its sums of a tile to the block's in shared memory; they are integers, so that no
// order matters.
#pragma once

#include <algorithm>
#include <cstdint>

#include "quest/kernels/cuda/dependent_launch.cuh"
#include "quest/kernels/cuda/device.cuh"
#include "quest/kernels/cuda/packed_fields.h"
#include "quest/kernels/cuda/packed_product.h"
#include "quest/kernels/cuda/tensor_core.cuh"
#include "quest/kernels/lane_order.h"

namespace quest::kernels::cuda {

// How a launch cuts it.
struct ProductCut {
  int tiles = 0, spans = 0;
  int slab_spans = 0;   // of one slab
  int block_tiles = 0;  // most of a block: one more than the others in the first `longer` blocks
  int longer = 0;
  int row_bytes = 0;     // from one row of activations in shared memory to the next
  int codes_offset = 0;  // in shared memory, bytes
  int blocks = 0, threads = 0, shared_bytes = 0;
};

inline constexpr int kMaxBlockTiles = 16;
// From one row's sums in shared memory to the next: lanes that add at once meet different banks.
__host__ __device__ constexpr int sums_stride(int block_tiles) { return block_tiles * 16 + 4; }

template <int kKind>
struct PackedKind {
  static constexpr int kBits = packed_bits(kKind);
  static constexpr bool kIsTable = kKind == kPackedFp4, kIsOneBit = kKind == kPackedOneBit;
  // Bytes of a row of activations in one span.
  static constexpr int kSpanBytes = kIsOneBit ? 32 : 256;
};

// Spans that a warp loads ahead.
template <int kKind, int kTilesM>
__host__ __device__ constexpr int ring_depth() {
  constexpr int kBits = packed_bits(kKind);
  constexpr int kVectors = kTilesM == 1 ? 12 : kTilesM <= 4 ? 8 : 4;  // as registers allow
  return kBits == 8 && kTilesM <= 2 ? 2 : kBits > kVectors ? 1 : kVectors / kBits;
}

// run(std::integral_constant<int, slot>): registers have no addresses, so each slot has code of its
// own.
template <int kDepth, class F>
__device__ __forceinline__ void with_slot(int slot, F&& run) {
  switch (slot) {
#define QUEST_SLOT(i)                                                \
  case i:                                                            \
    if constexpr (i < kDepth) run(std::integral_constant<int, i>{}); \
    break;
    QUEST_SLOT(0)
    QUEST_SLOT(1)
    QUEST_SLOT(2)
    QUEST_SLOT(3)
    QUEST_SLOT(4)
    QUEST_SLOT(5)
    QUEST_SLOT(6)
    QUEST_SLOT(7)
    QUEST_SLOT(8)
    QUEST_SLOT(9)
    QUEST_SLOT(10)
    QUEST_SLOT(11)
#undef QUEST_SLOT
    default:
      break;
  }
}

// a / b from 1 / b in FP32, much shorter than the division. Exact for b up to 4096 and quotients up
// to 64: the error is below 64 * 2^-21, the distance to the next integer at least 1 / (2 b).
__device__ inline int quotient(int a, float inverse) {
  return static_cast<int>((static_cast<float>(a) + 0.5f) * inverse);
}

__device__ inline int sum_of_codes(uint4 v) {
  int sum = __dp4a(static_cast<int>(v.x), 0x01010101, 0);
  sum = __dp4a(static_cast<int>(v.y), 0x01010101, sum);
  sum = __dp4a(static_cast<int>(v.z), 0x01010101, sum);
  return __dp4a(static_cast<int>(v.w), 0x01010101, sum);
}

// Bits of 16 codes of -1 and 1 in the order of a line of 1-bit values: those of columns 4 j .. 4 j
// + 3 are bit j of the 4 bytes, j < 4.
__device__ inline uint32_t bits_of_codes(uint4 v) {
  const uint32_t ones = 0x01010101u;
  return (~v.x >> 7 & ones) | (~v.y >> 7 & ones) << 1 | (~v.z >> 7 & ones) << 2 |
         (~v.w >> 7 & ones) << 3;
}

// Adds v of `kGroup` neighbouring lanes to *sum; every lane of the warp calls it.
template <int kGroup>
__device__ inline void add_group(int v, int32_t* sum, bool exists) {
#pragma unroll
  for (int step = kGroup / 2; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
  if (exists && threadIdx.x % kGroup == 0) atomicAdd(sum, v);
}

// The activations of `spans` spans from span s0 on into shared memory, and their sums added to
// `sums`. A piece is 16 bytes of codes, or of bits one word (32 columns); a span of a row has 16 or
// 8 pieces, so that groups of so many lanes are of one row.
template <int kKind, int kBatch, bool kAligned>
__device__ void stage_codes(const ProductTask& p, int s0, int spans, int row_bytes, uint8_t* codes,
                            int32_t* sums) {
  constexpr bool kIsOneBit = PackedKind<kKind>::kIsOneBit;
  constexpr int kGroup = kIsOneBit ? 8 : 16, kLoads = kIsOneBit ? 2 : 1;
  constexpr uint32_t kFill = kIsOneBit ? 0x80808080u : 0u;
  const int pieces = spans * kGroup, total = p.m * pieces;
  const float inverse = 1.0f / static_cast<float>(pieces);
  const int threads = static_cast<int>(blockDim.x);
  const int end = (total + 31) / 32 * 32;
  for (int base = static_cast<int>(threadIdx.x); base < end; base += threads * kBatch) {
    uint4 v[kBatch][kLoads];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int index = base + i * threads;
      if (index >= total) continue;
      const int row = quotient(index, inverse), piece = index - row * pieces;
      const int8_t* from = p.codes + static_cast<int64_t>(row) * p.k;
      const int column = s0 * kSpanColumns + piece * 16 * kLoads;
#pragma unroll
      for (int j = 0; j < kLoads; ++j) {
        v[i][j] = load_codes<kAligned>(from, column + 16 * j, p.k, kFill);
      }
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int index = base + i * threads;
      if (index >= end) break;  // the whole warp
      const bool exists = index < total;
      const int row = exists ? quotient(index, inverse) : 0, piece = index - row * pieces;
      uint8_t* to = codes + row * row_bytes;
      int sum = 0;
      if constexpr (kIsOneBit) {
        if (exists) {
          const uint32_t word = bits_of_codes(v[i][0]) | bits_of_codes(v[i][1]) << 4;
          reinterpret_cast<uint32_t*>(to)[piece] = word;
          sum = __popc(word);
        }
      } else if (exists) {
        reinterpret_cast<uint4*>(to)[piece] = v[i][0];
        sum = sum_of_codes(v[i][0]);
      }
      add_group<kGroup>(sum, sums + row, exists);
    }
  }
}

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

// acc = a_multiplier (w_multiplier dot + w_offset sum_c code) + a_offset sum_k number, modulo 2^32.
__device__ inline int32_t exact_sum(const ProductTask& p, int32_t dot, int32_t code_sum,
                                    int32_t number_sum) {
  const uint32_t inner = static_cast<uint32_t>(p.w_multiplier) * static_cast<uint32_t>(dot) +
                         static_cast<uint32_t>(p.w_offset) * static_cast<uint32_t>(code_sum);
  return static_cast<int32_t>(static_cast<uint32_t>(p.a_multiplier) * inner +
                              static_cast<uint32_t>(p.a_offset) *
                                  static_cast<uint32_t>(number_sum));
}

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

// Where a warp reads on: units of a slab in the order of memory.
template <int kVectors>
struct UnitCursor {
  const uint4* at;
  int span, spans;
  int64_t skip;  // from the end of the slab's part of a tile to that of the next

  __device__ UnitCursor(const uint4* lanes, int unit, int slab_first, int slab_spans,
                        int all_spans) {
    spans = slab_spans;
    const int tile = quotient(unit, 1.0f / static_cast<float>(slab_spans));
    span = unit - tile * slab_spans;
    skip = static_cast<int64_t>(all_spans - slab_spans) * kVectors * 32;
    const int64_t first = static_cast<int64_t>(tile) * all_spans + slab_first + span;
    at = lanes + first * kVectors * 32 + threadIdx.x % 32;
  }
  __device__ void load(uint32_t (&w)[4 * kVectors]) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) load_streaming(at + v * 32, w + 4 * v);
    at += kVectors * 32;
    if (++span == spans) {
      span = 0;
      at += skip;
    }
  }
};

template <int kKind, int kTilesM>
__global__ void __launch_bounds__(512, 1)
    packed_product(const ProductTask p, const ProductCut cut) {
  using Kind = PackedKind<kKind>;
  constexpr int kVectors = Kind::kBits, kDepth = ring_depth<kKind, kTilesM>();
  let_next_start();
  extern __shared__ uint4 shared[];
  const int stride = sums_stride(cut.block_tiles);
  auto* dots = reinterpret_cast<int32_t*>(shared);            // (m, stride)
  int32_t* code_sums = dots + p.m * stride;                   // (m)
  auto* a_units = reinterpret_cast<float*>(code_sums + p.m);  // (m)
  auto* w_units = a_units + p.m;                              // (block_tiles * 16)
  auto* n_sums = reinterpret_cast<int32_t*>(w_units + cut.block_tiles * 16);
  uint8_t* codes = reinterpret_cast<uint8_t*>(shared) + cut.codes_offset;

  const int tid = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int warp = tid / 32, warps_log2 = __ffs(threads / 32) - 1;  // a power of two
  const int block = static_cast<int>(blockIdx.x);
  const int tiles = cut.block_tiles - (block < cut.longer ? 0 : 1);
  const int tile0 = block * (cut.block_tiles - 1) + min(block, cut.longer);
  const uint4* lanes = p.lanes + static_cast<int64_t>(tile0) * cut.spans * kVectors * 32;

  const int rows = p.form == ProductForm::kHalves ? p.m / 2 : p.m;
  float w_unit = 0, a_unit = 0;  // of output column tid of the block, of row tid
  int32_t number_sum = 0;

  WarpProduct<kKind, kTilesM> product;
  product.begin(p.m, cut.row_bytes);
  for (int s0 = 0; s0 < cut.spans; s0 += cut.slab_spans) {
    const int spans = min(cut.slab_spans, cut.spans - s0), units = tiles * spans;
    const int begin = units * warp >> warps_log2, end = units * (warp + 1) >> warps_log2;
    UnitCursor<kVectors> cursor(lanes, begin, s0, spans, cut.spans);
    int span = cursor.span;
    int32_t* tile_dots = dots + quotient(begin, 1.0f / static_cast<float>(spans)) * 16;
    uint32_t ring[kDepth][4 * kVectors];
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      if (begin + d < end) cursor.load(ring[d]);
    }
    if (s0 == 0) {
      for (int i = tid; i < p.m * stride + p.m; i += threads) dots[i] = 0;  // code_sums as well
      // Their way from memory goes beside that of the activations: a thread has one of each.
      static_assert(kMaxBlockTiles * 16 <= 256 && 8 * kTilesM <= 256);
      const int n = tile0 * 16 + tid;
      if (tid < tiles * 16 && n < p.n) {
        w_unit = p.units[n];
        if (p.a_offset != 0) number_sum = p.number_sums[n];
      }
      wait_for_previous();
      if (tid < rows) a_unit = p.a_units[tid];
    }
    __syncthreads();  // zeros are written; the slab before has been read
    if (p.k % 16 == 0) {
      stage_codes<kKind, Kind::kIsOneBit ? 2 : 4, true>(p, s0, spans, cut.row_bytes, codes,
                                                        code_sums);
    } else {
      stage_codes<kKind, 1, false>(p, s0, spans, cut.row_bytes, codes, code_sums);
    }
    __syncthreads();
    for (int unit = begin, slot = 0; unit < end; ++unit) {
      with_slot<kDepth>(slot, [&](auto index) {
        constexpr int kSlot = decltype(index)::value;
        product.add(ring[kSlot], codes + span * Kind::kSpanBytes, p.table);
        if (unit + kDepth < end) cursor.load(ring[kSlot]);
      });
      slot = slot + 1 == kDepth ? 0 : slot + 1;
      if (++span == spans) {
        product.flush(p.m, stride, tile_dots);
        span = 0;
        tile_dots += 16;
      }
    }
    if (span != 0 && begin < end) product.flush(p.m, stride, tile_dots);
  }
  if (tid < rows) a_units[tid] = a_unit;
  if (tid < tiles * 16) {
    w_units[tid] = w_unit;
    n_sums[tid] = number_sum;
  }
  __syncthreads();
  const int width = tiles * 16;
  const float inverse = 1.0f / static_cast<float>(width);
  for (int i = tid; i < rows * width; i += threads) {
    const int row = quotient(i, inverse), column = i - row * width;
    const int64_t n = int64_t{tile0} * 16 + column;
    if (n < p.n) {
      write_output(p, row, n, dots + column, stride, code_sums, a_units, w_units[column],
                   n_sums[column]);
    }
  }
}

// one_bit: activations as bits.
ProductCut cut_product(int64_t m, int64_t n, int64_t k, bool one_bit);

template <int kKind, int kTilesM>
void launch_product(const char* operation, const ProductTask& task, const ProductCut& cut,
                    Stream stream) {
  static const bool allowed = [operation] {
    allow_shared(operation, packed_product<kKind, kTilesM>);
    return true;
  }();
  static_cast<void>(allowed);
  launch_dependent(operation, packed_product<kKind, kTilesM>,
                   dim3(static_cast<unsigned>(cut.blocks)),
                   dim3(static_cast<unsigned>(cut.threads)), static_cast<size_t>(cut.shared_bytes),
                   stream, task, cut);
}

}  // namespace quest::kernels::cuda
