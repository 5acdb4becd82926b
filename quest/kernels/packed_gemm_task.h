// Inside of packed_gemm: one call, checked and reduced to what the levels need. Not for callers.
//
// Kernels see a weight as an unsigned byte u' with number = w_multiplier u' + w_offset:
//   uniform, ternary  u' = u, the stored value
//   FP4               u' = table[u] = number + 12
//   4:8               u' = number + 16, after its pairs are spread out; or, where codes are
//                     selected by pairs, the number itself (w_multiplier 1, w_offset 0)
// and an activation as a signed code c with number = a_multiplier c + a_offset. With
// S = sum_k u' c,
//   acc = product S + row_terms[m] + column_terms[n]      modulo 2^32, and acc itself fits
//   product = w_multiplier a_multiplier, row_terms[m] = a_multiplier w_offset sum_k c,
//   column_terms[n] = a_offset sum_k number(w[n][k])      (null: all 0)
// For popcount, S is the count of bits that differ, product -2 and row_terms[m] = K.
//
// Prepared activations: int32 sums of codes (M; left open for popcount), then strips of R rows (R =
// 1, 2, 4 or 8 by M; rows past the end are 0), then, if the activations have an offset, a strip of
// one row of ones. A strip is word [g][r] of row r: dot: the 4 codes of columns 4 g to 4 g + 3, or
// 8 where codes are selected (K then padded to a multiple of 64); popcount: the bits of block g in
// the order of the weight's lines, 32 bits. For AMX tiles a strip is 32 rows, [k / 64][2][16][64]
// codes.
#pragma once

#include <cstdint>

#include "quest/kernels/packed_gemm.h"
#include "quest/kernels/product_task.h"

namespace quest::kernels::detail {

inline constexpr int64_t kAmxStrip = 32;  // rows
inline constexpr int64_t kAmxDepth = 64;  // codes along K in one tile row
inline constexpr int64_t kMaxStrip = 8;   // rows of the other methods

struct ActivationLayout {
  int64_t strip = 1;  // rows
  int64_t word = 4;   // bytes of a row that lie together
  int64_t strips = 0;
  int64_t strip_bytes = 0;
  int64_t strips_offset = 0;
  int64_t ones_offset = -1;  // -1: none
  int64_t bytes = 0;
};
ActivationLayout activation_layout(const PackedPlan& plan, int64_t m, int64_t k);

enum class PackedValues { kBits, kTable, kSparse };

// The weight side of a task.
struct WeightTiles {
  PackedValues values = PackedValues::kBits;
  int bits = 0;  // 4 for kTable and kSparse
  const uint8_t* bytes = nullptr;
  int64_t tile_bytes = 0;
  const uint8_t* pairs = nullptr;  // kSparse
  int64_t pair_tile_bytes = 0;
  int64_t blocks = 0;                  // of 32 columns of K
  alignas(64) uint8_t table[64] = {};  // kTable: u' of u, 4 times over
};

// number = multiplier u' + offset, of the u' that kernels see.
struct ValueMap {
  int multiplier = 1, offset = 0;
};
ValueMap value_map(const QuantSpec& spec);
WeightTiles weight_tiles(const PackedWeight& w);

struct PackedTask : OutputRange {  // out may be null
  WeightTiles w = {};
  const float* w_units = nullptr;          // (N)
  const uint32_t* column_terms = nullptr;  // of column n at [n - n0]; may be null
  const uint8_t* a = nullptr;              // strips
  int64_t strip = 1, strip_bytes = 0;
  bool selects = false;                 // kSparse: codes of kept columns are selected
  const float* a_units = nullptr;       // (M)
  const uint32_t* row_terms = nullptr;  // of row m at [m - m0]
  uint32_t product = 1;
  int32_t* acc = nullptr;  // (M,N), row stride ldo; may be null
};

// The code of this method and level; method is kDot, kPopcount or kTiles.
void run_packed_task(PackedMethod method, IsaLevel level, const PackedTask& task);
void packed_dot_avx2(const PackedTask& task);
void packed_dot_avx512(const PackedTask& task);
void packed_dot_avx512vnni(const PackedTask& task);
void packed_popcount_avx2(const PackedTask& task);
void packed_popcount_avx512(const PackedTask& task);
void packed_popcount_avx512vnni(const PackedTask& task);
void packed_tiles_amx(const PackedTask& task);

// packed_gemm_float. Numbers of grids of up to 4 bits (FP4's too) are levels[u]; those of more bits
// and of 4:8 are multiplier * u' + offset.
struct PackedFloatTask : OutputRange {
  WeightTiles w = {};
  float multiplier = 1, offset = 0;
  bool is_uniform = false;            // number 2 u - (2^bits - 1), bits as stored
  alignas(64) float levels[16] = {};  // for the bits that are stored, repeated: levels[u % 2^bits]
  const float* w_units = nullptr;
  const float* x = nullptr;
  int64_t ldx = 0, k = 0;
};
void packed_float_avx2(const PackedFloatTask& task);
void packed_float_avx512(const PackedFloatTask& task);

// The definition (scalar/packed_gemm.cpp). codes (M,K) row-major.
void packed_gemm_scalar(const QuantSpec& activation, const PackedWeight& w, const int8_t* codes,
                        const float* a_units, int64_t m0, int64_t m1, int64_t n0, int64_t n1,
                        float* out, int64_t ldo, int32_t* acc);
void packed_gemm_float_scalar(const PackedWeight& w, const float* x, int64_t ldx, int64_t m0,
                              int64_t m1, int64_t n0, int64_t n1, float* out, int64_t ldo);

}  // namespace quest::kernels::detail
