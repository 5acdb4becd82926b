// attention with AMX tiles: packing, loops, epilogue. x86/attention_amx.cpp gives the instructions,
// the test an emulation. Internal linkage and no library functions: see gemm_lowbit_driver.h.
//
// All is done in blocks of 32 x 32: a block of sums is 1024 floats, row by row; a block of factors
// is one step of a panel (gemm_bf16_levels.h): 1024 bfloat16 values, or three such pieces one after
// the other if T is float. Panels of rows are the left factors of products, panels of columns the
// right ones.
//
// FP32 makes six products of three times the memory: a product takes longer than to fetch its
// factors from the L2 cache, if one of the two stays in the L1 cache (32 KB at most) and the other
// is fetched a step ahead. So sums are shorter (block_depth) and loops ordered by the factor that
// stays; bfloat16 has the order that was found best for it.
//
// Tiles is what gemm_bf16_amx_kernel.h asks for and functions on rows of 32 values; weights and
// slopes are written as kPieces pieces, kBlock values apart:
//   raise_maximum(scores, maxima)    maxima[c] = max(maxima[c], scores[c], scores[c + 16]), c < 16
//   largest(maxima), total(totals)   of 16 values
//   weigh<kPieces>(scores, factor, offset, totals, weights)
//       weights = 2^(factor scores - offset), added to the 16 totals before they are rounded
//   differentiate<kPieces>(scores, grad_weights, factor, offsets, deltas, weights, slopes)
//       weights = 2^(factor scores - offsets);  slopes = weights (grad_weights - deltas)
//   scale(sums, factor, out)         out = factor sums, rounded to T
//   dot(a, b, count)                 of values of T, count a multiple of 32
// 2^x is right to 3e-7 of its value: of the size of what the rounding of x in FP32 changes it by.
#pragma once

#include <type_traits>

#include "quest/kernels/attention_levels.h"
#include "quest/kernels/x86/gemm_bf16_amx_kernel.h"

namespace quest::kernels::detail {
namespace {

inline constexpr int64_t kBlock = 32 * 32;  // values
inline constexpr int64_t kHalves = 2;       // panels of queries in a forward block
inline constexpr int64_t kChunk = 16;       // panels of keys whose scores are held at once
inline constexpr float kExcluded = -0x1.fffffep127f;  // a score whose weight is 0
inline constexpr float kLog2E = 1.44269504088896341f;
static_assert(kQueryBlock == 32 * kHalves && kChunk % kHalves == 0);

// Pieces of a factor.
template <class T>
inline constexpr int kPiecesOf = std::is_same_v<T, float> ? 3 : 1;
// Panels in one product over keys or queries.
constexpr int64_t block_depth(int pieces) { return pieces == 1 ? 8 : 4; }
// Blocks of scores that the backward pass holds.
constexpr int64_t score_slots(int pieces) { return pieces == 1 ? 2 : 2 * block_depth(pieces); }

inline int64_t panels_of(int64_t rows) { return (rows + 31) / 32; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// 1 / sqrt(D)
template <class T>
float score_scale(const Attention<T>& a) {
  return 1.0f / __builtin_sqrtf(static_cast<float>(a.head_dim));
}

// Parts of one piece of memory, on cache lines. Without memory it only counts.
class Arena {
 public:
  explicit Arena(char* memory) : memory_(memory) {}

  template <class T>
  T* take(int64_t count) {
    const int64_t at = bytes_;
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return memory_ == nullptr ? nullptr : reinterpret_cast<T*>(memory_ + at);
  }
  int64_t bytes() const { return bytes_; }

 private:
  char* memory_;
  int64_t bytes_ = 0;
};

// A head of one sequence inside a matrix: row t is data + t * stride.
template <class T>
struct Rows {
  const T* data;
  int64_t stride;
};
// Of qkv; slot: q heads, k heads, v heads.
template <class T>
Rows<T> rows_of(const Attention<T>& a, int64_t b, int64_t slot) {
  return {a.qkv + b * a.length * a.row_stride + slot * a.head_dim, a.row_stride};
}
// Of out and its gradient.
template <class T>
int64_t out_offset(const Attention<T>& a, int64_t b, int64_t h) {
  return (b * a.length * a.heads + h) * a.head_dim;
}

// pack_panel and pack_float_panel.
template <class Tiles, bool kRowTiles>
void pack_values(const bfloat16* data, int64_t vector_stride, int64_t k_stride, int64_t first,
                 int64_t count, int64_t k, bfloat16* panel) {
  pack_panel<Tiles, kRowTiles>(data, vector_stride, k_stride, first, count, k, panel);
}
template <class Tiles, bool kRowTiles>
void pack_values(const float* data, int64_t vector_stride, int64_t k_stride, int64_t first,
                 int64_t count, int64_t k, bfloat16* panel) {
  pack_float_panel<Tiles, kRowTiles>(data, vector_stride, k_stride, nullptr, first, count, k,
                                     panel);
}

// Panels of 32 rows, depth D: the head as left factor (kRowTiles), or transposed as right factor.
template <class Tiles, bool kRowTiles, class T>
void pack_rows(const Rows<T>& rows, int64_t first, int64_t count, int64_t d, bfloat16* panels) {
  for (int64_t t = first; t < count; t += 32, panels += 32 * d * kPiecesOf<T>) {
    pack_values<Tiles, kRowTiles>(rows.data, rows.stride, 1, t, count, d, panels);
  }
}

// Panels of 32 of the D columns, depth `count` rows: the head as right factor.
template <class Tiles, class T>
void pack_columns(const Rows<T>& rows, int64_t count, int64_t d, bfloat16* panels) {
  for (int64_t at = 0; at < d; at += 32, panels += panels_of(count) * kBlock * kPiecesOf<T>) {
    pack_values<Tiles, false>(rows.data, 1, rows.stride, at, d, count, panels);
  }
}

// sums += or = the product of `steps` blocks of a panel of rows and of one of columns. next_b: the
// b of the next product.
template <class Tiles, int kPieces>
void multiply_blocks(const bfloat16* a, const bfloat16* b, const bfloat16* next_b, int64_t steps,
                     bool add, float* sums) {
  static_assert(kBlock == kStepElements);
  if constexpr (kPieces == 1) {
    multiply_panels<Tiles>(a, b, steps, add, sums, [](int64_t) {});
  } else {
    const StepPrefetch<kPieces> prefetch(b, next_b, steps);
    multiply_panels<Tiles, kPieces, kPieces>(a, b, steps, add, sums,
                                             [&](int64_t step) { prefetch.after(step); });
  }
}

// ---- forward ----

template <class T>
struct ForwardMemory {
  ForwardMemory(const Attention<T>& a, Arena& arena) {
    const int64_t d = a.head_dim, rows = panels_of(a.length) * 32;
    keys = arena.take<bfloat16>(rows * d * kPiecesOf<T>);
    values = arena.take<bfloat16>(rows * d * kPiecesOf<T>);
    queries = arena.take<bfloat16>(kQueryBlock * d * kPiecesOf<T>);
    weights = arena.take<bfloat16>(kHalves * kChunk * kBlock * kPiecesOf<T>);
    scores = arena.take<float>(kHalves * kChunk * kBlock);
    sums = arena.take<float>(kQueryBlock * d);
    maxima = arena.take<float>(kQueryBlock * 16);
    totals = arena.take<float>(kQueryBlock * 16);
    offsets = arena.take<float>(kQueryBlock);
  }

  bfloat16 *keys, *values;  // of a key-value head: columns of k^T, columns of v
  bfloat16* queries;        // of a block: rows of q
  bfloat16* weights;        // (half, key panel of the chunk): rows of P
  float *scores, *sums;     // blocks (half, key panel of the chunk), (half, panel of D)
  float *maxima, *totals;   // 16 partial ones of each query
  float* offsets;           // largest score of each query, times the factor
};

// A block of queries [32 panel, 32 (panel + halves)) of one head.
template <class T>
struct ForwardBlock {
  const Attention<T>* a;
  int64_t b, h;
  int64_t panel, halves;
  int64_t value_panel;  // elements of a panel of the packed values
  float factor;         // from q k to the exponent of 2
};

// Panels of the chunk at `chunk` that a half sees. At least one: a chunk starts with an even panel.
template <class T>
int64_t visible_panels(const ForwardBlock<T>& block, int64_t half, int64_t chunk) {
  return smaller(kChunk, block.panel + half + 1 - chunk);
}

// Scores of a block and the maxima of its rows.
template <class Tiles, class T>
void score_chunk(const ForwardBlock<T>& block, int64_t chunk, const ForwardMemory<T>& m) {
  constexpr int kPieces = kPiecesOf<T>;
  const int64_t d = block.a->head_dim, panel = 32 * d * kPieces;
  const auto raise = [&](int64_t half, int64_t j) {
    float* scores = m.scores + (half * kChunk + j) * kBlock;
    float* maxima = m.maxima + half * 32 * 16;
    const bool diagonal = chunk + j == block.panel + half;
    for (int64_t r = 0; r < 32; ++r) {
      if (diagonal) {
        for (int64_t c = r + 1; c < 32; ++c) scores[32 * r + c] = kExcluded;
      }
      Tiles::raise_maximum(scores + 32 * r, maxima + 16 * r);
    }
  };
  // Maxima are taken one block behind the products, so that the CPU has both kinds of work at hand.
  int64_t last_half = -1, last_j = -1;
  const auto score = [&](int64_t half, int64_t j) {
    const bfloat16* keys = m.keys + chunk * panel;
    const int64_t next = j + 1 < visible_panels(block, half, chunk) ? j + 1 : 0;
    multiply_blocks<Tiles, kPieces>(m.queries + half * panel, keys + j * panel, keys + next * panel,
                                    d / 32, false, m.scores + (half * kChunk + j) * kBlock);
    if (last_half >= 0) raise(last_half, last_j);
    last_half = half;
    last_j = j;
  };
  if constexpr (kPieces == 1) {
    for (int64_t j = 0; j < visible_panels(block, block.halves - 1, chunk); ++j) {
      for (int64_t half = 0; half < block.halves; ++half) {
        if (j < visible_panels(block, half, chunk)) score(half, j);
      }
    }
  } else {  // the queries stay
    for (int64_t half = 0; half < block.halves; ++half) {
      for (int64_t j = 0; j < visible_panels(block, half, chunk); ++j) score(half, j);
    }
  }
  raise(last_half, last_j);
}

// After the maxima of a chunk: offsets of the rows; what was summed before them is scaled.
template <class Tiles, class T>
void update_offsets(const ForwardBlock<T>& block, int64_t chunk, const ForwardMemory<T>& m) {
  const int64_t d = block.a->head_dim;
  for (int64_t r = 0; r < 32 * block.halves; ++r) {
    const float before = m.offsets[r];
    m.offsets[r] = Tiles::largest(m.maxima + 16 * r) * block.factor;
    if (chunk == 0 || m.offsets[r] == before) continue;
    const float scale = __builtin_exp2f(before - m.offsets[r]);
    for (int64_t c = 0; c < 16; ++c) m.totals[16 * r + c] *= scale;
    float* sums = m.sums + r / 32 * 32 * d + r % 32 * 32;
    for (int64_t p = 0; p < d / 32; ++p) {
      for (int64_t c = 0; c < 32; ++c) sums[p * kBlock + c] *= scale;
    }
  }
}

// Weights of a chunk, and their products with its values.
template <class Tiles, class T>
void weigh_chunk(const ForwardBlock<T>& block, int64_t chunk, const ForwardMemory<T>& m) {
  constexpr int kPieces = kPiecesOf<T>;
  constexpr int64_t kDepth = block_depth(kPieces);
  const int64_t d = block.a->head_dim;
  const auto values = [&](int64_t p, int64_t j) {
    return m.values + p * block.value_panel + (chunk + j) * kBlock * kPieces;
  };
  for (int64_t half = 0; half < block.halves; ++half) {
    const int64_t visible = visible_panels(block, half, chunk);
    for (int64_t j = 0; j < visible; ++j) {
      const int64_t at = (half * kChunk + j) * kBlock;
      for (int64_t r = 0; r < 32; ++r) {
        const int64_t row = 32 * half + r;
        Tiles::template weigh<kPieces>(m.scores + at + 32 * r, block.factor, m.offsets[row],
                                       m.totals + 16 * row, m.weights + at * kPieces + 32 * r);
      }
    }
    for (int64_t j = 0; j < visible; j += kDepth) {
      for (int64_t p = 0; p < d / 32; ++p) {
        const bfloat16* next = p + 1 < d / 32 ? values(p + 1, j) : values(0, j + kDepth);
        multiply_blocks<Tiles, kPieces>(m.weights + (half * kChunk + j) * kBlock * kPieces,
                                        values(p, j), next, smaller(kDepth, visible - j),
                                        chunk + j > 0, m.sums + half * 32 * d + p * kBlock);
      }
    }
  }
}

template <class Tiles, class T>
void write_forward(const ForwardBlock<T>& block, const ForwardMemory<T>& m) {
  const Attention<T>& a = *block.a;
  const int64_t d = a.head_dim, first = 32 * block.panel;
  const int64_t rows = smaller(32 * block.halves, a.length - first);
  T* out = a.out + out_offset(a, block.b, block.h) + first * a.heads * d;
  float* logsumexp = a.logsumexp + (block.b * a.heads + block.h) * a.length + first;
  for (int64_t r = 0; r < rows; ++r, out += a.heads * d) {
    const float total = Tiles::total(m.totals + 16 * r);
    const float* sums = m.sums + r / 32 * 32 * d + r % 32 * 32;
    for (int64_t p = 0; p < d / 32; ++p) {
      Tiles::scale(sums + p * kBlock, 1.0f / total, out + 32 * p);
    }
    logsumexp[r] = m.offsets[r] * (1.0f / kLog2E) + __builtin_logf(total);
  }
}

template <class Tiles, class T>
void forward_block(const ForwardBlock<T>& block, const ForwardMemory<T>& m) {
  const Attention<T>& a = *block.a;
  const int64_t rows = smaller(a.length, 32 * (block.panel + block.halves));
  pack_rows<Tiles, true>(rows_of(a, block.b, block.h), 32 * block.panel, rows, a.head_dim,
                         m.queries);
  for (int64_t i = 0; i < kQueryBlock * 16; ++i) {
    m.maxima[i] = kExcluded;
    m.totals[i] = 0;
  }
  for (int64_t chunk = 0; chunk < block.panel + block.halves; chunk += kChunk) {
    score_chunk<Tiles>(block, chunk, m);
    update_offsets<Tiles>(block, chunk, m);
    weigh_chunk<Tiles>(block, chunk, m);
  }
  write_forward<Tiles>(block, m);
}

// Blocks are dealt out to the parts forth and back, so that each gets as many early ones, which see
// few keys, as late ones.
inline bool is_of_part(int64_t block, int64_t parts, int64_t part) {
  const int64_t place = block % (2 * parts);
  return place == part || place == 2 * parts - 1 - part;
}

// Task: (b G + g) parts + part.
template <class Tiles, class T>
void forward_task(const Attention<T>& a, const AttentionPlan& plan, int64_t task,
                  const ForwardMemory<T>& m) {
  const int64_t part = task % plan.parts, group = task / plan.parts;
  const int64_t b = group / a.kv_heads, g = group % a.kv_heads, repeats = a.heads / a.kv_heads;
  const int64_t blocks = (a.length + kQueryBlock - 1) / kQueryBlock;
  int64_t last = blocks - 1;
  while (!is_of_part(last, plan.parts, part)) --last;
  const int64_t keys = smaller(a.length, (last + 1) * kQueryBlock);
  pack_rows<Tiles, false>(rows_of(a, b, a.heads + g), 0, keys, a.head_dim, m.keys);
  pack_columns<Tiles>(rows_of(a, b, a.heads + a.kv_heads + g), keys, a.head_dim, m.values);
  const int64_t value_panel = panels_of(keys) * kBlock * kPiecesOf<T>;
  ForwardBlock<T> block{&a, b, 0, 0, 0, value_panel, score_scale(a) * kLog2E};
  for (block.h = g * repeats; block.h < (g + 1) * repeats; ++block.h) {
    for (int64_t i = 0; i <= last; ++i) {
      if (!is_of_part(i, plan.parts, part)) continue;
      block.panel = i * kHalves;
      block.halves = smaller(kHalves, panels_of(a.length) - block.panel);
      forward_block<Tiles>(block, m);
    }
  }
}

// ---- backward ----
//
// S and P are computed transposed, keys in rows: P^T and dS^T then are left factors of dV and dK as
// they come; dS^T is transposed block by block for dQ. Keys and queries are taken in squares of
// block_depth x block_depth blocks, whose products sum over the side of the square.

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
  // Block number n of the square is (j, i); then comes a product by next_b.
  const auto score = [&](int64_t n, int64_t j, int64_t i, const bfloat16* next_b) {
    multiply_blocks<Tiles, kPieces>(m.key_rows + j * panel, m.queries_across + i * panel, next_b,
                                    d / 32, false, m.scores + n % score_slots(kPieces) * kBlock);
  };
  // One block behind the products, as in score_chunk.
  int64_t last_n = -1, last_j = -1, last_i = -1;
  const auto differentiate_last = [&] {
    if (last_n < 0) return;
    const int64_t at = last_n % score_slots(kPieces) * kBlock;
    differentiate_block<Tiles>(square, last_j, last_i, factor, m.scores + at, m.grad_weights + at,
                               m);
  };
  const auto grade = [&](int64_t n, int64_t j, int64_t i, const bfloat16* next_b) {
    multiply_blocks<Tiles, kPieces>(m.value_rows + j * panel, m.grads_across + i * panel, next_b,
                                    d / 32, false,
                                    m.grad_weights + n % score_slots(kPieces) * kBlock);
    differentiate_last();
    last_n = n;
    last_j = j;
    last_i = i;
  };
  int64_t n = 0;
  for (int64_t j = square.keys; j < square.keys_end; ++j) {
    const int64_t from = larger(square.queries, j), count = square.queries_end - from;
    const bfloat16* queries = m.queries_across + from * panel;
    const bfloat16* grads = m.grads_across + from * panel;
    if constexpr (kPieces == 1) {
      for (int64_t i = 0; i < count; ++i) {
        score(n + i, j, from + i, grads + i * panel);
        grade(n + i, j, from + i, queries + (i + 1) * panel);
      }
    } else {  // the keys stay, then the values
      for (int64_t i = 0; i < count; ++i) {
        score(n + i, j, from + i, i + 1 < count ? queries + (i + 1) * panel : grads);
      }
      for (int64_t i = 0; i < count; ++i) {
        grade(n + i, j, from + i, i + 1 < count ? grads + (i + 1) * panel : queries);
      }
    }
    n += count;
  }
  differentiate_last();
}

// Blocks (sums) of a panel of rows += or = `left`, `steps` of its blocks, by the same of each panel
// of columns. next_b: the b of the product that comes then.
template <class Tiles, int kPieces>
void multiply_columns(const bfloat16* left, const bfloat16* columns, int64_t column_panel,
                      int64_t d, const bfloat16* next_b, int64_t steps, bool add, float* sums) {
  for (int64_t p = 0; p < d / 32; ++p, columns += column_panel) {
    multiply_blocks<Tiles, kPieces>(left, columns, p + 1 < d / 32 ? columns + column_panel : next_b,
                                    steps, add, sums + p * kBlock);
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
    multiply_columns<Tiles, kPieces>(m.weights + at, grads, column_panel, d, queries, steps, add,
                                     m.grad_values + j * 32 * d);
    multiply_columns<Tiles, kPieces>(m.slopes + at, queries, column_panel, d, grads, steps, add,
                                     m.grad_keys + j * 32 * d);
  }
  const bfloat16* keys = m.key_columns + square.keys * kFactorBlock;
  for (int64_t i = square.queries; i < square.queries_end; ++i) {
    const int64_t steps = smaller(square.keys_end, i + 1) - square.keys;
    multiply_columns<Tiles, kPieces>(m.slopes_across + (i - square.queries) * kDepth * kFactorBlock,
                                     keys, column_panel, d, keys, steps, square.keys > 0,
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
