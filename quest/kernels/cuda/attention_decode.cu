// attend_split and decode_attention of attention_decode.h: a block for each piece of a row's keys
// and set of query heads of one key-value head.
//
// Loads of a block's first keys and values are in flight together before anything else happens, in
// decode_attention before the previous kernel has ended. Each warp then goes its own way over its
// keys, softmax included, and the sums of warps and pieces meet at the end: up to 8 pieces through
// the shared memory of a cluster, more of them (or without clusters) through the workspace.
#include <cmath>

#include "quest/kernels/cuda/attention_combine.cuh"
#include "quest/kernels/cuda/attention_decode.h"
#include "quest/kernels/cuda/dependent_launch.cuh"
#include "quest/quant/hadamard.h"

namespace quest::kernels::cuda::deploy {
namespace {

// The registers that loads, sums and weights need.
constexpr int blocks_at_once(int columns, int heads) {
  return columns > 16 ? 1 : heads == 1 ? 4 : heads == 4 ? 3 : 2;
}

// This block's share of what a later kernel reads, by one instruction and no branch.
__device__ inline void fetch_next(const SplitTask& task, bool now) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const auto block = static_cast<int64_t>(blockIdx.x + gridDim.x * blockIdx.y);
  prefetch_bulk(static_cast<const uint8_t*>(task.out.next) + block * task.next_share,
                task.next_share, now && threadIdx.x == 0 && task.next_share > 0);
#endif
}

// kWhole: heads of kColumns columns, and kHeads of them for every block. A warp mostly waits for
// the instruction before, so code without branches, where independent ones can go between, takes
// less time (attention alone, 513 keys, H100: 6.9 us to 6.5).
template <KvFormat kFormat, int kColumns, int kHeads, bool kWhole>
__global__ void __launch_bounds__(Shares<kColumns>::kThreads, blocks_at_once(kColumns, kHeads))
    attend_piece(SplitTask task) {
  constexpr bool kInt8 = kFormat == KvFormat::kInt8;
  using S = Shares<kColumns>;
  if constexpr (kWhole) {
    task.cache.dim = S::kMaxDim;
    task.cache.part_bytes =
        kPagePositions * S::kMaxDim * static_cast<int>(sizeof(typename Cached<kFormat>::Type));
  }
  using Loads = ChunkLoads<kFormat, kColumns>;
  using Shared = AttendShared<typename Loads::Raw8, kColumns, kHeads>;
  __shared__ Shared shared;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (task.clustered) {
    open(shared.box);
    start_cluster();
  }
#endif
  const bool turns = task.cos != nullptr;
  if (!turns) {
    wait_for_previous();
    let_next_start();
  }
  const Piece piece = find_piece<kHeads, kWhole>(task);
  if (piece.keys <= 0) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if (task.clustered) await_cluster();
#endif
    return;
  }

  const DeviceCache& cache = task.cache;
  Loads loads;
  int keys = chunk_keys(piece.keys);  // of the first chunk
  loads.fetch_keys(cache, piece, 0);
  loads.fetch_values(cache, piece, 0);
  if (keys > kChunk) loads.fetch_tail(cache, piece, 0, shared.tail);
  if (keys < piece.keys) loads.prefetch(cache, piece, keys);
  uint8_t* own_page = nullptr;
  if (turns) {
    if (piece.fresh >= 0) own_page = find_key(cache, piece, piece.fresh).page;
    fetch_turns<S::kThreads>(task, piece, shared.of_warps);
    __syncthreads();
    wait_for_previous();
  }
  prepare_heads<kFormat, kColumns>(task, piece, shared.of_warps, own_page, shared.heads,
                                   shared.fresh);

  WarpSums<kFormat, kColumns, kHeads> sums;
  // The next chunk, if there is one, is fetched meanwhile. A tail: the last.
  const auto take = [&](auto with_tail, int from) {
    constexpr bool kWithTail = decltype(with_tail)::value;
    const int next = from + keys, next_keys = chunk_keys(piece.keys - next);
    const bool goes_on = !kWithTail && next < piece.keys;
    if constexpr (kWithTail) loads.await_tail();
    loads.template insert_fresh<kWithTail>(cache, piece, from, shared.fresh, shared.tail);
    sums.template score<kWithTail>(cache, piece, loads, shared.tail, shared.heads);
    // Not before, for what it fetches would be in the way; its beginning takes as long as the rest.
    if (turns && !goes_on) let_next_start();
    fetch_next(task, !goes_on);
    if (goes_on) {
      loads.fetch_keys(cache, piece, next);
      if (next_keys > kChunk) loads.fetch_tail(cache, piece, next, shared.tail);
    }
    sums.template weigh<kWithTail>(piece, from, keys, loads);
    sums.template add_values<kWithTail>(piece, loads, shared.tail);
    if (!goes_on) return;
    loads.fetch_values(cache, piece, next);
    if (next + next_keys < piece.keys) loads.prefetch(cache, piece, next + next_keys);
    keys = next_keys;
  };
  for (int from = 0; from < piece.keys; from += kChunk) {
    if (keys > kChunk) {
      take(std::true_type{}, from);
      break;
    }
    take(std::false_type{}, from);
  }
  sums.leave(cache, piece, shared);
  __syncthreads();

  if (piece.pieces == 1) {
    combine_warps(cache, piece, shared, [&](int h, int d, float o, float, float total) {
      put<kInt8>(task, piece, h, d, fast_quotient(o, total), shared.heads + h * cache.dim + d);
    });
    turn_out<kInt8>(task, piece, shared.heads, piece.heads, 0, 1);
    return;
  }
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if (task.clustered) {
    const int count = heads_of_rank<kHeads>(piece);
    if (threadIdx.x == 0) {
      expect(shared.box, count * piece.pieces * static_cast<int>((cache.dim + 2) * sizeof(float)));
    }
    await_cluster();
    combine_warps(cache, piece, shared, [&](int h, int d, float o, float most, float total) {
      const int round = kHeads == 1 ? 0 : h / piece.pieces, owner = h - round * piece.pieces;
      const int part = round * piece.pieces + piece.index;
      send(o, shared.of_pieces + part * S::kMaxDim + d, shared.box, owner);
      if (d != 0) return;
      send(most, &shared.sums_of_pieces[part].x, shared.box, owner);
      send(total, &shared.sums_of_pieces[part].y, shared.box, owner);
    });
    if (count == 0) return;
    receive(shared.box);
    combine_parts<kInt8>(task, piece, shared, count);
    return;
  }
#endif
  combine_warps(cache, piece, shared, [&](int h, int d, float o, float most, float total) {
    const int64_t at = partial_at(task, piece, h) + piece.index;
    task.partial[at * cache.dim + d] = o;
    if (d == 0) task.partial_sums[at] = make_float2(most, total);
  });
  if (!is_last_piece(task, piece, shared.last)) return;
  if (piece.pieces <= kFewPieces) {
    combine_few_pieces<kInt8>(task, piece, shared);
  } else {
    combine_pieces<kInt8>(task, piece, shared);
  }
}

// Query heads of a block.
int heads_of_block(int group, int dim) { return group == 1 ? 1 : group <= 4 || dim > 128 ? 4 : 8; }

// Clusters pay where blocks are few.
bool takes_clusters(int64_t pieces, int64_t blocks) {
  if (pieces != 2 && pieces != 4 && pieces != kFewPieces) return false;
  if (!launches_clusters(device_facts())) return false;
  return blocks <= 1024;
}

void launch(const char* operation, const KvCacheView& cache, int64_t layer, const float* qkv,
            int64_t heads, const float* cos, const float* sin, const KvRows& rows,
            const SplitPlan& plan, const AttendOut& out, Stream stream) {
  check_split(cache.layout, heads, rows, plan);
  check_attend_out(cache.layout, out);
  if (rows.rows == 0) return;
  SplitTask task = {};
  task.cache = device_cache(cache, layer);
  task.qkv = qkv;
  task.cos = cos;
  task.sin = sin;
  task.rows = rows;
  task.heads = static_cast<int>(heads);
  task.group = static_cast<int>(heads / cache.layout.kv_heads);
  task.pieces = static_cast<int>(plan.pieces);
  task.scale = 1.0f / std::sqrt(static_cast<float>(cache.layout.head_dim));
  task.out = out;
  task.norm = hadamard_norm<float>(out.block);
  task.counters = static_cast<unsigned*>(plan.workspace);
  if (plan.workspace != nullptr) {
    char* bytes = static_cast<char*>(plan.workspace) + counter_bytes(plan.max_rows, heads);
    task.partial_sums = reinterpret_cast<float2*>(bytes);
    task.partial = reinterpret_cast<float*>(bytes + sum_bytes(rows.rows, heads, plan.pieces));
  }
  const int at_once = heads_of_block(task.group, task.cache.dim);
  task.sets = (task.group + at_once - 1) / at_once;
  const dim3 grid(static_cast<unsigned>(plan.pieces),
                  static_cast<unsigned>(task.cache.kv_heads * task.sets),
                  static_cast<unsigned>(rows.rows));
  if (out.next != nullptr) {
    task.next_share = static_cast<int>(out.next_bytes / (int64_t{grid.x} * grid.y) / 16 * 16);
  }
  task.clustered = takes_clusters(plan.pieces, static_cast<int64_t>(grid.x) * grid.y * grid.z);
  const auto run = [&](auto format, auto columns, auto count, auto whole) {
    const auto kernel = &attend_piece<decltype(format)::value, decltype(columns)::value,
                                      decltype(count)::value, decltype(whole)::value>;
    static const bool divided = [&] {
      share_most_memory(operation, kernel);
      return true;
    }();
    static_cast<void>(divided);
    launch_dependent_clusters(operation, kernel, grid, task.clustered ? grid.x : 1,
                              dim3(Shares<decltype(columns)::value>::kThreads), 0, stream, task);
  };
  const auto with_count = [&](auto format, auto columns, auto count) {
    if (task.cache.dim == decltype(columns)::value * kLane && task.group % at_once == 0) {
      return run(format, columns, count, std::true_type{});
    }
    run(format, columns, count, std::false_type{});
  };
  const auto with_heads = [&](auto format, auto columns) {
    if (at_once == 1) return with_count(format, columns, std::integral_constant<int, 1>{});
    if constexpr (decltype(columns)::value <= 16) {
      if (at_once == 8) return with_count(format, columns, std::integral_constant<int, 8>{});
    }
    with_count(format, columns, std::integral_constant<int, 4>{});
  };
  with_format(cache.layout.format, [&](auto format) {
    if (task.cache.dim <= 64) return with_heads(format, std::integral_constant<int, 8>{});
    if (task.cache.dim <= 128) return with_heads(format, std::integral_constant<int, 16>{});
    with_heads(format, std::integral_constant<int, 32>{});
  });
}

}  // namespace

int64_t attend_split_workspace(int64_t rows, int64_t heads, int64_t head_dim, int64_t pieces) {
  if (pieces <= 1) return 0;
  return counter_bytes(rows, heads) + sum_bytes(rows, heads, pieces) +
         rows * heads * pieces * head_dim * static_cast<int64_t>(sizeof(float));
}

void attend_split(const KvCacheView& cache, int64_t layer, const float* qkv, int64_t heads,
                  const KvRows& rows, const SplitPlan& plan, float* out, Stream stream) {
  launch("attend_split", cache, layer, qkv, heads, nullptr, nullptr, rows, plan, {out}, stream);
}

void decode_attention(const KvCacheView& cache, int64_t layer, const float* qkv, int64_t heads,
                      const float* cos, const float* sin, const KvRows& rows, const SplitPlan& plan,
                      const AttendOut& out, Stream stream) {
  launch("decode_attention", cache, layer, qkv, heads, cos, sin, rows, plan, out, stream);
}

}  // namespace quest::kernels::cuda::deploy
