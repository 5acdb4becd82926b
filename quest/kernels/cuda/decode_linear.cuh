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
#include "quest/kernels/cuda/packed_product.h"
#include "quest/kernels/cuda/plane_product.cuh"
#include "quest/kernels/cuda/quantize_row.cuh"

namespace quest::kernels::cuda::deploy {

inline constexpr int kDecodeWarps = 16, kDecodeThreads = 32 * kDecodeWarps;
inline constexpr int kWarpRingBytes = 12 * 512;
inline constexpr int kRingBytes = kDecodeWarps * kWarpRingBytes;
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
  int slots = 0;      // of a ring of tiles (sign_linear.cuh)
  int row_bytes = 0;  // what a block has for the row, or a ring's bells (sign_linear.cuh)
  float inverse_spans = 0;
  RowPlanes planes;
};

// Shared memory of a block: this, then what the layer's size decides.
struct DecodeShared {
  alignas(16) uint8_t ring[kRingBytes];
  float chunks[kMaxChunks], norm_chunks[kMaxChunks];  // of the row's squares; before its norm
  RowScale scale;
  int32_t code_sum;
};
struct DecodeMemory {
  DecodeShared& fixed;
  uint8_t* row;     // its planes
  int32_t* dots;    // (16 block_tiles)
  float* w_units;   // the same
  int32_t* n_sums;  // the same

  static constexpr int kFixedBytes = static_cast<int>(sizeof(DecodeShared));
  static constexpr int bytes(int row_bytes, int block_tiles) {
    return kFixedBytes + row_bytes + 3 * 4 * 16 * block_tiles;
  }
  __device__ DecodeMemory(uint4* memory, int row_bytes, int block_tiles)
      : fixed(*reinterpret_cast<DecodeShared*>(memory)),
        row(reinterpret_cast<uint8_t*>(memory) + kFixedBytes),
        dots(reinterpret_cast<int32_t*>(row + row_bytes)),
        w_units(reinterpret_cast<float*>(dots + 16 * block_tiles)),
        n_sums(dots + 2 * 16 * block_tiles) {}
};

// A warp's `count` units of weights on their way through shared memory: a group of copies for each
// chunk of kUnits, the last of which may be shorter. Each lane copies its own vectors, and reads
// back what it copied itself: no barrier is needed between the two.
template <int kBits>
struct WeightStream {
  static constexpr int kUnits = kBits == 3 ? 1 : 4 / kBits;
  static constexpr int kUnitBytes = kBits * 512, kChunkBytes = kUnits * kUnitBytes;
  static constexpr int kDepth = kWarpRingBytes / kChunkBytes;
  // Chunks that are asked for before the kernel before has ended: its end waits for all that the
  // multiprocessors have asked for, and what comes later comes while the row is worked on (a layer
  // of a 7B after 512 tokens, H100, all 3 chunks, 2 and 1: 2 bits 30.1 us, 28.7, 29.1; 1 bit 22.7,
  // 21.9, 22.4; 4 bits, whose next kernel's are on their way by then, 46.4, 46.8, 49.5).
  static constexpr int kAhead = kBits > 2 ? kDepth : 2;
  const uint8_t* next;    // of this lane, to ask for
  int to_ask;             // units, behind the ring's
  uint8_t *chunk, *last;  // this lane's first vector of the chunk that is taken; of the ring's last

  // from: this lane's first vector.
  __device__ WeightStream(const uint8_t* from, int count, uint8_t* ring) : to_ask(count) {
    chunk = ring + threadIdx.x / 32 * kWarpRingBytes + threadIdx.x % 32 * 16;
    last = chunk + (kDepth - 1) * kChunkBytes;
    uint32_t to = shared_address(chunk);
    asm volatile("" : "+l"(from), "+r"(to));  // so that they are computed once
#pragma unroll
    for (int d = 0; d < kAhead; ++d) {
      copy(to + d * kChunkBytes, from + d * kChunkBytes, to_ask - d * kUnits);
      end_copies();
    }
    next = from + kDepth * kChunkBytes;
    to_ask -= kDepth * kUnits;
  }
  // The rest of the ring.
  __device__ void fill() const {
#pragma unroll
    for (int d = kAhead; d < kDepth; ++d) {
      copy(shared_address(chunk) + d * kChunkBytes, next - (kDepth - d) * kChunkBytes,
           to_ask + (kDepth - d) * kUnits);
      end_copies();
    }
  }
  // Up to a chunk of them.
  __device__ static void copy(uint32_t to, const uint8_t* from, int units) {
#pragma unroll
    for (int u = 0; u < kUnits; ++u) {
#pragma unroll
      for (int at = u * kUnitBytes; at < (u + 1) * kUnitBytes; at += 512) {
        if (u < units) copy_async(to + at, from + at);
      }
    }
  }
  // This lane's first vector of the next chunk, when it is there.
  __device__ const uint8_t* take() const {
    await_copies<kDepth - 1>();
    return chunk;
  }
  // The chunk that was taken is filled again.
  __device__ void advance() {
    if (to_ask > 0) {
      copy(shared_address(chunk), next, to_ask);
      next += kChunkBytes;
      to_ask -= kUnits;
    }
    end_copies();
    chunk = chunk == last ? chunk - (kDepth - 1) * kChunkBytes : chunk + kChunkBytes;
  }
};

// A lane's words of a unit.
template <int kWords>
__device__ inline void load_unit(const uint8_t* from, uint32_t (&w)[kWords]) {
#pragma unroll
  for (int v = 0; v < kWords; v += 4) {
    const uint4 x = *reinterpret_cast<const uint4*>(from + v * 128);
    w[v] = x.x, w[v + 1] = x.y, w[v + 2] = x.z, w[v + 3] = x.w;
  }
}
__device__ inline int column_of(int round) {
  return static_cast<int>(static_cast<unsigned>(round) * kRoundColumns + threadIdx.x * kLane);
}

// A power of two from the chunks of a row of so many rounds.
constexpr int most_chunks(int rounds) { return kRoundColumns / 128 * (rounds == 3 ? 4 : rounds); }

// What make() works out from sums of the whole row, by one warp or by several alike: by the first
// warp for all, or by every warp for itself, which saves a barrier, but takes time of the next
// kernel's warps where those are asking for their weights (a layer of a 7B without attention, H100,
// by one and by all: 2 bits 25.2 us to 24.6, 1 bit 17.4 to 17.0, 4 bits 42.6 to 43.4).
template <int kBits, class T, class F>
__device__ T of_row(T& place, const F& make) {
  constexpr bool kEveryWarp = kBits <= 2;
  T made;
  if (kEveryWarp || threadIdx.x < 32) {
    made = make();
    if (threadIdx.x == 0) place = made;
  }
  if (kEveryWarp) return made;
  __syncthreads();
  return place;
}

// A rotated row as planes into shared memory, and the sum of its codes. The rule's codes are the
// planes' indices; k is a multiple of 8.
template <int kBits, int kRounds>
__device__ void stage_row(const RowRule& rule, const RowPlanes& planes,
                          const float (&v)[kRounds][kLane], int k, const DecodeMemory& shared) {
  square_chunks(v, k, shared.fixed.chunks);
  __syncthreads();
  const RowScale scale = of_row<kBits>(shared.fixed.scale, [&] {
    return scale_of_row<CodeKind::kLinear, most_chunks(kRounds)>(rule, shared.fixed.chunks, k);
  });
  uint32_t indices[kRounds][2] = {};
  int sum = 0;
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
#pragma unroll
    for (int i = 0; i < kLane; ++i) {
      const auto code = static_cast<uint32_t>(linear_code(rule, scale, v[r][i]).code) & 0xffu;
      indices[r][i / 4] |= code << (8 * (i % 4));
    }
    if (column_of(r) >= k) indices[r][0] = indices[r][1] = 0;
    for (const uint32_t bytes : indices[r]) {
      sum = __dp4a(static_cast<int>(bytes), 0x01010101, sum);
    }
  }
  stage_planes<kBits, kRoundColumns>(planes, indices, k, shared.row);
  sum = __reduce_add_sync(0xffffffffu, sum);
  if (threadIdx.x % 32 == 0 && sum != 0) atomicAdd(&shared.fixed.code_sum, planes.slope * sum);
}

// This thread's columns of a row of k values, or of as many weights.
template <int kRounds>
__device__ void read_columns(const float* from, int k, float (&v)[kRounds][kLane]) {
#pragma unroll
  for (int r = 0; r < kRounds; ++r) {
    load_part(from + column_of(r), 0, column_of(r) < k, v[r]);
  }
}

// Where rows come from: fetch_early() reads what no kernel writes, read() the row itself, when the
// previous kernel has written it; rotate() makes of it what is quantized. factor(), by one warp and
// behind a barrier, is what the row's unit is times.
template <int kCount>
struct NormedSource {
  static constexpr int kRounds = kCount;
  static constexpr bool kHasFactor = true;
  NormedRow row;
  float weight[kRounds][kLane];

  __device__ explicit NormedSource(const NormedRow& from) : row(from) {}
  __device__ void fetch_early(int k) { read_columns(row.weight, k, weight); }
  __device__ void read(const RowRule&, int k, float (&v)[kRounds][kLane]) const {
    read_columns(row.x, k, v);
  }
  __device__ void rotate(const RowRule& rule, int k, const DecodeMemory& shared,
                         float (&v)[kRounds][kLane]) const {
    square_chunks(v, k, shared.fixed.norm_chunks);
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
#pragma unroll
      for (int i = 0; i < kLane; ++i) v[r][i] *= weight[r][i];
      if (rule.block > 1) butterfly(v[r], rule.block, rule.norm);
    }
  }
  __device__ float factor(int k, const DecodeMemory& shared) const {
    return inverse_rms<most_chunks(kRounds)>(shared.fixed.norm_chunks, k, row.eps);
  }
};

template <int kCount>
struct GivenSource {
  static constexpr int kRounds = kCount;
  GivenRow row;

  __device__ explicit GivenSource(const GivenRow& from) : row(from) {}
  __device__ void fetch_early(int) {}
  __device__ void read(const RowRule&, int k, float (&v)[kRounds][kLane]) const {
    read_columns(row.x, k, v);
  }
  __device__ void rotate(const RowRule& rule, int k, const DecodeMemory&,
                         float (&v)[kRounds][kLane]) const {
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
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
  float other[kRounds][kLane];

  __device__ explicit SwigluSource(const SwigluRow& from) : row(from) {}
  __device__ void fetch_early(int) {}
  __device__ void read(const RowRule& rule, int k, float (&v)[kRounds][kLane]) {
    const bool last = rule.block > kRotatedColumns;
#pragma unroll
    for (int r = 0; r < kRounds; ++r) {
      const int column = column_of(r);
      load_part(row.values + column, 0, column < k, v[r]);
      load_part(row.values + (column ^ kRotatedColumns), 0, last && column < k, other[r]);
    }
  }
  __device__ void rotate(const RowRule& rule, int k, const DecodeMemory&,
                         float (&v)[kRounds][kLane]) const {
    const bool last = rule.block > kRotatedColumns;
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
__device__ inline float output_of(const ProductTask& p, const DecodeMemory& shared, int i,
                                  int32_t& acc) {
  acc = exact_sum(p, shared.dots[i], shared.fixed.code_sum, shared.n_sums[i]);
  return static_cast<float>(acc) * (shared.fixed.scale.unit * shared.w_units[i]);
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
                         const DecodeMemory& shared) const {
    const int i = static_cast<int>(threadIdx.x), n = tile0 * 16 + i;
    if (i >= tiles * 16 || n >= p.n) return;
    int32_t acc = 0;
    const float value = output_of(p, shared, i, acc);
    to.out[n] = to.residual == nullptr ? value : addend + value;
    if (to.acc != nullptr) to.acc[n] = acc;
  }
};

// The tiles of the block are half gate, half up. Where signs are wanted, a block has 128 values,
// and rotates them wholly.
struct SwigluSink {
  static constexpr bool kPairs = true;
  SwigluMemory out;
  int block;   // of the transform, 1 for none
  float norm;  // of it

  __device__ float fetch(int, bool) const { return 0.0f; }
  // A value in each of the first threads.
  __device__ void finish(const ProductTask& p, int tile0, int tiles, float,
                         const DecodeMemory& shared) const {
    constexpr int kThreads = 16 * kMostPairTiles;
    const int i = static_cast<int>(threadIdx.x), half = tiles * 8;
    if (i >= kThreads) return;
    auto* values = reinterpret_cast<float*>(shared.fixed.ring);  // nobody's now
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
    const auto across = [&](int stride, float* place) {
      place[i] = v;
      asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
      v = __fmaf_rn(v, (i & stride) != 0 ? -1.0f : 1.0f, place[i ^ stride]);
    };
    if (block > 32) across(32, values);
    if (out.signs == nullptr) {
      if (i < half) out.values[tile0 * 16 + i] = v;
      return;
    }
    if (block > 64) across(64, values + kThreads);
    if (block > 1) v *= norm;
    const uint32_t word = __reduce_or_sync(0xffffffffu, v > 0.0f ? 1u << plane_bit<1>(i % 32) : 0u);
    if (i % 32 == 0 && i < half) out.signs[(tile0 * 16 + i) / 32] = word;
    float sum = v * v;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    float* const sums = values + 2 * kThreads;
    if (i % 32 == 0) sums[i / 32] = sum;
    asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
    if (i == 0) out.chunks[tile0 / kMostPairTiles] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }
};

// The row tiles of a block: `count` from `first` on; of pairs half of them from `first` and half
// from first + side_stride on.
template <bool kPairs>
struct BlockTiles {
  int first, count, side_stride;

  __device__ explicit BlockTiles(const DecodeCut& cut) {
    const int block = static_cast<int>(blockIdx.x);
    side_stride = kPairs ? static_cast<int>(static_cast<unsigned>(cut.tiles) / 2) : cut.tiles;
    if constexpr (kPairs) {
      first = block * (cut.block_tiles / 2);
      count = 2 * min(cut.block_tiles / 2, side_stride - first);
    } else {
      count = cut.block_tiles - (block < cut.longer ? 0 : 1);
      first = block * (cut.block_tiles - 1) + min(block, cut.longer);
    }
  }
  // The place of the block's output i among all.
  __device__ int output(int i) const {
    return first * 16 + i + (kPairs && i >= count * 8 ? (side_stride - count / 2) * 16 : 0);
  }
};

template <int kBits, class Source, class Row, class Sink>
__global__ void __launch_bounds__(kDecodeThreads, 2)
    decode_linear_block(const Row row, const RowRule rule, const ProductTask p,
                        const __grid_constant__ DecodeCut cut, const Sink sink) {
  extern __shared__ uint4 memory[];
  const DecodeMemory shared(memory, cut.row_bytes, cut.block_tiles);
  const int tid = static_cast<int>(threadIdx.x);
  const unsigned warp = threadIdx.x / 32;
  // Of pairs one half of the warps has the tiles of gate, the other those of up.
  constexpr int kSides = Sink::kPairs ? 2 : 1, kSideWarps = kDecodeWarps / kSides;
  const unsigned in_side = warp % kSideWarps;
  const int side = static_cast<int>(warp / kSideWarps);
  const BlockTiles<Sink::kPairs> of(cut);
  const int tile0 = of.first, tiles = of.count;
  // What is small comes first: behind the weights it would wait for all of them.
  Source source(row);
  source.fetch_early(p.k);
  float w_unit = 0.0f;
  int32_t number_sum = 0;
  if (tid < tiles * 16) {
    const int n = of.output(tid);
    if (n < p.n) w_unit = p.units[n];
    if (n < p.n && p.a_offset != 0) number_sum = p.number_sums[n];
  }
  const unsigned side_units = static_cast<unsigned>(tiles / kSides * cut.spans);
  const int begin = static_cast<int>(side_units * in_side / kSideWarps);
  const int count = static_cast<int>(side_units * (in_side + 1) / kSideWarps) - begin;
  const auto first_unit =
      static_cast<unsigned>((tile0 + side * of.side_stride) * cut.spans + begin);
  using Stream = WeightStream<kBits>;
  Stream stream(reinterpret_cast<const uint8_t*>(p.lanes) +
                    uint64_t{first_unit} * Stream::kUnitBytes + threadIdx.x % 32 * 16,
                count, shared.fixed.ring);
  if (tid < tiles * 16) shared.dots[tid] = 0;
  if (tid == 0) shared.fixed.code_sum = cut.planes.offset * p.k;
  clear_planes(cut.planes, cut.spans, p.k, shared.row);
  const int tile = quotient(begin, cut.inverse_spans), span = begin - tile * cut.spans;
  int32_t* tile_dots = shared.dots + (side * (tiles / kSides) + tile) * 16;
  PlaneProduct<kBits> product(cut.planes, shared.row, cut.spans, span);
  int spans_left = cut.spans - span;
  __syncthreads();
  // The next kernel's weights are in the way of this one's row: they begin after it where they take
  // less time than the row (of a layer of a 7B, H100, before and after: 4 bits 47.5 us to 50.2, 2
  // bits 33.4 to 32.4, 1 bit 25.1 to 23.9). Of 2 bits they would take turns with gate and up's own,
  // which do not fit the ring: they begin when those have all been asked for (32.2 us to 31.8; 1
  // bit 23.9 to 24.4).
  constexpr bool kEarly = kBits > 2, kAfterOwn = kBits == 2 && Sink::kPairs;
  if (kEarly) let_next_start();
  wait_for_previous();
  if (!kEarly && (!kAfterOwn || stream.to_ask <= 0)) let_next_start();
  const int own = tile0 * 16 + tid;
  const float addend = sink.fetch(own, tid < tiles * 16 && own < p.n);
  {
    float v[Source::kRounds][kLane];
    source.read(rule, p.k, v);
    stream.fill();
    source.rotate(rule, p.k, shared, v);
    stage_row<kBits>(rule, cut.planes, v, p.k, shared);
  }
  __syncthreads();
  if constexpr (has_factor<Source>()) {  // of the unit, for which nobody waits yet
    if (warp == kDecodeWarps - 1) {
      const float factor = source.factor(p.k, shared);
      if (tid % 32 == 0) shared.fixed.scale.unit *= factor;
    }
  }

  const auto end_spans = [&](int done) {
    spans_left -= done;
    if (spans_left != 0) return;
    product.flush(tile_dots);
    spans_left = cut.spans;
    tile_dots += 16;
  };
#pragma unroll 1
  for (int left = count; left > 0; left -= Stream::kUnits) {
    const uint8_t* const chunk = stream.take();
    if (Stream::kUnits == 1 || min(left, spans_left) >= Stream::kUnits) {
      uint32_t w[Stream::kUnits][4 * kBits];
#pragma unroll
      for (int u = 0; u < Stream::kUnits; ++u) load_unit(chunk + u * Stream::kUnitBytes, w[u]);
#pragma unroll
      for (int u = 0; u < Stream::kUnits; ++u) product.add(w[u]);
      end_spans(Stream::kUnits);
    } else {
#pragma unroll 1
      for (int u = 0; u < min(left, Stream::kUnits); ++u) {
        uint32_t w[4 * kBits];
        load_unit(chunk + u * Stream::kUnitBytes, w);
        product.add(w);
        end_spans(1);
      }
    }
    stream.advance();
    if (kAfterOwn && stream.to_ask <= 0) let_next_start();
  }
  if (spans_left != cut.spans && count > 0) product.flush(tile_dots);
  if (tid < tiles * 16) {  // not before: their way from memory is as long as the kernel before
    shared.w_units[tid] = w_unit;
    shared.n_sums[tid] = number_sum;
  }
  __syncthreads();
  sink.finish(p, tile0, tiles, addend, shared);
}

}  // namespace quest::kernels::cuda::deploy
