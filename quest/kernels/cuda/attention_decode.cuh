// The steps of one block of attention_decode.cu up to the sums of its warps (attention_combine.cuh
// goes on from there). Threads of the block call each of them together.
#pragma once

#include "quest/kernels/cuda/attention_loads.cuh"

namespace quest::kernels::cuda::deploy {

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
  using Tail = typename Loads::Tail;
  static constexpr bool kInt8 = kFormat == KvFormat::kInt8;
  using Raw8 = typename Cached<kFormat>::Raw8;
  static constexpr unsigned kAll = 0xffffffffu;
  float weight[kHeads][S::kRounds];  // of the keys of key()
  float tail_weight[kHeads][1];      // and of tail_key()
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
  template <bool kWithTail>
  __device__ void score(const DeviceCache& cache, const Piece& piece, const Loads& loads,
                        const Tail& tail, const float* q) {
    if constexpr (kWithTail) {
      Raw8 key[1][S::kTailEach];
#pragma unroll
      for (int u = 0; u < S::kTailEach; ++u) key[0][u] = tail.k[u][threadIdx.x];
      const float units[1] = {loads.tail_k_unit};
      score_rows<S::kTailLanes>(cache, piece, key, units, q, tail_weight);
    }
    score_rows<4>(cache, piece, loads.k, loads.k_unit, q, weight);
  }

  // Scores of the chunk's `keys` keys become weights exp(s - largest), of int8 times the values'
  // units.
  template <bool kWithTail>
  __device__ void weigh(const Piece& piece, int from, int keys, const Loads& loads) {
    const bool in_tail = kWithTail && S::tail_key() < keys;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= piece.heads) break;
      float most = largest[h];
#pragma unroll
      for (int i = 0; i < S::kRounds; ++i) {
        if (S::key(i) < keys) most = fmaxf(most, weight[h][i]);
      }
      if (in_tail) most = fmaxf(most, tail_weight[h][0]);
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
        w = S::key(i) < keys ? fast_exp(w - most) : 0.0f;
        total[h] += w;
        if constexpr (kInt8) w *= loads.v_unit[i];
      }
      if constexpr (kWithTail) {
        float& w = tail_weight[h][0];
        w = in_tail ? fast_exp(w - most) : 0.0f;
        // Four lanes have the same total until they are added up.
        if (threadIdx.x % S::kTailLanes < 4) total[h] += w;
        if constexpr (kInt8) w *= loads.tail_v_unit;
      }
    }
  }

  template <bool kWithTail>
  __device__ void add_values(const Piece& piece, const Loads& loads, const Tail& tail) {
    constexpr int kEachRound = 8 / S::kSubs;
#pragma unroll
    for (int u = 0; u < S::kUnits; ++u) {
      const int lane = S::value_key(u) % 8 * 4;  // that has the key's weight
      add_row(piece, loads.v[u], weight, u / kEachRound, lane);
    }
    if constexpr (kWithTail) {
#pragma unroll
      for (int u = 0; u < S::kTailUnits; ++u) {
        add_row(piece, tail.v[u][threadIdx.x], tail_weight, 0, S::value_key(u) * S::kTailLanes);
      }
    }
  }

  // The warp's sums into shared memory.
  __device__ void leave(const DeviceCache& cache, const Piece& piece,
                        AttendShared<Raw8, kColumns, kHeads>& shared) {
    const int warp = S::warp(), lane = threadIdx.x % 32;
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
  // q times rows of keys of which kLanes lanes share each, a column of 8 values in turn.
  template <int kLanes, int kRows, int kEach>
  __device__ static void score_rows(const DeviceCache& cache, const Piece& piece,
                                    const Raw8 (&k)[kRows][kEach], const float (&k_unit)[kRows],
                                    const float* q, float (&score)[kHeads][kRows]) {
    if constexpr (kInt8) {
      multiply_digits<kLanes>(cache, piece, k, q, score);
    } else {
      multiply<kLanes>(cache, piece, k, q, score);
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= piece.heads) break;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        float& s = score[h][i];
#pragma unroll
        for (int step = 1; step < kLanes; step *= 2) s += __shfl_xor_sync(kAll, s, step);
        if constexpr (kInt8) {
          s *= q[h * cache.dim + kDigits * (cache.dim / 4)];
          s *= k_unit[i];
        }
      }
    }
  }
  // This lane's columns alone.
  template <int kLanes, int kRows, int kEach>
  __device__ static void multiply(const DeviceCache& cache, const Piece& piece,
                                  const Raw8 (&k)[kRows][kEach], const float* q,
                                  float (&dots)[kHeads][kRows]) {
    const int columns = cache.dim / kLane, lane = threadIdx.x % kLanes;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) dots[h][i] = 0.0f;
    }
#pragma unroll
    for (int u = 0; u < kEach; ++u) {
      const int column = lane + kLanes * u;
      if (column >= columns) break;
      float key[kRows][kLane];
#pragma unroll
      for (int i = 0; i < kRows; ++i) Cached<kFormat>::decode8(k[i][u], key[i]);
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (h >= piece.heads) break;
        float of_q[kLane];
        load8(q + h * cache.dim + column * kLane, of_q);
#pragma unroll
        for (int d = 0; d < kLane; ++d) {
#pragma unroll
          for (int i = 0; i < kRows; ++i) {
            dots[h][i] = __fmaf_rn(of_q[d], key[i][d], dots[h][i]);
          }
        }
      }
    }
  }
  template <int kLanes, int kRows, int kEach>
  __device__ static void multiply_digits(const DeviceCache& cache, const Piece& piece,
                                         const Raw8 (&k)[kRows][kEach], const float* q,
                                         float (&score)[kHeads][kRows]) {
    const int columns = cache.dim / kLane, lane = threadIdx.x % kLanes, words = cache.dim / 4;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= piece.heads) break;
      int dots[kRows][kDigits] = {};
#pragma unroll
      for (int u = 0; u < kEach; ++u) {
        const int column = lane + kLanes * u;
        if (column >= columns) break;
        const auto* digits = reinterpret_cast<const int*>(q + h * cache.dim) + column * 2;
#pragma unroll
        for (int p = 0; p < kDigits; ++p) {
          const int2 d = *reinterpret_cast<const int2*>(digits + p * words);
#pragma unroll
          for (int i = 0; i < kRows; ++i) {
            const Raw8& key = k[i][u];
            dots[i][p] = __dp4a(static_cast<int>(key.x), d.x, dots[i][p]);
            dots[i][p] = __dp4a(static_cast<int>(key.y), d.y, dots[i][p]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {  // at most 64 * 127^2 < 2^22
        float s = float_of(dots[i][kDigits - 1]);
#pragma unroll
        for (int p = kDigits - 2; p >= 0; --p) {
          s = __fmaf_rn(s, 1.0f / kDigitBase, float_of(dots[i][p]));
        }
        score[h][i] = s;
      }
    }
  }
  // A value times its weight, which stands in `weights` of another lane.
  template <int kRows>
  __device__ void add_row(const Piece& piece, const Raw8& row,
                          const float (&weights)[kHeads][kRows], int round, int lane) {
    float v[kLane];
    Cached<kFormat>::decode8(row, v);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= piece.heads) break;
      const float w = __shfl_sync(kAll, weights[h][round], lane);
#pragma unroll
      for (int d = 0; d < kLane; ++d) sum[h][d] = __fmaf_rn(w, v[d], sum[h][d]);
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
