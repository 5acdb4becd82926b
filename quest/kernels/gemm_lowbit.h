// Exact product of integer codes with the scales in the epilogue (prefill and training forward).
//
//   acc[m][n] = sum_k number(a[m][k]) * number(w[n][k])            exact in int32
//   out[m][n] = T(float(acc[m][n]) * (a_units[m] * w_units[n]))    T: float or bfloat16
//
// number(code) = multiplier * code + offset (CodeFormat of each side, quest/quant/quantizer.h). All
// levels give the same bits. Weights are packed once per optimizer step into the level's tile
// order. Single-threaded on a tile of the output: callers split M and N; calls may run at once.
//
//   PackedCodes w = pack_codes(w_format, w_codes, n, k);
//   gemm_lowbit(a_format, a_codes, a_units, 0, m, w, w_units, 0, n, out, n);   // out (M,N)
//
// Codes are trusted to be what their format allows (|number| <= max_number): small numbers go
// through narrower sums. Errors: kUsage for formats that are tables of levels, for a K whose sums
// could leave 32 bits, for column ranges outside the weights.
#pragma once

#include <cstdint>
#include <vector>

#include "quest/base/bfloat16.h"
#include "quest/base/cpu_features.h"
#include "quest/quant/quantizer.h"

namespace quest::kernels {

// Codes of the weight side in the tile order of one level. Owns its memory.
struct PackedCodes {
  IsaLevel level = IsaLevel::kScalar;  // the level whose code made it and must use it
  int64_t n = 0, k = 0;
  CodeFormat format;
  std::vector<int8_t> tiles;      // level-specific order, padded with zeros, 64-byte aligned start
  std::vector<int32_t> row_sums;  // (n): sum_k code, for the offset and sign corrections
  int64_t tile_offset = 0;        // of the aligned start in tiles
};

// codes (N,K) int8 row-major. Throws kUsage if k * max_number alone could leave int32; gemm_lowbit
// checks k * max_number(a) * max_number(w) < 2^31. A PackedCodes may be copied and moved.
PackedCodes pack_codes(const CodeFormat& format, const int8_t* codes, int64_t n, int64_t k,
                       IsaLevel level = isa_level());
// The same in two steps, so that threads can share the second: memory for (N,K), then weight rows
// [n0, n1), n0 a multiple of gemm_lowbit_column_tile(). Each row must be packed once.
PackedCodes make_packed_codes(const CodeFormat& format, int64_t n, int64_t k,
                              IsaLevel level = isa_level());
void pack_rows(PackedCodes& packed, const int8_t* codes, int64_t n0, int64_t n1);

// Computes rows [m0, m1) and columns [n0, n1) of out (M,N), row stride ldo. a (M,K) int8 codes of
// `a_format`, a_units (M), w_units (N). n0 must be a multiple of gemm_lowbit_column_tile().
template <class T>
void gemm_lowbit(const CodeFormat& a_format, const int8_t* a, const float* a_units, int64_t m0,
                 int64_t m1, const PackedCodes& w, const float* w_units, int64_t n0, int64_t n1,
                 T* out, int64_t ldo);

// Columns are dealt out to threads in multiples of this.
int64_t gemm_lowbit_column_tile(IsaLevel level);
// "avx512vnni", ...: whose code runs for `level`.
const char* gemm_lowbit_plan(IsaLevel level = isa_level());

}  // namespace quest::kernels
