// attend_split and decode_attention of attention_decode.h: a block for each piece of 256 keys, row
// and set of query heads of one key-value head.
//
// Scores: four lanes share a key, each warp has 32 of the piece's keys, all of whose loads are in
// flight together; values are fetched into the L2 cache meanwhile. Values: a thread has 8 columns
// and every kSubs-th key. Keys and values of the row's own token come from shared memory, where
// the block that appends them made them.
#include <cmath>

#include "quest/kernels/cuda/attention_decode.cuh"
#include "quest/kernels/cuda/attention_decode.h"
#include "quest/kernels/cuda/dependent_launch.cuh"

namespace quest::kernels::cuda::deploy {
namespace {

// kColumns: 8-value columns of a head, rounded up to 8, 16 or 32. kHeads: query heads of a block,
// at most.
template <KvFormat kFormat, int kColumns, int kHeads>
__global__ void __launch_bounds__(kPieceThreads, kHeads <= 4 && kColumns <= 16 ? 2 : 1)
    attend_piece(SplitTask task) {
  constexpr bool kInt8 = kFormat == KvFormat::kInt8;
  constexpr int kMaxDim = kColumns * kLane;
  __shared__ __align__(16) float heads[(kHeads + 2) * kMaxDim];  // q, then the new k and v
  __shared__ __align__(16) float scores[kHeads * kPiece];
  __shared__ __align__(16) uint8_t new_rows[2][kMaxDim * 2];  // as the cache has them
  __shared__ float new_units[2];
  __shared__ __align__(16) float sums[kPieceThreads / 32 * kMaxDim];  // of the warps
  __shared__ float largest[kHeads], total[kHeads];
  __shared__ uint8_t* pages[kPagesOfPiece];
  let_next_start();
  wait_for_previous();

  const Piece piece = find_piece<kHeads>(task);
  if (piece.keys <= 0) return;
  const DeviceCache& cache = task.cache;
  if (threadIdx.x < kPagesOfPiece && threadIdx.x * kPagePositions < piece.keys) {
    pages[threadIdx.x] =
        cache.head(piece.slot, piece.first + threadIdx.x * kPagePositions, piece.kv_head);
  }
  __syncthreads();
  KeyLoads<kFormat, kColumns> keys;
  keys.fetch(cache, piece, pages);
  fetch_values<kFormat>(cache, piece, pages);

  prepare_heads<kFormat>(task, piece, heads, new_rows[0], kMaxDim * 2, new_units, pages);
  keys.template scores<kHeads>(cache, piece, heads, new_rows[0], new_units[0], scores);
  __syncthreads();
  softmax_of_piece<kFormat>(cache, piece, scores, pages, new_units[1], largest, total);
  __syncthreads();
  ValueSums<kFormat, kColumns, kHeads> values;
  values.add(cache, piece, scores, pages, new_rows[1]);
  values.reduce(piece, cache.dim, sums, heads);  // into heads, whose q nobody needs any more
  __syncthreads();
  if (piece.pieces == 1) {
    write_row<kInt8>(task, piece, heads, total);
    return;
  }
  write_partial(task, piece, heads, largest, total);
  if (!is_last_piece(task, piece)) return;
  combine_pieces(task, piece, scores, heads, largest, total);
  write_row<kInt8>(task, piece, heads, total);
}

int heads_of_block(int group) { return group == 1 ? 1 : group <= 4 ? 4 : 8; }

void launch(const char* operation, const KvCacheView& cache, int64_t layer, const float* qkv,
            int64_t heads, const float* cos, const float* sin, const KvRows& rows,
            const SplitPlan& plan, float* out, Stream stream) {
  check_split(cache.layout, heads, rows, plan);
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
  task.counters = static_cast<unsigned*>(plan.workspace);
  if (plan.workspace != nullptr) {
    char* bytes = static_cast<char*>(plan.workspace) + counter_bytes(plan.max_rows, heads);
    task.partial_sums = reinterpret_cast<float2*>(bytes);
    task.partial = reinterpret_cast<float*>(bytes + sum_bytes(rows.rows, heads, plan.pieces));
  }
  const int at_once = heads_of_block(task.group);
  task.sets = (task.group + at_once - 1) / at_once;
  const dim3 grid(static_cast<unsigned>(plan.pieces),
                  static_cast<unsigned>(task.cache.kv_heads * task.sets),
                  static_cast<unsigned>(rows.rows));
  const auto run = [&](auto format, auto columns, auto count) {
    launch_dependent(
        operation,
        &attend_piece<decltype(format)::value, decltype(columns)::value, decltype(count)::value>,
        grid, dim3(kPieceThreads), 0, stream, task);
  };
  const auto with_heads = [&](auto format, auto columns) {
    if (at_once == 1) return run(format, columns, std::integral_constant<int, 1>{});
    if (at_once == 4) return run(format, columns, std::integral_constant<int, 4>{});
    run(format, columns, std::integral_constant<int, 8>{});
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
  launch("attend_split", cache, layer, qkv, heads, nullptr, nullptr, rows, plan, out, stream);
}

void decode_attention(const KvCacheView& cache, int64_t layer, const float* qkv, int64_t heads,
                      const float* cos, const float* sin, const KvRows& rows, const SplitPlan& plan,
                      float* out, Stream stream) {
  launch("decode_attention", cache, layer, qkv, heads, cos, sin, rows, plan, out, stream);
}

}  // namespace quest::kernels::cuda::deploy
