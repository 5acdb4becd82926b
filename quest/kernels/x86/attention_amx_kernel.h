// attention with AMX tiles: what its passes (attention_amx_forward.h, attention_amx_backward.h)
// share. x86/attention_amx.cpp gives the instructions, the test an emulation. Internal linkage and
// no library functions: see gemm_lowbit_driver.h.
//
// All is done in blocks of 32 x 32: a block of sums is 1024 floats, row by row; a block of factors
// is one step of a panel (gemm_bf16_levels.h): 1024 bfloat16 values, or three such pieces one after
// the other if T is float. Panels of rows are the left factors of products, panels of columns the
// right ones.
//
// FP32 makes six products of three times the memory: they take longer than fetching their factors
// from the L2 cache, if one of the two stays in the L1 cache (24 KB with D = 128) and the other is
// fetched a step ahead. So sums are shorter (block_depth) and loops ordered by the factor that
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

// Panels of 32 rows, depth D: the head as left factor (kRowTiles), or transposed as right factor.
template <class Tiles, bool kRowTiles, class T>
void pack_rows(const Rows<T>& rows, int64_t first, int64_t count, int64_t d, bfloat16* panels) {
  for (int64_t t = first; t < count; t += 32, panels += 32 * d * kPiecesOf<T>) {
    pack_panel<Tiles, kRowTiles>(rows.data, rows.stride, 1, t, count, d, panels);
  }
}

// Panels of 32 of the D columns, depth `count` rows: the head as right factor.
template <class Tiles, class T>
void pack_columns(const Rows<T>& rows, int64_t count, int64_t d, bfloat16* panels) {
  for (int64_t at = 0; at < d; at += 32, panels += panels_of(count) * kBlock * kPiecesOf<T>) {
    pack_panel<Tiles, false>(rows.data, 1, rows.stride, at, d, count, panels);
  }
}

// sums += or = the product of `steps` blocks of a panel of rows and of one of columns.
template <class Tiles, int kPieces>
void multiply_blocks(const bfloat16* a, const bfloat16* b, int64_t steps, bool add, float* sums) {
  static_assert(kBlock == kStepElements);
  multiply_panels<Tiles, kPieces>(a, b, steps, add, sums, 32, [] {});
}

}  // namespace
}  // namespace quest::kernels::detail
