// What a block of attention_decode.cu is for, what its threads share, and its keys and values on
// their way.
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
  AttendOut out;
  int next_share;        // of out.next, of a block
  float norm;            // of out's blocks
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

// How the threads of a block share a chunk of kChunk keys. kColumns: 8-value columns of a head,
// rounded up to 8, 16 or 32. Each warp has kKeys of the chunk's keys to itself: for scores four
// lanes share a key, for values a lane has 8 columns of every kSubs-th key. A piece's last chunk
// may have a tail of up to kTail keys more, which cost far less than a chunk of their own would: a
// warp has kTailKeys of them, kTailLanes share one for scores.
inline constexpr int kChunk = 64, kTail = 16;
static_assert(kTail % kPieceStep == 0 && kPagePositions % kPieceStep == 0);
__device__ constexpr int chunk_keys(int left) { return left <= kChunk + kTail ? left : kChunk; }
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
  static constexpr int kTailKeys = kTail / kWarps;
  static constexpr int kTailLanes = 32 / kTailKeys;
  static constexpr int kTailEach = kColumns / kTailLanes;
  static constexpr int kTailUnits = kTailKeys / kSubs;
  static_assert(kPieceStep % kKeys == 0, "a warp's keys lie in one page");

  __device__ static int warp() { return static_cast<int>(threadIdx.x) / 32; }
  __device__ static int first_key() { return warp() * kKeys; }
  __device__ static int first_tail_key() { return kChunk + warp() * kTailKeys; }
  __device__ static int key(int round) { return first_key() + round * 8 + threadIdx.x % 32 / 4; }
  __device__ static int tail_key() { return first_tail_key() + threadIdx.x % 32 / kTailLanes; }
  // Of the warp's keys, and of its keys of a tail.
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

template <int kHeads, bool kWhole>
__device__ Piece find_piece(const SplitTask& task) {
  Piece p;
  p.row = blockIdx.z;
  p.index = blockIdx.x;
  p.position = task.rows.position[p.row];
  p.slot = task.rows.slot[p.row];
  const int set = blockIdx.y % task.sets;
  p.kv_head = blockIdx.y / task.sets;
  p.first_head = p.kv_head * task.group + set * kHeads;
  p.heads = kWhole ? kHeads : min(kHeads, task.group - set * kHeads);
  const int positions = p.position + 1;
  p.pieces = attend_pieces(positions);
  p.first = piece_first(positions, p.index);
  // At most 0 beyond the row's pieces.
  p.keys = min(piece_first(positions, p.index + 1), positions) - p.first;
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

// A tail's keys and values as the threads hold them.
template <class Raw8, int kColumns>
struct TailRows {
  using S = Shares<kColumns>;
  Raw8 k[S::kTailEach][S::kThreads];
  Raw8 v[S::kTailUnits][S::kThreads];
};

// Shared memory of a block.
template <class Raw8, int kColumns, int kHeads>
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
  TailRows<Raw8, kColumns> tail;
  float largest[kHeads], total[kHeads];
  Mailbox box;
  bool last;
};

// Where a piece's key and those behind it in its page are.
struct KeyPlace {
  uint8_t* page;
  int row;
};
// Keys at and beyond the piece's end have the last one's page.
__device__ inline KeyPlace find_key(const DeviceCache& cache, const Piece& piece, int key) {
  const int position = piece.first + min(key, piece.keys - 1);
  uint8_t* page = cache.head(piece.slot, position, piece.kv_head);
#ifdef __CUDA_ARCH__
  __builtin_assume(__isGlobal(page));  // an address from memory could be any
#endif
  return {page, (piece.first + key) % kPagePositions};
}

// One lane's keys and values of a chunk, its tail apart. What is not cached is zero.
template <KvFormat kFormat, int kColumns>
struct ChunkLoads {
  using S = Shares<kColumns>;
  using Raw8 = typename Cached<kFormat>::Raw8;
  using Tail = TailRows<Raw8, kColumns>;
  static constexpr bool kInt8 = kFormat == KvFormat::kInt8;
  Raw8 k[S::kRounds][S::kEach];
  Raw8 v[S::kUnits];
  float k_unit[S::kRounds], v_unit[S::kRounds];  // int8; of the keys of key()
  float tail_k_unit, tail_v_unit;                // and of tail_key()

  // The chunk of a piece that begins at its key `from`.
  __device__ void fetch_keys(const DeviceCache& cache, const Piece& piece, int from) {
    const int columns = cache.dim / kLane, lane = threadIdx.x % 4;
    const KeyPlace at = find_key(cache, piece, from + S::first_key());
    const Raw8* rows = reinterpret_cast<const Raw8*>(at.page) + at.row * columns;
#pragma unroll
    for (int i = 0; i < S::kRounds; ++i) {
      const int j = S::key(i), own = j - S::first_key();
      const bool cached = is_cached(piece, from + j);
#pragma unroll
      for (int u = 0; u < S::kEach; ++u) {
        k[i][u] = Raw8{};
        if (cached && lane + 4 * u < columns) k[i][u] = rows[own * columns + lane + 4 * u];
      }
      if constexpr (kInt8) k_unit[i] = cached ? cache.units(at.page)[at.row + own] : 0.0f;
    }
  }
  __device__ void fetch_values(const DeviceCache& cache, const Piece& piece, int from) {
    const int columns = cache.dim / kLane, column = threadIdx.x % kColumns;
    const KeyPlace at = find_key(cache, piece, from + S::first_key());
    const Raw8* rows =
        reinterpret_cast<const Raw8*>(at.page + cache.part_bytes) + at.row * columns + column;
#pragma unroll
    for (int u = 0; u < S::kUnits; ++u) {
      const int own = S::value_key(u);
      v[u] = Raw8{};
      if (is_cached(piece, from + S::first_key() + own) && column < columns) {
        v[u] = rows[own * columns];
      }
    }
    if constexpr (kInt8) {
#pragma unroll
      for (int i = 0; i < S::kRounds; ++i) {
        const int j = S::key(i);
        v_unit[i] = is_cached(piece, from + j)
                        ? cache.units(at.page)[kPagePositions + at.row + j - S::first_key()]
                        : 0.0f;
      }
    }
  }
  // Its tail, by copies that await_tail() waits for: a thread reads what it copied itself.
  __device__ void fetch_tail(const DeviceCache& cache, const Piece& piece, int from, Tail& tail) {
    const int columns = cache.dim / kLane, lane = threadIdx.x % S::kTailLanes;
    const KeyPlace at = find_key(cache, piece, from + S::first_tail_key());
    const Raw8* keys = reinterpret_cast<const Raw8*>(at.page) + at.row * columns;
    const Raw8* values =
        reinterpret_cast<const Raw8*>(at.page + cache.part_bytes) + at.row * columns;
    const auto copy = [&](Raw8& to, const Raw8* from_rows, int key, int column) {
      if (is_cached(piece, from + S::first_tail_key() + key) && column < columns) {
        copy_async<sizeof(Raw8)>(&to, from_rows + key * columns + column);
      } else {
        to = Raw8{};
      }
    };
    const int own = S::tail_key() - S::first_tail_key();
#pragma unroll
    for (int u = 0; u < S::kTailEach; ++u) {
      copy(tail.k[u][threadIdx.x], keys, own, lane + S::kTailLanes * u);
    }
#pragma unroll
    for (int u = 0; u < S::kTailUnits; ++u) {
      copy(tail.v[u][threadIdx.x], values, S::value_key(u), threadIdx.x % kColumns);
    }
    if constexpr (kInt8) {
      const bool cached = is_cached(piece, from + S::tail_key());
      tail_k_unit = cached ? cache.units(at.page)[at.row + own] : 0.0f;
      tail_v_unit = cached ? cache.units(at.page)[kPagePositions + at.row + own] : 0.0f;
    }
  }
  __device__ static void await_tail() { await_all_copies(); }

  // A chunk's keys and values into the second-level cache.
  __device__ static void prefetch(const DeviceCache& cache, const Piece& piece, int from) {
    const int keys = chunk_keys(piece.keys - from), row_bytes = cache.part_bytes / kPagePositions;
#pragma unroll 1
    for (int key = S::warp() * kPieceStep; key < keys; key += S::kWarps * kPieceStep) {
      const KeyPlace at = find_key(cache, piece, from + key);
      const uint8_t* rows = at.page + at.row * row_bytes;
#pragma unroll 1
      for (int b = static_cast<int>(threadIdx.x) % 32 * 128; b < kPieceStep * row_bytes;
           b += 32 * 128) {
        asm volatile("prefetch.global.L2 [%0];" ::"l"(rows + b));
        asm volatile("prefetch.global.L2 [%0];" ::"l"(rows + cache.part_bytes + b));
      }
    }
  }
  // The row's own key and value, if they are of this chunk.
  template <bool kWithTail>
  __device__ void insert_fresh(const DeviceCache& cache, const Piece& piece, int from,
                               const FreshRow<S::kMaxDim>& fresh, Tail& tail) {
    const int own = piece.fresh - from;
    if (own < 0 || own >= kChunk + (kWithTail ? kTail : 0)) return;
    const int columns = cache.dim / kLane, column = threadIdx.x % kColumns;
    const auto* keys = reinterpret_cast<const Raw8*>(fresh.row[0]);
    const auto* values = reinterpret_cast<const Raw8*>(fresh.row[1]);
    if (kWithTail && own >= kChunk) {
      if (S::tail_key() == own) {
        const int lane = threadIdx.x % S::kTailLanes;
#pragma unroll
        for (int u = 0; u < S::kTailEach; ++u) {
          const int at = lane + S::kTailLanes * u;
          if (at < columns) tail.k[u][threadIdx.x] = keys[at];
        }
        if constexpr (kInt8) {
          tail_k_unit = fresh.unit[0];
          tail_v_unit = fresh.unit[1];
        }
      }
#pragma unroll
      for (int u = 0; u < S::kTailUnits; ++u) {
        const bool is_own = S::first_tail_key() + S::value_key(u) == own;
        if (is_own && column < columns) tail.v[u][threadIdx.x] = values[column];
      }
      return;
    }
    const int lane = threadIdx.x % 4;
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
#pragma unroll
    for (int u = 0; u < S::kUnits; ++u) {
      if (S::first_key() + S::value_key(u) == own && column < columns) v[u] = values[column];
    }
  }

 private:
  __device__ static bool is_cached(const Piece& piece, int key) {
    return key < piece.keys && key != piece.fresh;
  }
};

}  // namespace quest::kernels::cuda::deploy
