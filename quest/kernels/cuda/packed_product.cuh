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
#include "quest/kernels/cuda/packed_product.h"
#include "quest/kernels/cuda/warp_product.cuh"

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
