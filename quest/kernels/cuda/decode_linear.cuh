// Device code of decode_linear.h: a block of 16 warps for each multiprocessor, of which two fit on
// it, so that the next kernel's blocks already fetch weights while this one's compute.
//
// A block's units of work (a row tile of 16, a span of 256 columns) are dealt to its warps in the
// order of memory. Each lane copies its own 16-byte vectors of the warp's next units into shared
// memory (cp.async), a ring ahead of the products, and reads back what it copied itself: no barrier
// is needed between the two. Sums of tiles meet in shared memory; they are integers.
#pragma once

#include <cstdint>

#include "quest/kernels/cuda/async_copy.cuh"
#include "quest/kernels/cuda/decode_linear.h"
#include "quest/kernels/cuda/deploy_math.cuh"
#include "quest/kernels/cuda/quantize_row.cuh"
#include "quest/kernels/cuda/warp_product.cuh"

namespace quest::kernels::cuda::deploy {

inline constexpr int kDecodeWarps = 16, kDecodeThreads = 32 * kDecodeWarps;
inline constexpr int kRingVectors = 12;  // of a warp: 96 KB of a block
inline constexpr int kRingBytes = kDecodeWarps * kRingVectors * 512;
inline constexpr int kRoundColumns = kDecodeThreads * kLane;  // of a row, 8 in each thread
inline constexpr int kMostPairTiles = 8;  // of gate and of up in a block of decode_gate_up
// decode_gate_up rotates within so many values, the kernel after it the rest.
inline constexpr int kRotatedColumns = 64;

// How a launch cuts it. Blocks own consecutive row tiles; those of decode_gate_up as many of gate
// as of up.
struct DecodeCut {
  int tiles = 0, spans = 0;
  int block_tiles = 0;  // most of a block: one more than the others in the first `longer` blocks
  int longer = 0;
  int blocks = 0, shared_bytes = 0;
};

// Shared memory of a block.
struct DecodeShared {
  uint8_t* ring;      // kRingBytes
  uint8_t* codes;     // of the row
  int32_t* dots;      // (16 block_tiles)
  float* w_units;     // the same
  int32_t* n_sums;    // the same
  int32_t* code_sum;  // after the dots and units
  float* chunks;      // (kMaxChunks)
  RowScale* scale;    // and after it the inverse rms of the row

  __host__ __device__ static constexpr int bytes(int code_bytes, int block_tiles) {
    return kRingBytes + (code_bytes + 15) / 16 * 16 +
           4 * (3 * 16 * block_tiles + 1 + kMaxChunks + 4);
  }
  __device__ DecodeShared(uint4* memory, int code_bytes, int block_tiles)
      : ring(reinterpret_cast<uint8_t*>(memory)),
        codes(ring + kRingBytes),
        dots(reinterpret_cast<int32_t*>(codes + (code_bytes + 15) / 16 * 16)),
        w_units(reinterpret_cast<float*>(dots + 16 * block_tiles)),
        n_sums(dots + 2 * 16 * block_tiles),
        code_sum(dots + 3 * 16 * block_tiles),
        chunks(reinterpret_cast<float*>(code_sum + 1)),
        scale(reinterpret_cast<RowScale*>(chunks + kMaxChunks)) {}
  __device__ float& inverse_rms() const { return *reinterpret_cast<float*>(scale + 1); }
};

// A warp's weights on their way through shared memory: one group of copies for each unit. Beyond
// unit `split` memory goes on `jump` vectors later.
template <int kVectors>
struct WeightStream {
  static constexpr int kDepth = kRingVectors / kVectors;
  const uint4* at;
  int next, end, split;
  int64_t jump;
  uint8_t* slots;  // this lane's vector of slot 0
  int slot = 0;    // that is taken, then filled, next

  __device__ WeightStream(const uint4* lanes, int begin, int last, int jump_at, int64_t by,
                          uint8_t* ring)
      : at(lanes + int64_t{begin} * kVectors * 32 + threadIdx.x % 32),
        next(begin),
        end(last),
        split(jump_at),
        jump(by),
        slots(ring + (threadIdx.x / 32 * kRingVectors * 32 + threadIdx.x % 32) * 16) {
    if (begin >= split) at += jump;
#pragma unroll 1
    for (int d = 0; d < kDepth; ++d) ask();
  }
  // Into the slot that was taken last.
  __device__ void ask() {
    if (next < end) {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        copy_async(slots + (slot * kVectors + v) * 512, at + v * 32);
      }
      at += kVectors * 32;
      if (++next == split) at += jump;
    }
    end_copies();
    slot = slot + 1 == kDepth ? 0 : slot + 1;
  }
  __device__ void take(uint32_t (&w)[4 * kVectors]) {
    await_copies<kDepth - 1>();
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const uint4 x = *reinterpret_cast<const uint4*>(slots + (slot * kVectors + v) * 512);
      w[4 * v] = x.x, w[4 * v + 1] = x.y, w[4 * v + 2] = x.z, w[4 * v + 3] = x.w;
    }
  }
};

// Codes of 8 values of a row from `column` on into `row` of shared memory, as bytes or as bits;
// what they add to the row's sum. Every lane of the warp calls it; `exists`: its values are of the
// row.
template <bool kBits>
__device__ inline int stage8(const RowRule& rule, const RowScale& scale, const float (&v)[kLane],
                             uint8_t* row, int column, bool exists) {
  uint32_t words[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < kLane; ++i) {
    const auto code = static_cast<uint32_t>(linear_code(rule, scale, v[i]).code) & 0xffu;
    if constexpr (kBits) {
      // Column 4 j + b of a word of 32 is bit j of byte b.
      words[0] |= (~code >> 7 & 1u) << (8 * (i % 4) + i / 4);
    } else {
      words[i / 4] |= code << (8 * (i % 4));
    }
  }
  if constexpr (kBits) {
    uint32_t word = exists ? words[0] << (column % 32 / 4) : 0;
    const int sum = __popc(word);
    word |= __shfl_xor_sync(0xffffffffu, word, 1);
    word |= __shfl_xor_sync(0xffffffffu, word, 2);
    if (exists && threadIdx.x % 4 == 0) reinterpret_cast<uint32_t*>(row)[column / 32] = word;
    return sum;
  }
  if (!exists) return 0;
  *reinterpret_cast<uint2*>(row + column) = make_uint2(words[0], words[1]);
  return __dp4a(static_cast<int>(words[1]), 0x01010101,
                __dp4a(static_cast<int>(words[0]), 0x01010101, 0));
}

__device__ inline int column_of(int round) {
  return round * kRoundColumns + static_cast<int>(threadIdx.x) * kLane;
}

// A power of two from the chunks of a row of so many rounds.
constexpr int most_chunks(int rounds) { return kRoundColumns / 128 * (rounds == 3 ? 4 : rounds); }

// A rotated row as codes into shared memory. k is a multiple of 8.
template <bool kBits, int kRounds>
__device__ void stage_row(const RowRule& rule, const float (&v)[kRounds][kLane], int k,
                          const DecodeShared& shared) {
  square_chunks(v, k, shared.chunks);
  __syncthreads();
  if (threadIdx.x < 32) {
    const RowScale c =
        scale_of_row<CodeKind::kLinear, most_chunks(kRounds)>(rule, shared.chunks, k);
    if (threadIdx.x == 0) *shared.scale = c;
  }
  __syncthreads();
  const RowScale scale = *shared.scale;
  int sum = 0;
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    sum += stage8<kBits>(rule, scale, v[r], shared.codes, column_of(r), column_of(r) < k);
  }
  sum = __reduce_add_sync(0xffffffffu, sum);
  if (threadIdx.x % 32 == 0 && sum != 0) atomicAdd(shared.code_sum, sum);
}

// Where rows come from: fetch_early() reads what no kernel writes, load() the row itself, rotated,
// when the previous kernel has written it.
template <int kCount>
struct NormedSource {
  static constexpr int kRounds = kCount;
  NormedRow row;
  float weight[kRounds][kLane];

  __device__ explicit NormedSource(const NormedRow& from) : row(from) {}
  __device__ void fetch_early(int k) {
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      load_part(row.weight + column_of(r), 0, column_of(r) < k, weight[r]);
    }
  }
  __device__ void load(const RowRule& rule, int k, const DecodeShared& shared,
                       float (&v)[kRounds][kLane]) const {
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      load_part(row.x + column_of(r), 0, column_of(r) < k, v[r]);
    }
    square_chunks(v, k, shared.chunks);
    __syncthreads();
    if (threadIdx.x < 32) {
      shared.inverse_rms() = inverse_rms<most_chunks(kRounds)>(shared.chunks, k, row.eps);
    }
    __syncthreads();
    const float inverse = shared.inverse_rms();
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
#pragma unroll
      for (int i = 0; i < kLane; ++i) v[r][i] = v[r][i] * inverse * weight[r][i];
      if (rule.block > 1) butterfly(v[r], rule.block, rule.norm);
    }
  }
};

template <int kCount>
struct GivenSource {
  static constexpr int kRounds = kCount;
  GivenRow row;

  __device__ explicit GivenSource(const GivenRow& from) : row(from) {}
  __device__ void fetch_early(int) {}
  __device__ void load(const RowRule& rule, int k, const DecodeShared&,
                       float (&v)[kRounds][kLane]) const {
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      load_part(row.x + column_of(r), 0, column_of(r) < k, v[r]);
      if (rule.block > 1) butterfly(v[r], rule.block, rule.norm);
    }
  }
};

// Rotated up to strides of 32: what is left is a stride of 64, whose other values are in memory as
// well, and the norm.
template <int kCount>
struct SwigluSource {
  static constexpr int kRounds = kCount;
  SwigluRow row;

  __device__ explicit SwigluSource(const SwigluRow& from) : row(from) {}
  __device__ void fetch_early(int) {}
  __device__ void load(const RowRule& rule, int k, const DecodeShared&,
                       float (&v)[kRounds][kLane]) const {
    const bool last = rule.block > kRotatedColumns;
    float other[kRounds][kLane];
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const int column = column_of(r);
      load_part(row.values + column, 0, column < k, v[r]);
      load_part(row.values + (column ^ kRotatedColumns), 0, last && column < k, other[r]);
    }
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const float sign = (column_of(r) & kRotatedColumns) != 0 ? -1.0f : 1.0f;
#pragma unroll
      for (int i = 0; i < kLane; ++i) {
        if (last) v[r][i] = __fmaf_rn(v[r][i], sign, other[r][i]);
        if (rule.block > 1) v[r][i] *= rule.norm;
      }
    }
  }
};

// acc * (a_unit * w_unit) of the block's output i, and the sum acc.
__device__ inline float output_of(const ProductTask& p, const DecodeShared& shared, int i,
                                  int32_t& acc) {
  acc = exact_sum(p, shared.dots[i], *shared.code_sum, shared.n_sums[i]);
  return static_cast<float>(acc) * (shared.scale->unit * shared.w_units[i]);
}

// What becomes of a block's sums.
struct OutputSink {
  static constexpr bool kPairs = false;
  DecodeOut to;
  // What is added to output n, when the previous kernel has written it.
  __device__ float fetch(int n, bool exists) const {
    return exists && to.residual != nullptr ? __ldcg(to.residual + n) : 0.0f;
  }
  __device__ void finish(const ProductTask& p, int tile0, int tiles, float addend,
                         const DecodeShared& shared) const {
    const int i = static_cast<int>(threadIdx.x), n = tile0 * 16 + i;
    if (i >= tiles * 16 || n >= p.n) return;
    int32_t acc = 0;
    const float value = output_of(p, shared, i, acc);
    to.out[n] = to.residual == nullptr ? value : addend + value;
    if (to.acc != nullptr) to.acc[n] = acc;
  }
};

// The tiles of the block are half gate, half up.
struct SwigluSink {
  static constexpr bool kPairs = true;
  float* out;  // (F)
  int block;   // of the transform, 1 for none

  __device__ float fetch(int, bool) const { return 0.0f; }
  // A value in each of the first threads. Little code, since it is fetched anew for each launch.
  __device__ void finish(const ProductTask& p, int tile0, int tiles, float,
                         const DecodeShared& shared) const {
    constexpr int kThreads = 16 * kMostPairTiles;
    const int i = static_cast<int>(threadIdx.x), half = tiles * 8;
    if (i >= kThreads) return;
    auto* values = reinterpret_cast<float*>(shared.ring);  // nobody's now
    int32_t acc = 0;
    float v = 0.0f;
    if (i < half) {
      const float gate = output_of(p, shared, i, acc), up = output_of(p, shared, half + i, acc);
      v = gate * sigmoid_as_cpu(gate) * up;
    }
#pragma unroll 1
    for (int stride = 1; stride < min(block, 32); stride *= 2) {
      const float sign = (i & stride) != 0 ? -1.0f : 1.0f;
      v = __fmaf_rn(v, sign, __shfl_xor_sync(0xffffffffu, v, stride));
    }
    if (block > 32) {
      values[i] = v;
      asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
      v = __fmaf_rn(v, (i & 32) != 0 ? -1.0f : 1.0f, values[i ^ 32]);
    }
    if (i < half) out[tile0 * 16 + i] = v;
  }
};

template <int kKind, class Source, class Row, class Sink>
__global__ void __launch_bounds__(kDecodeThreads, 2)
    decode_linear_block(const Row row, const RowRule rule, const ProductTask p, const DecodeCut cut,
                        const Sink sink) {
  using Kind = PackedKind<kKind>;
  constexpr int kVectors = Kind::kBits;
  extern __shared__ uint4 memory[];
  const int code_bytes = cut.spans * Kind::kSpanBytes;
  const DecodeShared shared(memory, code_bytes, cut.block_tiles);
  const int tid = static_cast<int>(threadIdx.x), warp = tid / 32;
  const int block = static_cast<int>(blockIdx.x);
  int tile0, tiles, split;
  int64_t jump = 0;
  if constexpr (Sink::kPairs) {
    tile0 = block * (cut.block_tiles / 2);
    const int half = min(cut.block_tiles / 2, cut.tiles / 2 - tile0);
    tiles = 2 * half;
    split = half * cut.spans;
    jump = static_cast<int64_t>(cut.tiles / 2 - half) * cut.spans * kVectors * 32;
  } else {
    tiles = cut.block_tiles - (block < cut.longer ? 0 : 1);
    tile0 = block * (cut.block_tiles - 1) + min(block, cut.longer);
    split = tiles * cut.spans;
  }
  // What is small comes first: behind the weights it would wait for all of them.
  Source source(row);
  source.fetch_early(p.k);
  float w_unit = 0.0f;
  int32_t number_sum = 0;
  if (tid < tiles * 16) {
    int n = tile0 * 16 + tid;
    if (Sink::kPairs && tid >= tiles * 8) n += (cut.tiles / 2 - tiles / 2) * 16;
    if (n < p.n) w_unit = p.units[n];
    if (n < p.n && p.a_offset != 0) number_sum = p.number_sums[n];
  }
  const int units = tiles * cut.spans;
  const int begin = units * warp / kDecodeWarps, end = units * (warp + 1) / kDecodeWarps;
  WeightStream<kVectors> stream(p.lanes + static_cast<int64_t>(tile0) * cut.spans * kVectors * 32,
                                begin, end, split, jump, shared.ring);
  if (tid < tiles * 16) shared.dots[tid] = 0;
  if (tid == 0) *shared.code_sum = 0;
  // Bytes of the last span that no value of the row reaches.
  const int used = Kind::kIsOneBit ? (p.k + 31) / 32 * 4 : p.k;
  for (int i = used + 4 * tid; i < code_bytes; i += 4 * kDecodeThreads) {
    *reinterpret_cast<uint32_t*>(shared.codes + i) = 0;
  }
  __syncthreads();
  wait_for_previous();
  let_next_start();  // not before: its weights would be in the way of this kernel's row
  const int own = tile0 * 16 + tid;
  const float addend = sink.fetch(own, tid < tiles * 16 && own < p.n);
  {
    float v[Source::kRounds][kLane];
    source.load(rule, p.k, shared, v);
    stage_row<Kind::kIsOneBit>(rule, v, p.k, shared);
  }
  __syncthreads();

  WarpProduct<kKind, 1> product;
  product.begin(1, 0);
  int span = begin % cut.spans;
  int32_t* tile_dots = shared.dots + begin / cut.spans * 16;
#pragma unroll 1
  for (int unit = begin; unit < end; ++unit) {
    uint32_t w[4 * kVectors];
    stream.take(w);
    product.add(w, shared.codes + span * Kind::kSpanBytes, p.table);
    stream.ask();
    if (++span == cut.spans) {
      product.flush(1, 0, tile_dots);
      span = 0;
      tile_dots += 16;
    }
  }
  if (span != 0 && begin < end) product.flush(1, 0, tile_dots);
  if (tid < tiles * 16) {  // not before: their way from memory is as long as the kernel before
    shared.w_units[tid] = w_unit;
    shared.n_sums[tid] = number_sum;
  }
  __syncthreads();
  sink.finish(p, tile0, tiles, addend, shared);
}

}  // namespace quest::kernels::cuda::deploy
