// attention with AMX tiles, forward pass: see attention_amx_kernel.h.
#pragma once

#include "quest/kernels/x86/attention_amx_kernel.h"

namespace quest::kernels::detail {
namespace {

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
    multiply_blocks<Tiles, kPieces>(m.queries + half * panel, keys + j * panel, d / 32, false,
                                    m.scores + (half * kChunk + j) * kBlock);
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
        multiply_blocks<Tiles, kPieces>(m.weights + (half * kChunk + j) * kBlock * kPieces,
                                        values(p, j), smaller(kDepth, visible - j), chunk + j > 0,
                                        m.sums + half * 32 * d + p * kBlock);
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

}  // namespace
}  // namespace quest::kernels::detail
