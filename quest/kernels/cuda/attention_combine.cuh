// How attention_decode.cu puts the sums of warps and pieces together. Threads of the block call
// each step together.
#pragma once

#include "quest/kernels/cuda/attention_decode.cuh"
#include "quest/kernels/cuda/packed_fields.h"
#include "quest/kernels/cuda/quantize_row.cuh"

namespace quest::kernels::cuda::deploy {

// f(head, d, o, largest, total) for every value of the piece, from the sums of its warps in order.
template <class Raw8, int kColumns, int kHeads, class F>
__device__ void combine_warps(const DeviceCache& cache, const Piece& piece,
                              const AttendShared<Raw8, kColumns, kHeads>& shared, const F& f) {
  using S = Shares<kColumns>;
#pragma unroll 1
  for (int i = threadIdx.x; i < piece.heads * cache.dim; i += S::kThreads) {
    const int h = kHeads == 1 ? 0 : i / cache.dim, d = i - h * cache.dim;
    float2 sums[S::kWarps];
    float most = -INFINITY, total = 0.0f, o = 0.0f;
#pragma unroll
    for (int w = 0; w < S::kWarps; ++w) {
      sums[w] = shared.sums_of_warps[w * kHeads + h];
      most = fmaxf(most, sums[w].x);
    }
#pragma unroll
    for (int w = 0; w < S::kWarps; ++w) {
      const float weight = fast_exp(sums[w].x - most);
      total = __fmaf_rn(sums[w].y, weight, total);
      o = __fmaf_rn(shared.of_warps[(w * kHeads + h) * S::kMaxDim + d], weight, o);
    }
    f(h, d, o, most, total);
  }
}

// Head h's value d: into out, or into `place` for turn_out, where that has something to do.
template <bool kInt8>
__device__ void put(const SplitTask& task, const Piece& piece, int h, int d, float value,
                    float* place) {
  if (kInt8 || task.out.signs != nullptr) {
    *place = value;
  } else {
    task.out.values[(piece.row * task.heads + piece.first_head + h) * task.cache.dim + d] = value;
  }
}
// The `count` heads first, first + step, ... of the block stand in o (count, D): of int8
// transformed back, and, if the task says so, rotated for the quantizer, into out.
template <bool kInt8>
__device__ void turn_out(const SplitTask& task, const Piece& piece, float* o, int count, int first,
                         int step) {
  if (!kInt8 && task.out.signs == nullptr) return;
  const int dim = task.cache.dim;
  const auto place_of = [&](int i) {  // of value i of o
    return (piece.row * task.heads + piece.first_head + first + i / dim * step) * dim + i % dim;
  };
  __syncthreads();
  if constexpr (kInt8) {
    transform_heads(task.cache, o, count * dim);
    __syncthreads();
  }
  if (task.out.signs == nullptr) {
#pragma unroll 1
    for (int i = threadIdx.x; i < count * dim; i += blockDim.x) task.out.values[place_of(i)] = o[i];
    return;
  }
  constexpr int kEach = 4, kChunkValues = 32 * kEach;
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int i = threadIdx.x / 32 * kChunkValues; i < count * dim;
       i += blockDim.x / 32 * kChunkValues) {
    const float4 x = *reinterpret_cast<const float4*>(o + i + lane * kEach);
    float v[kEach] = {x.x, x.y, x.z, x.w};
    if (task.out.block > 1) butterfly(v, task.out.block, task.norm);
    uint32_t word = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      if (v[j] > 0.0f) word |= 1u << plane_bit<1>(lane % 8 * kEach + j);
    }
#pragma unroll
    for (int step = 1; step < 8; step *= 2) word |= __shfl_xor_sync(0xffffffffu, word, step);
    const int64_t at = place_of(i);
    if (lane % 8 == 0) task.out.signs[at / 32 + lane / 8] = word;
    const float sum = square_chunk(v);
    if (lane == 0) task.out.chunks[at / kChunkValues] = sum;
  }
}

// Of (rows, H, pieces): head h of the piece's row, its first piece.
__device__ inline int64_t partial_at(const SplitTask& task, const Piece& piece, int h) {
  return (piece.row * task.heads + piece.first_head + h) * task.pieces;
}

// Whether all other pieces of the row have been written; then their results are visible, and the
// counter is zero again. The barriers make one thread's fences those of all.
__device__ inline bool is_last_piece(const SplitTask& task, const Piece& piece, bool& last) {
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned* counter = task.counters + piece.row * gridDim.y + blockIdx.y;
    __threadfence();
    last = atomicAdd(counter, 1u) == static_cast<unsigned>(piece.pieces - 1);
    __threadfence();
    if (last) *counter = 0;
  }
  __syncthreads();
  return last;
}

// All pieces of the row in order, by the block that ended last.
template <bool kInt8, class Raw8, int kColumns, int kHeads>
__device__ void combine_pieces(const SplitTask& task, const Piece& piece,
                               AttendShared<Raw8, kColumns, kHeads>& shared) {
  using S = Shares<kColumns>;
  constexpr int kAtOnce = S::kWarps * S::kMaxDim;  // weights of a head that there is room for
  float* const weights = shared.of_warps;
  const int dim = task.cache.dim, lane = threadIdx.x % 32;
  const int pieces = piece.pieces, values = piece.heads * dim;
#pragma unroll 1
  for (int h = threadIdx.x / 32; h < piece.heads; h += S::kWarps) {
    const float2* sums = task.partial_sums + partial_at(task, piece, h);
    float most = -INFINITY, sum = 0.0f;
#pragma unroll 1
    for (int i = lane; i < pieces; i += 32) most = fmaxf(most, __ldcg(sums + i).x);
    for (int step = 1; step < 32; step *= 2) {
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, step));
    }
#pragma unroll 1
    for (int i = lane; i < pieces; i += 32) {
      const float2 part = __ldcg(sums + i);
      sum = __fmaf_rn(part.y, fast_exp(part.x - most), sum);
    }
    for (int step = 1; step < 32; step *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (lane == 0) {
      shared.largest[h] = most;
      shared.total[h] = sum;
    }
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < values; i += S::kThreads) shared.heads[i] = 0.0f;
  for (int first = 0; first < pieces; first += kAtOnce) {
    const int count = min(kAtOnce, pieces - first);
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < piece.heads * count; i += S::kThreads) {
      const int h = i / count, p = i % count;
      const float most = __ldcg(task.partial_sums + partial_at(task, piece, h) + first + p).x;
      weights[h * kAtOnce + p] = fast_exp(most - shared.largest[h]);
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x; i < values; i += S::kThreads) {
      const int h = i / dim;
      const float* part = task.partial + (partial_at(task, piece, h) + first) * dim + i % dim;
      float sum = shared.heads[i];
#pragma unroll 8
      for (int p = 0; p < count; ++p) {
        sum =
            __fmaf_rn(__ldcg(part + static_cast<int64_t>(p) * dim), weights[h * kAtOnce + p], sum);
      }
      shared.heads[i] = sum;
    }
  }
#pragma unroll 1
  for (int i = threadIdx.x; i < values; i += S::kThreads) {  // its own values
    const int h = i / dim;
    put<kInt8>(task, piece, h, i % dim, fast_quotient(shared.heads[i], shared.total[h]),
               shared.heads + i);
  }
  turn_out<kInt8>(task, piece, shared.heads, piece.heads, 0, 1);
}

// One value of a head from its pieces' sums: the bits of combine_pieces, whose tree of totals is
// unrolled.
__device__ inline float combined(int pieces, const float2 (&sums)[kFewPieces],
                                 const float (&parts)[kFewPieces]) {
  constexpr int kMost = kFewPieces, kLeaves = 8;
  static_assert(kMost <= kLeaves);
  float weight[kMost], total[kLeaves] = {}, most = -INFINITY, o = 0.0f;
#pragma unroll
  for (int p = 0; p < kMost; ++p) {
    if (p < pieces) most = fmaxf(most, sums[p].x);
  }
#pragma unroll
  for (int p = 0; p < kMost; ++p) {
    if (p >= pieces) continue;
    weight[p] = fast_exp(sums[p].x - most);
    total[p] = __fmaf_rn(sums[p].y, weight[p], 0.0f);
  }
#pragma unroll
  for (int p = 0; p < kMost; ++p) {
    if (p < pieces) o = __fmaf_rn(parts[p], weight[p], o);
  }
#pragma unroll
  for (int step = 1; step < kLeaves; step *= 2) {
#pragma unroll
    for (int p = 0; p < kLeaves; p += 2 * step) total[p] += total[p + step];
  }
  return fast_quotient(o, total[0]);
}

// The same of at most kFewPieces: what each value needs is loaded at once.
template <bool kInt8, class Raw8, int kColumns, int kHeads>
__device__ void combine_few_pieces(const SplitTask& task, const Piece& piece,
                                   AttendShared<Raw8, kColumns, kHeads>& shared) {
  using S = Shares<kColumns>;
  const int dim = task.cache.dim;
#pragma unroll 1
  for (int i = threadIdx.x; i < piece.heads * dim; i += S::kThreads) {
    const int h = kHeads == 1 ? 0 : i / dim, d = i - h * dim;
    const int64_t at = partial_at(task, piece, h);
    float2 sums[kFewPieces];
    float parts[kFewPieces];
#pragma unroll
    for (int p = 0; p < kFewPieces; ++p) {
      if (p >= piece.pieces) continue;
      sums[p] = __ldcg(task.partial_sums + at + p);
      parts[p] = __ldcg(task.partial + (at + p) * dim + d);
    }
    put<kInt8>(task, piece, h, d, combined(piece.pieces, sums, parts), shared.heads + i);
  }
  turn_out<kInt8>(task, piece, shared.heads, piece.heads, 0, 1);
}

// Heads whose pieces block `index` of a cluster puts together: index, index + pieces, ...
template <int kHeads>
__device__ int heads_of_rank(const Piece& piece) {
  if (kHeads == 1) return piece.index == 0 ? 1 : 0;
  return max(0, (piece.heads - piece.index + piece.pieces - 1) / piece.pieces);
}

// The same in a cluster, by a block that has received the sums of its `count` heads: `pieces` parts
// of each.
template <bool kInt8, class Raw8, int kColumns, int kHeads>
__device__ void combine_parts(const SplitTask& task, const Piece& piece,
                              AttendShared<Raw8, kColumns, kHeads>& shared, int count) {
  using S = Shares<kColumns>;
  const int dim = task.cache.dim, pieces = piece.pieces;
#pragma unroll 1
  for (int i = threadIdx.x; i < count * dim; i += S::kThreads) {
    const int own = kHeads == 1 ? 0 : i / dim, d = i - own * dim, first = own * pieces;
    float2 sums[kFewPieces];
    float parts[kFewPieces];
#pragma unroll
    for (int p = 0; p < kFewPieces; ++p) {
      if (p >= pieces) continue;
      sums[p] = shared.sums_of_pieces[first + p];
      parts[p] = shared.of_pieces[(first + p) * S::kMaxDim + d];
    }
    put<kInt8>(task, piece, piece.index + own * pieces, d, combined(pieces, sums, parts),
               shared.heads + i);
  }
  turn_out<kInt8>(task, piece, shared.heads, count, piece.index, pieces);
}

}  // namespace quest::kernels::cuda::deploy
