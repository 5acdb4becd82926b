// Attention of single tokens and of short prompts over the paged cache (kv_cache.h), in FP32.
//
// Row r attends to the positions 0 to position[r] of its sequence. q is read from qkv (rows,
// (H + 2G) D) as rope_append leaves it; out is (rows, H D), for int8 transformed back into the
// plain basis. `heads` H is a multiple of the key-value heads G. Asynchronous in `stream`; memory,
// overlap and errors as in kv_cache.h.
#pragma once

#include <cstdint>

#include "quest/kernels/cuda/kv_cache.h"

namespace quest::kernels::cuda::deploy {

// The order of kernels/deploy.h attend, bit for bit (fp16 and int8; bf16 in the same order). Any
// number of rows.
void attend_exact(const KvCacheView& cache, int64_t layer, const float* qkv, int64_t heads,
                  const KvRows& rows, float* out, Stream stream);

// Fast attention: the keys of a row are dealt out in pieces, one block for each piece, row and
// key-value head; the `H / G` query heads of a key-value head share its reads. A row's pieces
// follow from its length, a piece's softmax and sums are those of its positions alone, and pieces
// are combined in order: a row's bits depend on its sequence alone. There are as many as pages
// (kPagePositions keys), at most 7, from 28 pages on as many as it takes for 4 pages each; they are
// of as equal numbers of kPieceStep keys as can be (the last one's last may be fewer), none empty,
// so that blocks take alike long. 7, since beside a product's block two of attention's fit on a
// multiprocessor, and groups of 14 multiprocessors, of which a GPU has some, then have room for
// four clusters of 7, so 32 of them begin at once: of 8 a few began when the product had ended.
inline constexpr int kFewPieces = 7, kPiecePages = 4, kPieceStep = 16;
template <class Int>
constexpr Int pages_of(Int positions) {
  return (positions + kPagePositions - 1) / kPagePositions;
}
// Of a row of `positions`; grows with them.
template <class Int>
constexpr Int attend_pieces(Int positions) {
  const Int pages = pages_of(positions), least = (pages + kPiecePages - 1) / kPiecePages;
  return pages <= kFewPieces ? pages : least > kFewPieces ? least : Int{kFewPieces};
}
// A number to plan for, at least `pieces`: one of few, so that a plan fits many lengths.
template <class Int>
constexpr Int planned_pieces(Int pieces) {
  Int plan = 1;
  while (plan < pieces) plan *= 2;
  return pieces <= kFewPieces && plan > kFewPieces ? Int{kFewPieces} : plan;
}
// The first position of a row's piece; of piece attend_pieces(), `positions` rounded up.
template <class Int>
constexpr Int piece_first(Int positions, Int piece) {
  return (positions + kPieceStep - 1) / kPieceStep * piece / attend_pieces(positions) * kPieceStep;
}
// Whether attend_split and decode_attention take this head size: multiples of 8 up to 256 (int8: of
// 16). Others have attend_exact.
bool attend_split_supports(const KvLayout& layout);
// Bytes of workspace for up to `rows` rows and `pieces` pieces; 0 for one piece. The caller zeroes
// it once; every call leaves it fit for the next in the same stream, of any rows and pieces up to
// these.
int64_t attend_split_workspace(int64_t rows, int64_t heads, int64_t head_dim, int64_t pieces);

// How the work of a call is dealt out: `pieces` is at least attend_pieces(position + 1) of every
// row; pieces beyond a row's length end at once.
struct SplitPlan {
  int64_t pieces = 1;
  void* workspace = nullptr;  // null for one piece
  int64_t max_rows = 0;       // that the workspace was sized for
};

void attend_split(const KvCacheView& cache, int64_t layer, const float* qkv, int64_t heads,
                  const KvRows& rows, const SplitPlan& plan, float* out, Stream stream);

// Where decode_attention's rows go: as they are, or rotated for the quantizer behind them, of
// Hadamard blocks of `block` values (1: none); of rotated rows, whose heads are of 128 or 256
// values, the signs and the sums of squares of every 128 values (decode_linear.h SignRow).
//
// `next`: bytes that a kernel behind it will read, fetched into the second-level cache behind the
// keys and values, when the memory has nothing to do.
struct AttendOut {
  float* values = nullptr;    // (rows, H D), or null if there are signs
  uint32_t* signs = nullptr;  // (rows, H D / 32): bit plane_bit<1>(c % 32) of word c / 32
  float* chunks = nullptr;    // (rows, H D / 128)
  int block = 1;
  const void* next = nullptr;
  int64_t next_bytes = 0;
};
// Whether there can be signs.
bool attend_rotates(const KvLayout& layout);

// rope_append and attend_split in one kernel, for one token of each sequence: qkv as the product
// left it, which it stays; cos, sin (positions, D/2). The bits of the two one after the other.
//
// Of what earlier kernels of the stream wrote, only qkv and the row's own position may come from
// kernels that overlap with this one: rows' slots and positions, tables, cos, sin and the cached
// positions before a row's own must have been complete before this step's first kernel let the next
// one start (dependent_launch.cuh), for they are read without waiting. A step's first kernel thus
// waits for what is before it, and lets others start then.
void decode_attention(const KvCacheView& cache, int64_t layer, const float* qkv, int64_t heads,
                      const float* cos, const float* sin, const KvRows& rows, const SplitPlan& plan,
                      const AttendOut& out, Stream stream);

// What the calls above check: kUsage for query heads that do not share key-value heads evenly, head
// sizes, plans or Hadamard blocks that do not fit.
void check_attend(const KvLayout& layout, int64_t heads);
void check_attend_out(const KvLayout& layout, const AttendOut& out);
void check_split(const KvLayout& layout, int64_t heads, const KvRows& rows, const SplitPlan& plan);

}  // namespace quest::kernels::cuda::deploy
