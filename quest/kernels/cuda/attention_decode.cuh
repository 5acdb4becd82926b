// The steps of one block of attention_decode.cu. Threads of the block call each of them together.
#pragma once

#include "quest/kernels/cuda/attention_decode.h"
#include "quest/kernels/cuda/deploy_math.cuh"
#include "quest/kernels/cuda/kv_cache.cuh"

namespace quest::kernels::cuda::deploy {

inline constexpr int kPiece = static_cast<int>(kPieceKeys);
inline constexpr int kPieceThreads = 256;
inline constexpr int kPagesOfPiece = kPiece / kPagePositions;

// Everything a call knows; plain data, passed to the kernel by value.
struct SplitTask {
  DeviceCache cache;
  const float* qkv;
  const float* cos;  // null: q is turned already, and the cache has the row's own keys and values
  const float* sin;
  KvRows rows;
  int heads, group, sets;  // sets of query heads that blocks take, of one key-value head
  int pieces;              // of the grid
  float scale;
  float* out;
  unsigned* counters;    // (rows, G sets): pieces that have ended
  float2* partial_sums;  // (rows, H, pieces): largest, sum
  float* partial;        // (rows, H, pieces, D)
};

// Parts of the workspace. The counters come first and have a fixed size, so that they stay zero
// between calls of different rows and pieces.
inline int64_t counter_bytes(int64_t max_rows, int64_t heads) {
  return (max_rows * heads * static_cast<int64_t>(sizeof(unsigned)) + 15) / 16 * 16;
}
inline int64_t sum_bytes(int64_t rows, int64_t heads, int64_t pieces) {
  return (rows * heads * pieces * static_cast<int64_t>(sizeof(float2)) + 15) / 16 * 16;
}

// What this block does.
struct Piece {
  int64_t row;
  int slot, position;
  int kv_head;
  int first_head, heads;  // query heads
  int index, pieces;      // of the row
  int first, keys;        // positions [first, first + keys)
  int fresh;              // of them, the one that this block makes, or -1
  bool stores_fresh;      // and writes into the cache
};

template <int kHeads>
__device__ Piece find_piece(const SplitTask& task) {
  Piece p;
  p.row = blockIdx.z;
  p.index = blockIdx.x;
  p.position = task.rows.position[p.row];
  p.slot = task.rows.slot[p.row];
  const int set = blockIdx.y % task.sets;
  p.kv_head = blockIdx.y / task.sets;
  p.first_head = p.kv_head * task.group + set * kHeads;
  p.heads = min(kHeads, task.group - set * kHeads);
  p.pieces = p.position / kPiece + 1;
  p.first = p.index * kPiece;
  p.keys = min(kPiece, p.position + 1 - p.first);
  const bool fresh = task.cos != nullptr && p.index == p.pieces - 1;
  p.fresh = fresh ? p.position - p.first : -1;
  p.stores_fresh = fresh && set == 0;
  return p;
}

// One lane's part of the scores: 4 keys, of each every fourth column of 8 values.
template <KvFormat kFormat, int kColumns>
struct KeyLoads {
  using Raw8 = typename Cached<kFormat>::Raw8;
  static constexpr int kEach = kColumns / 4;  // columns
  static constexpr int kKeys = 4;
  Raw8 raw[kKeys][kEach];
  float unit = 1.0f;  // int8: of key lane % 4

  __device__ static int key(int i) {
    return static_cast<int>(threadIdx.x) / 32 * 32 + i * 8 + threadIdx.x % 32 / 4;
  }

  __device__ void fetch(const DeviceCache& cache, const Piece& piece, uint8_t* const* pages) {
    const int columns = cache.dim / kLane, lane = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < kKeys; ++i) {
      const int j = key(i);
      const bool cached = j < piece.keys && j != piece.fresh;
      const uint8_t* page = pages[j / kPagePositions];
      const Raw8* from = reinterpret_cast<const Raw8*>(page) + j % kPagePositions * columns;
#pragma unroll
      for (int u = 0; u < kEach; ++u) {
        raw[i][u] = Raw8{};
        if (cached && lane + 4 * u < columns) raw[i][u] = from[lane + 4 * u];
      }
    }
    if constexpr (kFormat == KvFormat::kInt8) {
      const int j = key(lane);
      if (j < piece.keys && j != piece.fresh) {
        unit = cache.units(pages[j / kPagePositions])[j % kPagePositions];
      }
    }
  }

  // scores (heads, kPiece) of q (heads, D); -inf beyond the piece's keys.
  template <int kHeads>
  __device__ void scores(const DeviceCache& cache, const Piece& piece, const float* q,
                         const uint8_t* fresh, float fresh_unit, float* to) {
    const int columns = cache.dim / kLane, lane = threadIdx.x % 4;
    float sum[kHeads][kKeys] = {};
#pragma unroll
    for (int u = 0; u < kEach; ++u) {
      const int column = lane + 4 * u;
      if (column >= columns) break;
      float k[kKeys][kLane];
#pragma unroll
      for (int i = 0; i < kKeys; ++i) {
        if (key(i) == piece.fresh) raw[i][u] = reinterpret_cast<const Raw8*>(fresh)[column];
        Cached<kFormat>::decode8(raw[i][u], k[i]);
      }
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h >= piece.heads) break;
        float of_q[kLane];
        load8(q + h * cache.dim + column * kLane, of_q);
#pragma unroll
        for (int i = 0; i < kKeys; ++i) {
#pragma unroll
          for (int d = 0; d < kLane; ++d) sum[h][i] = __fmaf_rn(of_q[d], k[i][d], sum[h][i]);
        }
      }
    }
    if (kFormat == KvFormat::kInt8 && key(lane) == piece.fresh) unit = fresh_unit;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= piece.heads) break;
      float mine = 0.0f;
#pragma unroll
      for (int i = 0; i < kKeys; ++i) {
        sum[h][i] += __shfl_xor_sync(0xffffffffu, sum[h][i], 1);
        sum[h][i] += __shfl_xor_sync(0xffffffffu, sum[h][i], 2);
        if (i == lane) mine = sum[h][i];
      }
      const int j = key(lane);
      if (kFormat == KvFormat::kInt8) mine *= unit;
      to[h * kPiece + j] = j < piece.keys ? mine : -INFINITY;
    }
  }
};

// Into the L2 cache, which is all that is needed before the scores are known.
template <KvFormat kFormat>
__device__ void fetch_values(const DeviceCache& cache, const Piece& piece, uint8_t* const* pages) {
  constexpr int kLine = 128;
  const int row_bytes = cache.dim * static_cast<int>(sizeof(typename Cached<kFormat>::Type));
  const int end = piece.keys * row_bytes;  // pages one after the other
  for (int at = threadIdx.x * kLine; at < end; at += kPieceThreads * kLine) {
    const uint8_t* line = pages[at / cache.part_bytes] + cache.part_bytes + at % cache.part_bytes;
    asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
  }
}

// q of the block's heads, scaled, into `heads`; then the keys and values of the row's own token:
// behind q, in the cache's form into fresh and its units, and into the cache. Ends with a barrier.
template <KvFormat kFormat>
__device__ void prepare_heads(const SplitTask& task, const Piece& piece, float* heads,
                              uint8_t* fresh, int fresh_bytes, float* fresh_units,
                              uint8_t* const* pages) {
  using Type = typename Cached<kFormat>::Type;
  constexpr bool kInt8 = kFormat == KvFormat::kInt8;
  const DeviceCache& cache = task.cache;
  const int dim = cache.dim, half = dim / 2, of_q = piece.heads * dim;
  const float* row = task.qkv + piece.row * (task.heads + 2 * cache.kv_heads) * dim;
  const float* q = row + piece.first_head * dim;
  if (task.cos == nullptr) {
    for (int i = threadIdx.x; i < of_q; i += kPieceThreads) heads[i] = q[i] * task.scale;
    __syncthreads();
    return;
  }
  const float* k = row + (task.heads + piece.kv_head) * dim;
  const float* v = k + cache.kv_heads * dim;
  const bool makes = piece.fresh >= 0;
  const float* cos = task.cos + static_cast<int64_t>(piece.position) * half;
  const float* sin = task.sin + static_cast<int64_t>(piece.position) * half;
  for (int index = threadIdx.x; index < (piece.heads + (makes ? 1 : 0)) * half;
       index += kPieceThreads) {
    const int head = index / half, i = index % half, at = head * dim + i;
    const float* from = head < piece.heads ? q + at : k + i;
    float first = from[0], second = from[half];
    turn(first, second, cos[i], sin[i]);
    if (!kInt8 && head < piece.heads) {
      first *= task.scale;
      second *= task.scale;
    }
    heads[at] = first;
    heads[at + half] = second;
  }
  if (makes) {
    for (int i = threadIdx.x; i < dim; i += kPieceThreads) heads[of_q + dim + i] = v[i];
  }
  __syncthreads();
  if constexpr (kInt8) {
    transform_heads(cache, heads, of_q + (makes ? 2 * dim : 0));
    __syncthreads();
    for (int i = threadIdx.x; i < of_q; i += kPieceThreads) heads[i] *= task.scale;
  }
  if (makes && threadIdx.x < 64) {  // a warp for K, one for V
    const int part = threadIdx.x / 32, slot = piece.position % kPagePositions;
    const float* x = heads + of_q + part * dim;
    uint8_t* page = pages[piece.fresh / kPagePositions];
    CacheUnit unit = {1.0f, 1.0f};
    if constexpr (kInt8) unit = cache_unit(x, dim);
    auto* codes = reinterpret_cast<Type*>(fresh + part * fresh_bytes);
    auto* stored = reinterpret_cast<Type*>(page + part * cache.part_bytes) + slot * dim;
    for (int i = threadIdx.x % 32; i < dim; i += 32) {
      const Type code = Cached<kFormat>::encode(x[i], unit.scale);
      codes[i] = code;
      if (piece.stores_fresh) stored[i] = code;
    }
    if (kInt8 && threadIdx.x % 32 == 0) {
      fresh_units[part] = unit.unit;
      if (piece.stores_fresh) cache.units(page)[part * kPagePositions + slot] = unit.unit;
    }
  }
  __syncthreads();
}

// Scores become weights exp(s - largest), of int8 times the values' units; largest and total of
// each head. A warp for each head.
template <KvFormat kFormat>
__device__ void softmax_of_piece(const DeviceCache& cache, const Piece& piece, float* scores,
                                 uint8_t* const* pages, float fresh_unit, float* largest,
                                 float* total) {
  constexpr int kEach = kPiece / 32;
  const int head = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (head >= piece.heads) return;
  float s[kEach], most = -INFINITY, sum = 0.0f;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    s[i] = scores[head * kPiece + i * 32 + lane];
    most = fmaxf(most, s[i]);
  }
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int j = i * 32 + lane;
    if (j >= piece.keys) break;
    float weight = exp_as_cpu(s[i] - most);
    sum += weight;
    if constexpr (kFormat == KvFormat::kInt8) {
      weight *= j == piece.fresh
                    ? fresh_unit
                    : cache.units(pages[j / kPagePositions])[kPagePositions + j % kPagePositions];
    }
    scores[head * kPiece + j] = weight;
  }
#pragma unroll
  for (int step = 1; step < 32; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  if (lane == 0) {
    largest[head] = most;
    total[head] = sum;
  }
}

// One thread's part of the weighted sum of values: 8 columns, every kSubs-th key.
template <KvFormat kFormat, int kColumns, int kHeads>
struct ValueSums {
  using Raw8 = typename Cached<kFormat>::Raw8;
  static constexpr int kSubs = kPieceThreads / kColumns;
  static constexpr int kAhead = 8;  // keys whose values are in flight
  float sum[kHeads][kLane] = {};

  __device__ void add(const DeviceCache& cache, const Piece& piece, const float* weights,
                      uint8_t* const* pages, const uint8_t* fresh) {
    const int columns = cache.dim / kLane, column = threadIdx.x % kColumns;
    if (column >= columns) return;
    for (int first = threadIdx.x / kColumns; first < piece.keys; first += kSubs * kAhead) {
      Raw8 raw[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int j = first + i * kSubs;
        raw[i] = Raw8{};
        if (j >= piece.keys) continue;
        const uint8_t* part = pages[j / kPagePositions] + cache.part_bytes;
        raw[i] = j == piece.fresh
                     ? reinterpret_cast<const Raw8*>(fresh)[column]
                     : reinterpret_cast<const Raw8*>(part)[j % kPagePositions * columns + column];
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const int j = first + i * kSubs;
        if (j >= piece.keys) break;
        float v[kLane];
        Cached<kFormat>::decode8(raw[i], v);
#pragma unroll
        for (int h = 0; h < kHeads; ++h) {
          if (h >= piece.heads) break;
          const float weight = weights[h * kPiece + j];
#pragma unroll
          for (int d = 0; d < kLane; ++d) sum[h][d] = __fmaf_rn(weight, v[d], sum[h][d]);
        }
      }
    }
  }

  // Over the threads of a column: lanes of a warp, then warps in order. to (heads, D). `sums`: a
  // float for each warp and value of a head.
  __device__ void reduce(const Piece& piece, int dim, float* sums, float* to) {
    constexpr int kWarps = kPieceThreads / 32, kMaxDim = kColumns * kLane;
    const int column = threadIdx.x % kColumns, warp = threadIdx.x / 32;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= piece.heads) break;
#pragma unroll
      for (int d = 0; d < kLane; ++d) {
#pragma unroll
        for (int step = kColumns; step < 32; step *= 2) {
          sum[h][d] += __shfl_xor_sync(0xffffffffu, sum[h][d], step);
        }
      }
      __syncthreads();  // the head before has been read; first: nobody reads q any more
      if (threadIdx.x % 32 < kColumns) store8(sums + warp * kMaxDim + column * kLane, sum[h]);
      __syncthreads();
      for (int d = threadIdx.x; d < dim; d += kPieceThreads) {
        float all = 0.0f;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) all += sums[w * kMaxDim + d];
        to[h * dim + d] = all;
      }
    }
  }
};

// o (heads, D) over its totals into out, of int8 through the transform.
template <bool kInt8>
__device__ void write_row(const SplitTask& task, const Piece& piece, float* o, const float* total) {
  const int dim = task.cache.dim, values = piece.heads * dim;
  float* out = task.out + (piece.row * task.heads + piece.first_head) * dim;
  if constexpr (kInt8) {
    for (int i = threadIdx.x; i < values; i += kPieceThreads) o[i] /= total[i / dim];
    __syncthreads();
    transform_heads(task.cache, o, values);
    __syncthreads();
    for (int i = threadIdx.x; i < values; i += kPieceThreads) out[i] = o[i];
  } else {
    for (int i = threadIdx.x; i < values; i += kPieceThreads) out[i] = o[i] / total[i / dim];
  }
}

// Of the block's head h in the workspace: pieces of it lie one after the other.
__device__ inline int64_t partial_at(const SplitTask& task, const Piece& piece, int h) {
  return (piece.row * task.heads + piece.first_head + h) * task.pieces;
}

__device__ inline void write_partial(const SplitTask& task, const Piece& piece, const float* o,
                                     const float* largest, const float* total) {
  const int dim = task.cache.dim;
  for (int i = threadIdx.x; i < piece.heads * dim; i += kPieceThreads) {
    const int64_t at = partial_at(task, piece, i / dim) + piece.index;
    task.partial[at * dim + i % dim] = o[i];
  }
  if (threadIdx.x < piece.heads) {
    task.partial_sums[partial_at(task, piece, threadIdx.x) + piece.index] =
        make_float2(largest[threadIdx.x], total[threadIdx.x]);
  }
}

// Whether all other pieces of the row have been written; then their results are visible, and the
// counter is zero again.
__device__ inline bool is_last_piece(const SplitTask& task, const Piece& piece) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned* counter = task.counters + piece.row * gridDim.y + blockIdx.y;
    last = atomicAdd(counter, 1u) == static_cast<unsigned>(piece.pieces - 1);
    if (last) *counter = 0;
  }
  __syncthreads();
  if (last) __threadfence();
  return last;
}

// o (heads, D), total of all pieces of the row, in order. weights: kPiece floats for each head.
__device__ inline void combine_pieces(const SplitTask& task, const Piece& piece, float* weights,
                                      float* o, float* largest, float* total) {
  const int dim = task.cache.dim, head = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int pieces = piece.pieces, values = piece.heads * dim;
  if (head < piece.heads) {
    const float2* sums = task.partial_sums + partial_at(task, piece, head);
    float most = -INFINITY, sum = 0.0f;
    for (int i = lane; i < pieces; i += 32) most = fmaxf(most, __ldcg(sums + i).x);
    for (int step = 1; step < 32; step *= 2) {
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    }
    for (int i = lane; i < pieces; i += 32) {
      const float2 part = __ldcg(sums + i);
      sum = __fmaf_rn(part.y, exp_as_cpu(part.x - most), sum);
    }
    for (int step = 1; step < 32; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0) {
      largest[head] = most;
      total[head] = sum;
    }
  }
  for (int i = threadIdx.x; i < values; i += kPieceThreads) o[i] = 0.0f;
  for (int first = 0; first < pieces; first += kPiece) {
    const int count = min(kPiece, pieces - first);
    __syncthreads();
    for (int i = threadIdx.x; i < piece.heads * count; i += kPieceThreads) {
      const int h = i / count, p = i % count;
      const float most = __ldcg(task.partial_sums + partial_at(task, piece, h) + first + p).x;
      weights[h * kPiece + p] = exp_as_cpu(most - largest[h]);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < values; i += kPieceThreads) {
      const int h = i / dim;
      const float* part = task.partial + (partial_at(task, piece, h) + first) * dim + i % dim;
      float sum = o[i];
#pragma unroll 8
      for (int p = 0; p < count; ++p) {
        sum = __fmaf_rn(weights[h * kPiece + p], __ldcg(part + static_cast<int64_t>(p) * dim), sum);
      }
      o[i] = sum;
    }
  }
  __syncthreads();
}

}  // namespace quest::kernels::cuda::deploy
