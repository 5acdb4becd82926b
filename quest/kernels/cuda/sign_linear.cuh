// Device code of decode_linear.h for weights and activations of 1 bit, whose codes are signs: they
// need no scale, so nothing that concerns the whole row is in the way of the product. (A layer of a
// 7B after 512 tokens, H100, with the kernel of decode_linear.cuh and with this: 21.9 us to 19.7.)
//
// A block is 16 warps and one more. Each of the 16 has spans of 256 columns to itself (span w, w +
// 16, ...), of every row tile of the block: it makes the bits of these columns and multiplies by
// them, and meets the others when the sums of tiles are added up. The warp more works out the
// row's scale in the meantime, and asks for weights.
#pragma once

#include "quest/kernels/cuda/decode_linear.cuh"

namespace quest::kernels::cuda::deploy {

inline constexpr int kSignThreads = kDecodeThreads + 32;
inline constexpr int kSignUnitBytes = 512;
// Of a ring of tiles, for each slot.
struct RingBells {
  static constexpr int kMostSlots = kMaxBlockTiles;
  uint64_t full[kMostSlots], empty[kMostSlots];
};
// Tiles that a warp multiplies at once, and a copy brings (of 3 spans 1 and 2: H200, 18.5
// us, 18.8).
constexpr int sign_tiles(int spans) { return spans == 1 ? 4 : spans == 2 ? 2 : 1; }
constexpr int sign_spans(int64_t k) {  // of a warp
  return static_cast<int>((k + kDecodeWarps * kSpanColumns - 1) / (kDecodeWarps * kSpanColumns));
}

// The warp's spans.
__device__ inline int sign_span(int j) {
  return static_cast<int>(threadIdx.x / 32) + j * kDecodeWarps;
}
// This lane's 8 columns of span j.
__device__ inline int sign_column(int j) {
  return sign_span(j) * kSpanColumns + static_cast<int>(threadIdx.x % 32) * kLane;
}

// The warp that works out the scale waits for the others' chunks; they do not wait for it.
__device__ inline void tell_chunks() {
  asm volatile("bar.arrive 2, %0;" ::"n"(kSignThreads) : "memory");
}
__device__ inline void await_chunks() {
  asm volatile("bar.sync 2, %0;" ::"n"(kSignThreads) : "memory");
}

// Beside weights of a span: this lane's words of the row's plane and of a plane of ones, which are
// columns 0 and 1 of the product.
struct SignBits {
  uint32_t half[2];
};

// Where rows come from: fetch_early() and read() as in decode_linear.cuh, but of the warp's spans;
// make() their bits, and the sums of squares that the unit is made of. unit() is the other warp's.
template <class Row, int kCount>
struct SignValues {
  static constexpr int kSpans = kCount;
  static constexpr bool kNormed = std::is_same_v<Row, NormedRow>;
  Row row;
  float weight[kNormed ? kSpans : 1][kLane];
  float v[kSpans][kLane];

  __device__ explicit SignValues(const Row& from) : row(from) {}
  __device__ void fetch_early(int k) {
    if constexpr (kNormed) read_spans(row.weight, k, weight);
  }
  __device__ void read(int k) { read_spans(row.x, k, v); }
  __device__ void make(const RowRule& rule, int k, DecodeShared& shared, SignBits (&bits)[kSpans]) {
    const unsigned lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < kSpans; ++j) {
      float sum_before = 0.0f;
      if constexpr (kNormed) {
        sum_before = square_chunk(v[j]);
#pragma unroll
        for (int i = 0; i < kLane; ++i) v[j][i] *= weight[j][i];
      }
      if (rule.block > 1) butterfly(v[j], rule.block, rule.norm);
      uint32_t part = 0;
#pragma unroll
      for (int i = 0; i < kLane; ++i) {
        if (v[j][i] > 0.0f) part |= plane_part_bit<1>(i);
      }
      const uint32_t parts[1] = {part << plane_bit<1>(8 * static_cast<int>(lane % 4))};
      const uint32_t word = gathered(parts, lane % 4);
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const uint32_t plane = __shfl_sync(0xffffffffu, word, 16 * c + 4 * (lane % 4));
        bits[j].half[c] = lane < 4 ? plane : ~0u;
      }
      const float sum = square_chunk(v[j]);
      if (lane % 16 == 0 && sign_column(j) < k) {
        if constexpr (kNormed) shared.norm_chunks[sign_column(j) / 128] = sum_before;
        shared.chunks[sign_column(j) / 128] = sum;
      }
    }
    tell_chunks();
  }
  __device__ float unit(const RowRule& rule, int k, const DecodeShared& shared) const {
    constexpr int kMost = most_chunks(kSpans);
    await_chunks();
    const float unit = scale_of_row<CodeKind::kLinear, kMost>(rule, shared.chunks, k).unit;
    if constexpr (kNormed) return unit * inverse_rms<kMost>(shared.norm_chunks, k, row.eps);
    return unit;
  }

 private:
  __device__ static void read_spans(const float* from, int k, float (&to)[kSpans][kLane]) {
#pragma unroll
    for (int j = 0; j < kSpans; ++j) {
      load_part(from + sign_column(j), 0, sign_column(j) < k, to[j]);
    }
  }
};

// The kernel before has decided.
template <int kCount>
struct SignWords {
  static constexpr int kSpans = kCount;
  SignRow row;
  uint32_t word[kSpans][2];

  __device__ explicit SignWords(const SignRow& from) : row(from) {}
  __device__ void fetch_early(int) {}
  __device__ void read(int k) {
    const int lane = static_cast<int>(threadIdx.x % 32), words = (k + 31) / 32;
#pragma unroll
    for (int j = 0; j < kSpans; ++j) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int at = sign_span(j) * kSpanBlocks + 4 * c + lane;
        word[j][c] = lane < 4 && at < words ? row.signs[at] : lane < 4 ? 0u : ~0u;
      }
    }
  }
  __device__ void make(const RowRule&, int, DecodeShared&, SignBits (&bits)[kSpans]) {
#pragma unroll
    for (int j = 0; j < kSpans; ++j) bits[j] = {{word[j][0], word[j][1]}};
  }
  __device__ float unit(const RowRule& rule, int k, const DecodeShared&) const {
    return scale_of_row<CodeKind::kLinear, most_chunks(kSpans)>(rule, row.chunks, k).unit;
  }
};

// A block's row tiles of weights on their way through shared memory, kTiles at a time, by bulk
// copies: these take no instructions of the warps that multiply. One thread asks; what was read by
// all is overwritten with what comes `slots` groups later. A multiprocessor is busy issuing what 16
// warps go through, so every instruction between a row and its results counts four cycles.
template <int kTiles>
struct TileRing {
  // Groups under way at a time (a layer of a 7B, H100, without attention, 1, 2 and all: 15.7 us,
  // 16.0, 16.1; of two tiles each 18.0, 15.8 and 16.0).
  static constexpr int kWindow = 1;
  RingBells& bells;
  uint8_t* ring;
  const uint8_t* from;    // the block's first tile
  int tile_bytes, tiles;  // of the layer; in the block
  int half;               // tiles of the first side,
  uint64_t side_bytes;    // and what lies between the sides
  int slots;

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __device__ int group_bytes() const { return kTiles * tile_bytes; }
  __device__ void open() const {
    for (int i = 0; i < slots; ++i) {
      init_bell(bells.full[i], 1);
      init_bell(bells.empty[i], kDecodeWarps);
    }
    fence_bells();
    fence_copies();
  }
  // Tiles [first, first + kTiles), as far as there are.
  __device__ void ask(int first, int slot) const {
    const int end = min(first + kTiles, tiles), split = min(max(half, first), end);
    uint8_t* const to = ring + slot * group_bytes();
    expect_bytes(bells.full[slot], (end - first) * tile_bytes);
    if (split > first) copy(to, first, split - first, slot);
    if (end > split) copy(to + (split - first) * tile_bytes, split, end - split, slot);
  }
  // The first groups; the others as those before arrive, so that no more is under way at a time
  // than keeps the memory busy: what else is read, the row above all, would wait behind it.
  __device__ void ask_first() const {
    for (int slot = 0; slot < kWindow && slot * kTiles < tiles; ++slot) ask(slot * kTiles, slot);
  }
  __device__ void ask_rest() const {
    int slot = kWindow % slots, arriving = 0, arriving_phase = 0, phase = 0;
    for (int first = kWindow * kTiles; first < tiles; first += kTiles) {
      await_bell(bells.full[arriving], arriving_phase);
      if (++arriving == slots) arriving = 0, arriving_phase ^= 1;
      if (first >= slots * kTiles) {
        await_bell(bells.empty[slot], phase);
        if (slot + 1 == slots) phase ^= 1;
      }
      ask(first, slot);
      if (++slot == slots) slot = 0;
    }
  }
  // f(tile, where it stands) for the first tile of every group, when the group is there. f reads
  // and calls done(), then works.
  template <class F>
  __device__ void for_each_group(const F& f) const {
    const uint8_t* at = ring;
    int slot = 0, phase = 0;
#pragma unroll 1
    for (int tile = 0; tile < tiles; tile += kTiles) {
      await_bell(bells.full[slot], phase);
      f(tile, at, [&] {
        if (tile + slots * kTiles >= tiles) return;
        __syncwarp();
        if (threadIdx.x % 32 == 0) ring_bell(bells.empty[slot]);
      });
      at += group_bytes();
      if (++slot == slots) slot = 0, phase ^= 1, at = ring;
    }
  }

 private:
  __device__ void copy(uint8_t* to, int tile, int count, int slot) const {
    const uint64_t before = static_cast<uint64_t>(tile) * static_cast<unsigned>(tile_bytes);
    bulk_copy(to, from + before + (tile >= half ? side_bytes : 0), count * tile_bytes,
              bells.full[slot]);
  }
#endif
};

template <class Source, class Row, class Sink>
__global__ void __launch_bounds__(kSignThreads, 2)
    sign_linear_block(const Row row, const RowRule rule, const ProductTask p,
                      const __grid_constant__ DecodeCut cut, const Sink sink) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  extern __shared__ uint4 memory[];
  constexpr int kSpans = Source::kSpans, kTiles = sign_tiles(kSpans);
  const DecodeMemory shared(memory, cut.row_bytes, cut.block_tiles);
  const int tid = static_cast<int>(threadIdx.x), lane = tid % 32;
  const bool serves = tid >= kDecodeThreads;
  const BlockTiles<Sink::kPairs> of(cut);
  TileRing<kTiles> weights{*reinterpret_cast<RingBells*>(shared.row), shared.fixed.ring};
  weights.tile_bytes = cut.spans * kSignUnitBytes;
  weights.tiles = of.count;
  weights.half = Sink::kPairs ? of.count / 2 : of.count;
  weights.slots = cut.slots;
  Source source(row);
  if (!serves) {
    source.fetch_early(p.k);
  } else if (lane == 0) {
    const uint64_t bytes = static_cast<unsigned>(weights.tile_bytes);
    weights.from = reinterpret_cast<const uint8_t*>(p.lanes) + of.first * bytes;
    weights.side_bytes = (of.side_stride - weights.half) * bytes;
    weights.open();
    weights.ask_first();
  }
  float w_unit = 0.0f;
  if (tid < of.count * 16) {
    const int n = of.output(tid);
    if (n < p.n) w_unit = p.units[n];
    shared.dots[tid] = 0;
  }
  if (tid == 0) shared.fixed.code_sum = -p.k;
  __syncthreads();
  if (serves) {
    if (lane == 0) weights.ask_rest();
    __syncwarp();
  }
  wait_for_previous();
  // Behind gate and up when their weights have all been asked for, with which the next kernel's
  // would take turns (a layer of a 7B after 512 tokens: 19.2 us to 18.8, H200; when the last are
  // there 20.5, H100, where it takes 20.1).
  if (!Sink::kPairs || serves) let_next_start();
  const int own = of.first * 16 + tid;
  const float addend = sink.fetch(own, tid < of.count * 16 && own < p.n);
  if (serves) {
    const float unit = source.unit(rule, p.k, shared.fixed);
    if (lane == 0) shared.fixed.scale.unit = unit;
  } else {
    SignBits bits[kSpans];
    source.read(p.k);
    source.make(rule, p.k, shared.fixed, bits);
    int ones = 0;
#pragma unroll
    for (int j = 0; j < kSpans; ++j) ones += __popc(bits[j].half[0]) + __popc(bits[j].half[1]);
    ones = __reduce_add_sync(0xffffffffu, lane < 4 ? ones : 0);
    if (lane == 0) atomicAdd(&shared.fixed.code_sum, 2 * ones);
    // Not all warps have a last span: they multiply another, or the tile's first, by zeros.
    const bool has_last = sign_span(kSpans - 1) < cut.spans;
    if (!has_last) bits[kSpans - 1] = {};
    const int last_span = has_last ? (kSpans - 1) * kDecodeWarps * kSignUnitBytes : 0;
    const int offset = (kSpans > 1 || has_last ? sign_span(0) * kSignUnitBytes : 0) + lane * 16;
    int32_t* dots = shared.dots + lane / 4;
    weights.for_each_group([&](int tile, const uint8_t* at, const auto& done) {
      uint4 w[kTiles][kSpans];
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        if (i > 0 && tile + i >= of.count) break;
#pragma unroll
        for (int j = 0; j < kSpans; ++j) {
          const int span = j < kSpans - 1 ? j * kDecodeWarps * kSignUnitBytes : last_span;
          w[i][j] = *reinterpret_cast<const uint4*>(at + i * weights.tile_bytes + offset + span);
        }
      }
      done();
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        if (i > 0 && tile + i >= of.count) break;
        int sums[4] = {};
#pragma unroll
        for (int j = 0; j < kSpans; ++j) {
          mma_bits(sums, w[i][j].x, w[i][j].y, w[i][j].z, w[i][j].w, bits[j].half[0],
                   bits[j].half[1]);
        }
        if (lane % 4 == 0) {  // sum_k u (2 i - 1) of rows lane / 4 and 8 on
          atomicAdd(dots + i * 16, 2 * sums[0] - sums[1]);
          atomicAdd(dots + i * 16 + 8, 2 * sums[2] - sums[3]);
        }
      }
      dots += kTiles * 16;
    });
  }
  if (tid < of.count * 16) {  // not before: its way from memory is as long as the kernel before
    shared.w_units[tid] = w_unit;
    shared.n_sums[tid] = 0;
  }
  __syncthreads();
  sink.finish(p, of.first, of.count, addend, shared);
#endif
}

}  // namespace quest::kernels::cuda::deploy
