// The steps of one block of attention_decode.cu up to the sums of its warps (attention_combine.cuh
// goes on from there). Threads of the block call each of them together.
#pragma once

#include "quest/kernels/cuda/attention_decode.h"
#include "quest/kernels/cuda/cluster.cuh"
#include "quest/kernels/cuda/kv_cache.cuh"

namespace quest::kernels::cuda::deploy {

// Everything a call knows; plain data, passed to the kernel by value.
struct SplitTask {
  DeviceCache cache;
  const float* qkv;
  const float* cos;  // null: q is turned already, and the cache has the row's own keys and values
  const float* sin;
  KvRows rows;
  int heads, group, sets;  // sets of query heads that blocks take, of one key-value head
  int pieces;              // of the grid
  bool clustered;          // pieces of a row and set are a cluster of blocks
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

// exp(x) of x <= 0, off by (|x| + 4) / 2^24 of it, and a / b to 2 / 2^24, by the instructions for
// powers of two and reciprocals: few warps are at work, which wait for every instruction of more.
__device__ inline float fast_exp(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.44269504088896341f));
  return y;
}
__device__ inline float fast_quotient(float a, float b) { return __fdividef(a, b); }

// How the threads of a block share a chunk of kChunk keys, which is a page. kColumns: 8-value
// columns of a head, rounded up to 8, 16 or 32. Each warp has kKeys of the chunk's keys to itself:
// for scores four lanes share a key, for values a lane has 8 columns of every kSubs-th key.
inline constexpr int kChunk = kPagePositions;
template <int kColumns>
struct Shares {
  static constexpr int kThreads = kColumns <= 16 ? 128 : 256;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kMaxDim = kColumns * kLane;
  static constexpr int kKeys = kChunk / kWarps;
  static constexpr int kRounds = kKeys / 8;   // keys of a lane, for scores
  static constexpr int kEach = kColumns / 4;  // and its columns of each
  static constexpr int kSubs = 32 / kColumns;
  static constexpr int kUnits = kKeys / kSubs;  // keys of a lane, for values

  __device__ static int key(int round) {
    return static_cast<int>(threadIdx.x) / 32 * kKeys + round * 8 + threadIdx.x % 32 / 4;
  }
  // Of the warp's keys.
  __device__ static int value_key(int unit) {
    return static_cast<int>(threadIdx.x) % 32 / kColumns + unit * kSubs;
  }
};

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
  const int positions = p.position + 1;
  p.pieces = attend_pieces(positions);
  p.first = piece_page(positions, p.index) * kPagePositions;
  // At most 0 beyond the row's pieces.
  p.keys = min(piece_page(positions, p.index + 1) * kPagePositions, positions) - p.first;
  const bool fresh = task.cos != nullptr && p.index == p.pieces - 1;
  p.fresh = fresh ? p.position - p.first : -1;
  p.stores_fresh = fresh && set == 0;
  return p;
}

// Key and value of the row's own token, as the cache has them.
template <int kMaxDim>
struct FreshRow {
  __align__(16) uint8_t row[2][kMaxDim * 2];
  float unit[2];
};

// Shared memory of a block.
template <int kColumns, int kHeads>
struct AttendShared {
  using S = Shares<kColumns>;
  static constexpr int kMaxDim = S::kMaxDim;
  static constexpr int kParts = (kHeads > 4 ? 2 : 1) * kFewPieces;  // that a block combines
  __align__(16) float heads[(kHeads + 2) * kMaxDim];           // q, then the new k and v; later o
  __align__(16) float of_warps[S::kWarps * kHeads * kMaxDim];  // before: cos and sin; later weights
  __align__(16) float of_pieces[kParts * kMaxDim];
  float2 sums_of_warps[S::kWarps * kHeads];  // largest, total
  float2 sums_of_pieces[kParts];
  FreshRow<kMaxDim> fresh;
  float largest[kHeads], total[kHeads];
  Mailbox box;
  bool last;
};

// One lane's keys and values of a chunk.
template <KvFormat kFormat, int kColumns>
struct ChunkLoads {
  using S = Shares<kColumns>;
  using Raw8 = typename Cached<kFormat>::Raw8;
  static constexpr bool kInt8 = kFormat == KvFormat::kInt8;
  Raw8 k[S::kRounds][S::kEach];
  Raw8 v[S::kUnits];
  float k_unit[S::kRounds], v_unit[S::kRounds];  // int8; of the keys of key()

  // The chunk of a piece that begins at its key `from`, in `page`. What is not cached is zero.
  __device__ void fetch_keys(const DeviceCache& cache, const Piece& piece, int from,
                             uint8_t* page) {
    const int columns = cache.dim / kLane, lane = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < S::kRounds; ++i) {
      const int j = S::key(i);
      const bool cached = from + j < piece.keys && from + j != piece.fresh;
      const Raw8* row = reinterpret_cast<const Raw8*>(page) + j * columns;
#pragma unroll
      for (int u = 0; u < S::kEach; ++u) {
        k[i][u] = Raw8{};
        if (cached && lane + 4 * u < columns) k[i][u] = row[lane + 4 * u];
      }
      if constexpr (kInt8) k_unit[i] = cached ? cache.units(page)[j] : 0.0f;
    }
  }
  __device__ void fetch_values(const DeviceCache& cache, const Piece& piece, int from,
                               uint8_t* page) {
    const int columns = cache.dim / kLane, column = threadIdx.x % kColumns;
    const int first = static_cast<int>(threadIdx.x) / 32 * S::kKeys;
    const Raw8* rows = reinterpret_cast<const Raw8*>(page + cache.part_bytes) + column;
#pragma unroll
    for (int u = 0; u < S::kUnits; ++u) {
      const int j = first + S::value_key(u);
      const bool cached = from + j < piece.keys && from + j != piece.fresh && column < columns;
      v[u] = Raw8{};
      if (cached) v[u] = rows[j * columns];
    }
    if constexpr (kInt8) {
#pragma unroll
      for (int i = 0; i < S::kRounds; ++i) {
        const int j = S::key(i);
        const bool cached = from + j < piece.keys && from + j != piece.fresh;
        v_unit[i] = cached ? cache.units(page)[kPagePositions + j] : 0.0f;
      }
    }
  }
  // A chunk's keys and values, which lie in a row, into the second-level cache.
  __device__ static void prefetch(const DeviceCache& cache, const uint8_t* page) {
#pragma unroll 1
    for (int at = static_cast<int>(threadIdx.x) * 128; at < 2 * cache.part_bytes;
         at += S::kThreads * 128) {
      asm volatile("prefetch.global.L2 [%0];" ::"l"(page + at));
    }
  }
  __device__ void insert_fresh(const DeviceCache& cache, const Piece& piece, int from,
                               const FreshRow<S::kMaxDim>& fresh) {
    if (piece.fresh < from || piece.fresh >= from + kChunk) return;
    const int columns = cache.dim / kLane, lane = threadIdx.x % 4, own = piece.fresh - from;
    const auto* keys = reinterpret_cast<const Raw8*>(fresh.row[0]);
    const auto* values = reinterpret_cast<const Raw8*>(fresh.row[1]);
#pragma unroll
    for (int i = 0; i < S::kRounds; ++i) {
      if (S::key(i) != own) continue;
#pragma unroll
      for (int u = 0; u < S::kEach; ++u) {
        if (lane + 4 * u < columns) k[i][u] = keys[lane + 4 * u];
      }
      if constexpr (kInt8) {
        k_unit[i] = fresh.unit[0];
        v_unit[i] = fresh.unit[1];
      }
    }
    const int column = threadIdx.x % kColumns;
    const int first = static_cast<int>(threadIdx.x) / 32 * S::kKeys;
#pragma unroll
    for (int u = 0; u < S::kUnits; ++u) {
      if (first + S::value_key(u) == own && column < columns) v[u] = values[column];
    }
  }
};

// q of a head against int8 keys, by integer dot products: q = unit * (d0 + d1 / 254 + d2 / 254^2)
// with digits of 8 bits, which is off by at most max|q| / 2^24. In place: `dim` floats become three
// rows of digits, dim / 4 words each, then the unit.
inline constexpr int kDigits = 3;
inline constexpr float kDigitBase = 254.0f;
// By one warp. A q that is not finite makes the unit NaN or infinite, and by that all scores.
__device__ inline void make_digits(float* q, int dim, float scale) {
  constexpr int kMostGroups = 256 / 4 / 32;  // of 4 values, of a lane
  const int lane = threadIdx.x % 32, words = dim / 4;
  float4 x[kMostGroups];
  unsigned most = 0;  // bits of |q|: ordered as numbers, NaN above all
#pragma unroll
  for (int g = 0; g < kMostGroups; ++g) {
    const int at = g * 32 + lane;
    x[g] = at < words ? reinterpret_cast<const float4*>(q)[at] : make_float4(0, 0, 0, 0);
    for (const float value : {x[g].x, x[g].y, x[g].z, x[g].w}) {
      most = max(most, __float_as_uint(value) & 0x7fffffffu);
    }
  }
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    most = max(most, __shfl_xor_sync(0xffffffffu, most, step));
  }
  __syncwarp();
  const float largest = __uint_as_float(most);
  const float to_digits = largest > 1e-30f ? 127.0f / largest : 0.0f;
  uint32_t* const digits = reinterpret_cast<uint32_t*>(q);
#pragma unroll
  for (int g = 0; g < kMostGroups; ++g) {
    const int at = g * 32 + lane;
    if (at >= words) break;
    float rest[4] = {x[g].x * to_digits, x[g].y * to_digits, x[g].z * to_digits,
                     x[g].w * to_digits};
#pragma unroll
    for (int p = 0; p < kDigits; ++p) {
      uint32_t word = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float shifted = shift_to_integer(rest[i]);
        word |= (__float_as_uint(shifted) & 0xffu) << 8 * i;
        rest[i] = (rest[i] - (shifted - kIntegerShift)) * kDigitBase;
      }
      digits[p * words + at] = word;
    }
  }
  if (lane == 0) q[kDigits * words] = largest / 127.0f * scale;
}

// A warp's softmax and weighted sum of values over its keys of the chunks so far.
template <KvFormat kFormat, int kColumns, int kHeads>
struct WarpSums {
  using S = Shares<kColumns>;
  using Loads = ChunkLoads<kFormat, kColumns>;
  static constexpr bool kInt8 = kFormat == KvFormat::kInt8;
  using Raw8 = typename Cached<kFormat>::Raw8;
  static constexpr unsigned kAll = 0xffffffffu;
  float weight[kHeads][S::kRounds];  // of the keys of key()
  float largest[kHeads], total[kHeads];
  float sum[kHeads][kLane] = {};  // of this lane's column

  __device__ WarpSums() {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      largest[h] = -INFINITY;
      total[h] = 0.0f;
    }
  }

  // Scores of q (heads, D), which has been scaled; of int8: digits.
  __device__ void score(const DeviceCache& cache, const Piece& piece, const Loads& loads,
                        const float* q) {
    if constexpr (kInt8) {
      multiply_digits(cache, piece, loads, q);
    } else {
      multiply(cache, piece, loads, q);
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= piece.heads) break;
#pragma unroll
      for (int i = 0; i < S::kRounds; ++i) {
        float& s = weight[h][i];
        s += __shfl_xor_sync(kAll, s, 1);
        s += __shfl_xor_sync(kAll, s, 2);
        if constexpr (kInt8) {
          s *= q[h * cache.dim + kDigits * (cache.dim / 4)];
          s *= loads.k_unit[i];
        }
      }
    }
  }

  // Scores become weights exp(s - largest), of int8 times the values' units.
  __device__ void weigh(const Piece& piece, int from, const Loads& loads) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= piece.heads) break;
      float most = largest[h];
#pragma unroll
      for (int i = 0; i < S::kRounds; ++i) {
        if (from + S::key(i) < piece.keys) most = fmaxf(most, weight[h][i]);
      }
#pragma unroll
      for (int step = 4; step < 32; step *= 2) {
        most = fmaxf(most, __shfl_xor_sync(kAll, most, step));
      }
      if (from > 0 && most != largest[h]) {
        const float correction = fast_exp(largest[h] - most);
        total[h] *= correction;
#pragma unroll
        for (int d = 0; d < kLane; ++d) sum[h][d] *= correction;
      }
      largest[h] = most;
#pragma unroll
      for (int i = 0; i < S::kRounds; ++i) {
        float& w = weight[h][i];
        w = from + S::key(i) < piece.keys ? fast_exp(w - most) : 0.0f;
        total[h] += w;
        if constexpr (kInt8) w *= loads.v_unit[i];
      }
    }
  }

  __device__ void add_values(const Piece& piece, const Loads& loads) {
#pragma unroll
    for (int u = 0; u < S::kUnits; ++u) {
      float v[kLane];
      Cached<kFormat>::decode8(loads.v[u], v);
      const int lane = S::value_key(u) % 8 * 4;  // that has the key's weight
      constexpr int kEachRound = 8 / S::kSubs;
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h >= piece.heads) break;
        const float w = __shfl_sync(kAll, weight[h][u / kEachRound], lane);
#pragma unroll
        for (int d = 0; d < kLane; ++d) sum[h][d] = __fmaf_rn(w, v[d], sum[h][d]);
      }
    }
  }

  // The warp's sums into shared memory.
  __device__ void leave(const DeviceCache& cache, const Piece& piece,
                        AttendShared<kColumns, kHeads>& shared) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= piece.heads) break;
#pragma unroll
      for (int step = 4; step < 32; step *= 2) {
        total[h] += __shfl_xor_sync(kAll, total[h], step);
      }
#pragma unroll
      for (int step = kColumns; step < 32; step *= 2) {
#pragma unroll
        for (int d = 0; d < kLane; ++d) sum[h][d] += __shfl_xor_sync(kAll, sum[h][d], step);
      }
      const int at = warp * kHeads + h;
      if (lane < kColumns && lane < cache.dim / kLane) {
        store8(shared.of_warps + at * S::kMaxDim + lane * kLane, sum[h]);
      }
      if (lane == 0) shared.sums_of_warps[at] = make_float2(largest[h], total[h]);
    }
  }

 private:
  // This lane's columns alone.
  __device__ void multiply(const DeviceCache& cache, const Piece& piece, const Loads& loads,
                           const float* q) {
    const int columns = cache.dim / kLane, lane = threadIdx.x % 4;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
#pragma unroll
      for (int i = 0; i < S::kRounds; ++i) weight[h][i] = 0.0f;
    }
#pragma unroll
    for (int u = 0; u < S::kEach; ++u) {
      const int column = lane + 4 * u;
      if (column >= columns) break;
      float key[S::kRounds][kLane];
#pragma unroll
      for (int i = 0; i < S::kRounds; ++i) Cached<kFormat>::decode8(loads.k[i][u], key[i]);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h >= piece.heads) break;
        float of_q[kLane];
        load8(q + h * cache.dim + column * kLane, of_q);
#pragma unroll
        for (int d = 0; d < kLane; ++d) {
#pragma unroll
          for (int i = 0; i < S::kRounds; ++i) {
            weight[h][i] = __fmaf_rn(of_q[d], key[i][d], weight[h][i]);
          }
        }
      }
    }
  }
  __device__ void multiply_digits(const DeviceCache& cache, const Piece& piece, const Loads& loads,
                                  const float* q) {
    const int columns = cache.dim / kLane, lane = threadIdx.x % 4, words = cache.dim / 4;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= piece.heads) break;
      int dots[S::kRounds][kDigits] = {};
#pragma unroll
      for (int u = 0; u < S::kEach; ++u) {
        const int column = lane + 4 * u;
        if (column >= columns) break;
        const auto* digits = reinterpret_cast<const int*>(q + h * cache.dim) + column * 2;
#pragma unroll
        for (int p = 0; p < kDigits; ++p) {
          const int2 d = *reinterpret_cast<const int2*>(digits + p * words);
#pragma unroll
          for (int i = 0; i < S::kRounds; ++i) {
            const Raw8& key = loads.k[i][u];
            dots[i][p] = __dp4a(static_cast<int>(key.x), d.x, dots[i][p]);
            dots[i][p] = __dp4a(static_cast<int>(key.y), d.y, dots[i][p]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < S::kRounds; ++i) {  // at most 64 * 127^2 < 2^22
        float s = float_of(dots[i][kDigits - 1]);
#pragma unroll
        for (int p = kDigits - 2; p >= 0; --p) {
          s = __fmaf_rn(s, 1.0f / kDigitBase, float_of(dots[i][p]));
        }
        weight[h][i] = s;
      }
    }
  }
};

// cos and sin of the row's position into shared memory.
template <int kThreads>
__device__ void fetch_turns(const SplitTask& task, const Piece& piece, float* turns) {
  const int half = task.cache.dim / 2;
  const int64_t at = static_cast<int64_t>(piece.position) * half;
#pragma unroll 1
  for (int i = threadIdx.x; i < half; i += kThreads) {
    turns[i] = task.cos[at + i];
    turns[half + i] = task.sin[at + i];
  }
}

// q of the block's heads, turned and scaled, into `heads`, of int8 as digits; then the key and
// value of the row's own token: in the cache's form into `fresh`, and into the cache. Ends with a
// barrier.
template <KvFormat kFormat, int kColumns>
__device__ void prepare_heads(const SplitTask& task, const Piece& piece, const float* turns,
                              uint8_t* page, float* heads,
                              FreshRow<Shares<kColumns>::kMaxDim>& fresh) {
  using Type = typename Cached<kFormat>::Type;
  constexpr bool kInt8 = kFormat == KvFormat::kInt8;
  constexpr int kThreads = Shares<kColumns>::kThreads;
  const DeviceCache& cache = task.cache;
  const int dim = cache.dim, half = dim / 2, of_q = piece.heads * dim;
  const float* row = task.qkv + piece.row * (task.heads + 2 * cache.kv_heads) * dim;
  const float* q = row + piece.first_head * dim;
  const auto make_all_digits = [&] {
#pragma unroll 1
    for (int h = threadIdx.x / 32; h < piece.heads; h += kThreads / 32) {
      make_digits(heads + h * dim, dim, task.scale);
    }
  };
  if (task.cos == nullptr) {
#pragma unroll 1
    for (int i = threadIdx.x; i < of_q; i += kThreads) {
      heads[i] = kInt8 ? q[i] : q[i] * task.scale;
    }
    __syncthreads();
    if constexpr (kInt8) {
      make_all_digits();
      __syncthreads();
    }
    return;
  }
  const float* k = row + (task.heads + piece.kv_head) * dim;
  const bool makes = piece.fresh >= 0;
  const auto store = [&](int part, int i, float x, float scale) {
    const Type code = Cached<kFormat>::encode(x, scale);
    reinterpret_cast<Type*>(fresh.row[part])[i] = code;
    if (!piece.stores_fresh) return;
    auto* rows = reinterpret_cast<Type*>(page + part * cache.part_bytes);
    rows[piece.position % kPagePositions * dim + i] = code;
  };
  const int own = threadIdx.x;  // a value for each thread: there are as many, and more
  float value = 0.0f;
  if (makes && own < dim) value = k[cache.kv_heads * dim + own];
#pragma unroll 1
  for (int index = threadIdx.x; index < (piece.heads + (makes ? 1 : 0)) * half; index += kThreads) {
    int head = 0, i = index;
    for (; i >= half; i -= half) ++head;  // few: cheaper than a division
    const int at = head * dim + i;
    const bool of_key = head == piece.heads;
    const float* from = of_key ? k + i : q + at;
    float first = from[0], second = from[half];
    turn(first, second, turns[i], turns[half + i]);
    if (!kInt8 && of_key) {
      store(0, i, first, 1.0f);
      store(0, i + half, second, 1.0f);
      continue;
    }
    if constexpr (!kInt8) {
      first *= task.scale;
      second *= task.scale;
    }
    heads[at] = first;
    heads[at + half] = second;
  }
  if (makes && own < dim) {
    if constexpr (kInt8) {
      heads[of_q + dim + own] = value;
    } else {
      store(1, own, value, 1.0f);
    }
  }
  __syncthreads();
  if constexpr (kInt8) {
    transform_heads(cache, heads, of_q + (makes ? 2 * dim : 0));
    __syncthreads();
    make_all_digits();
    if (makes && threadIdx.x >= 32 * (kThreads / 32 - 2)) {  // a warp for K, one for V
      const int part = threadIdx.x / 32 - (kThreads / 32 - 2);
      const float* x = heads + of_q + part * dim;
      const CacheUnit unit = cache_unit(x, dim);
#pragma unroll 1
      for (int i = threadIdx.x % 32; i < dim; i += 32) store(part, i, x[i], unit.scale);
      if (threadIdx.x % 32 == 0) {
        fresh.unit[part] = unit.unit;
        if (piece.stores_fresh) {
          cache.units(page)[part * kPagePositions + piece.position % kPagePositions] = unit.unit;
        }
      }
    }
    __syncthreads();
  }
}

}  // namespace quest::kernels::cuda::deploy
