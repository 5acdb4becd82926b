// attention with AMX tiles, backward pass: see attention_amx_kernel.h.
//
// S and P are computed transposed, keys in rows: P^T and dS^T then are left factors of dV and dK as
// they come; dS^T is transposed block by block for dQ. Keys and queries are taken in squares of
// block_depth x block_depth blocks, whose products sum over the side of the square.
#pragma once

#include "quest/kernels/x86/attention_amx_kernel.h"

namespace quest::kernels::detail {
namespace {

template <class T>
struct BackwardMemory {
  BackwardMemory(const Attention<T>& a, Arena& arena) {
    constexpr int kPieces = kPiecesOf<T>;
    constexpr int64_t kDepth = block_depth(kPieces);
    const int64_t rows = panels_of(a.length) * 32, size = rows * a.head_dim;
    for (bfloat16** packed : {&key_rows, &value_rows, &key_columns, &queries_across, &grads_across,
                              &query_columns, &grad_columns}) {
      *packed = arena.take<bfloat16>(size * kPieces);
    }
    for (float** sums : {&grad_queries, &grad_keys, &grad_values}) *sums = arena.take<float>(size);
    offsets = arena.take<float>(rows);
    deltas = arena.take<float>(rows);
    for (bfloat16** square : {&weights, &slopes, &slopes_across}) {
      *square = arena.take<bfloat16>(kDepth * kDepth * kBlock * kPieces);
    }
    scores = arena.take<float>(score_slots(kPieces) * kBlock);
    grad_weights = arena.take<float>(score_slots(kPieces) * kBlock);
  }

  // Of a key-value head: k and v as left factors, k as right factor of dQ.
  bfloat16 *key_rows, *value_rows, *key_columns;
  // Of a query head: q^T and (dout)^T as right factors; q and dout as right factors of dK and dV.
  bfloat16 *queries_across, *grads_across, *query_columns, *grad_columns;
  float *grad_queries, *grad_keys, *grad_values;  // blocks (panel of rows, panel of D)
  float *offsets, *deltas;  // of each query: logsumexp to base 2; sum over d of dout out
  // Of a square: P^T and dS^T (key panel, query panel), dS (query panel, key panel).
  bfloat16 *weights, *slopes, *slopes_across;
  float *scores, *grad_weights;  // score_slots blocks: S^T and dP^T
};

// Key panels [keys, keys_end) by query panels [queries, queries_end).
struct Square {
  int64_t keys, keys_end, queries, queries_end;
};

// P^T, dS^T and dS of block (key panel j, query panel i) from its scores.
template <class Tiles, class T>
void differentiate_block(const Square& square, int64_t j, int64_t i, float factor, float* scores,
                         const float* grad_weights, const BackwardMemory<T>& m) {
  constexpr int kPieces = kPiecesOf<T>;
  constexpr int64_t kDepth = block_depth(kPieces);
  const int64_t row = j - square.keys, column = i - square.queries;
  bfloat16* weights = m.weights + (row * kDepth + column) * kBlock * kPieces;
  bfloat16* slopes = m.slopes + (row * kDepth + column) * kBlock * kPieces;
  bfloat16* across = m.slopes_across + (column * kDepth + row) * kBlock * kPieces;
  for (int64_t r = 0; r < 32; ++r) {
    if (i == j) {
      for (int64_t c = 0; c < r; ++c) scores[32 * r + c] = kExcluded;
    }
    Tiles::template differentiate<kPieces>(scores + 32 * r, grad_weights + 32 * r, factor,
                                           m.offsets + 32 * i, m.deltas + 32 * i, weights + 32 * r,
                                           slopes + 32 * r);
  }
  for (int piece = 0; piece < kPieces; ++piece) {
    pack_panel<Tiles, true>(slopes + piece * kBlock, 1, 32, 0, 32, 32, across + piece * kBlock);
  }
}

template <class Tiles, class T>
void differentiate_square(const Square& square, int64_t d, float factor,
                          const BackwardMemory<T>& m) {
  constexpr int kPieces = kPiecesOf<T>;
  const int64_t panel = 32 * d * kPieces;
  // Block number n of the square is (j, i).
  const auto score = [&](int64_t n, int64_t j, int64_t i) {
    multiply_blocks<Tiles, kPieces>(m.key_rows + j * panel, m.queries_across + i * panel, d / 32,
                                    false, m.scores + n % score_slots(kPieces) * kBlock);
  };
  // One block behind the products, as in score_chunk.
  int64_t last_n = -1, last_j = -1, last_i = -1;
  const auto differentiate_last = [&] {
    if (last_n < 0) return;
    const int64_t at = last_n % score_slots(kPieces) * kBlock;
    differentiate_block<Tiles>(square, last_j, last_i, factor, m.scores + at, m.grad_weights + at,
                               m);
  };
  const auto grade = [&](int64_t n, int64_t j, int64_t i) {
    multiply_blocks<Tiles, kPieces>(m.value_rows + j * panel, m.grads_across + i * panel, d / 32,
                                    false, m.grad_weights + n % score_slots(kPieces) * kBlock);
    differentiate_last();
    last_n = n;
    last_j = j;
    last_i = i;
  };
  int64_t n = 0;
  for (int64_t j = square.keys; j < square.keys_end; ++j) {
    const int64_t from = larger(square.queries, j), count = square.queries_end - from;
    if constexpr (kPieces == 1) {
      for (int64_t i = 0; i < count; ++i) {
        score(n + i, j, from + i);
        grade(n + i, j, from + i);
      }
    } else {  // the keys stay, then the values
      for (int64_t i = 0; i < count; ++i) score(n + i, j, from + i);
      for (int64_t i = 0; i < count; ++i) grade(n + i, j, from + i);
    }
    n += count;
  }
  differentiate_last();
}

// Blocks (sums) of a panel of rows += or = `left`, `steps` of its blocks, by the same of each panel
// of columns.
template <class Tiles, int kPieces>
void multiply_columns(const bfloat16* left, const bfloat16* columns, int64_t column_panel,
                      int64_t d, int64_t steps, bool add, float* sums) {
  for (int64_t p = 0; p < d / 32; ++p, columns += column_panel) {
    multiply_blocks<Tiles, kPieces>(left, columns, steps, add, sums + p * kBlock);
  }
}

// The square's part of dV, dK and dQ. first_head: of the heads that share the key-value head.
template <class Tiles, class T>
void multiply_square(const Square& square, int64_t length, int64_t d, bool first_head,
                     const BackwardMemory<T>& m) {
  constexpr int kPieces = kPiecesOf<T>;
  constexpr int64_t kDepth = block_depth(kPieces), kFactorBlock = kBlock * kPieces;
  const int64_t column_panel = panels_of(length) * kFactorBlock;
  for (int64_t j = square.keys; j < square.keys_end; ++j) {
    const int64_t from = larger(square.queries, j), steps = square.queries_end - from;
    const bool add = !first_head || square.queries > j;  // the square on the diagonal comes first
    const int64_t at = ((j - square.keys) * kDepth + from - square.queries) * kFactorBlock;
    const bfloat16* grads = m.grad_columns + from * kFactorBlock;
    const bfloat16* queries = m.query_columns + from * kFactorBlock;
    multiply_columns<Tiles, kPieces>(m.weights + at, grads, column_panel, d, steps, add,
                                     m.grad_values + j * 32 * d);
    multiply_columns<Tiles, kPieces>(m.slopes + at, queries, column_panel, d, steps, add,
                                     m.grad_keys + j * 32 * d);
  }
  const bfloat16* keys = m.key_columns + square.keys * kFactorBlock;
  for (int64_t i = square.queries; i < square.queries_end; ++i) {
    const int64_t steps = smaller(square.keys_end, i + 1) - square.keys;
    multiply_columns<Tiles, kPieces>(m.slopes_across + (i - square.queries) * kDepth * kFactorBlock,
                                     keys, column_panel, d, steps, square.keys > 0,
                                     m.grad_queries + i * 32 * d);
  }
}

// Packs a query head and computes its offsets and deltas.
template <class Tiles, class T>
void begin_head(const Attention<T>& a, const AttentionGrads<T>& grads, int64_t b, int64_t h,
                const BackwardMemory<T>& m) {
  const int64_t d = a.head_dim, t = a.length, stride = a.heads * d;
  const Rows<T> q = rows_of(a, b, h), grad{grads.grad_out + out_offset(a, b, h), stride};
  const T* out = a.out + out_offset(a, b, h);
  pack_rows<Tiles, false>(q, 0, t, d, m.queries_across);
  pack_rows<Tiles, false>(grad, 0, t, d, m.grads_across);
  pack_columns<Tiles>(q, t, d, m.query_columns);
  pack_columns<Tiles>(grad, t, d, m.grad_columns);
  const float* logsumexp = a.logsumexp + (b * a.heads + h) * t;
  for (int64_t i = 0; i < t; ++i) {
    m.offsets[i] = logsumexp[i] * kLog2E;
    m.deltas[i] = Tiles::dot(out + i * stride, grad.data + i * stride, d);
  }
  for (int64_t i = t; i < panels_of(t) * 32; ++i) {  // weight 0
    m.offsets[i] = -kExcluded;
    m.deltas[i] = 0;
  }
}

// A head of grad_qkv from blocks (panel of rows, panel of D).
template <class Tiles, class T>
void write_gradient(const Attention<T>& a, const AttentionGrads<T>& grads, int64_t b, int64_t slot,
                    const float* sums, float factor) {
  const int64_t d = a.head_dim;
  T* out = grads.grad_qkv + b * a.length * a.row_stride + slot * d;
  for (int64_t t = 0; t < a.length; ++t, out += a.row_stride) {
    const float* row = sums + t / 32 * 32 * d + t % 32 * 32;
    for (int64_t p = 0; p < d / 32; ++p) Tiles::scale(row + p * kBlock, factor, out + 32 * p);
  }
}

// Task: b G + g.
template <class Tiles, class T>
void backward_task(const Attention<T>& a, const AttentionGrads<T>& grads, int64_t task,
                   const BackwardMemory<T>& m) {
  const int64_t b = task / a.kv_heads, g = task % a.kv_heads, repeats = a.heads / a.kv_heads;
  const int64_t d = a.head_dim, panels = panels_of(a.length);
  const Rows<T> k = rows_of(a, b, a.heads + g), v = rows_of(a, b, a.heads + a.kv_heads + g);
  const float scale = score_scale(a);
  pack_rows<Tiles, true>(k, 0, a.length, d, m.key_rows);
  pack_rows<Tiles, true>(v, 0, a.length, d, m.value_rows);
  pack_columns<Tiles>(k, a.length, d, m.key_columns);
  for (int64_t h = g * repeats; h < (g + 1) * repeats; ++h) {
    begin_head<Tiles>(a, grads, b, h, m);
    constexpr int64_t kDepth = block_depth(kPiecesOf<T>);
    for (int64_t j = 0; j < panels; j += kDepth) {
      for (int64_t i = j; i < panels; i += kDepth) {
        const Square square{j, smaller(j + kDepth, panels), i, smaller(i + kDepth, panels)};
        differentiate_square<Tiles>(square, d, scale * kLog2E, m);
        multiply_square<Tiles>(square, a.length, d, h == g * repeats, m);
      }
    }
    write_gradient<Tiles>(a, grads, b, h, m.grad_queries, scale);
  }
  write_gradient<Tiles>(a, grads, b, a.heads + g, m.grad_keys, scale);
  write_gradient<Tiles>(a, grads, b, a.heads + a.kv_heads + g, m.grad_values, 1.0f);
}

}  // namespace
}  // namespace quest::kernels::detail
