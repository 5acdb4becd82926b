// Inside of gemm_lowbit: one call, checked and reduced to what the x86 levels need. Not for
// callers.
//
// The x86 levels share one tile order of the weight codes. A tile holds 64 columns (weight rows):
//   tile[g][c][i] = uint8(code(w[64 t + c][4 g + i]) + shift),   g < k_groups, c < 64, i < 4
// with shift = the format's largest |code|, so that no entry is negative; rows and columns past the
// end are 0. One group g of 4 products is what one lane of vpdpbusd, vpmaddubsw or an AMX tile adds
// up. With S[m][n] = sum_k a[m][k] * tile entry and both formats as number = multiplier * code +
// offset,
//   acc = product * S + row_factor * sum_k a + column_factor * sum_k w + constant,
// which is exact modulo 2^32 and therefore exact, since acc itself fits (gemm_lowbit checks that).
#pragma once

#include <cstdint>

#include "quest/kernels/gemm_lowbit.h"

namespace quest::kernels::detail {

inline constexpr int kTileColumns = 64;

struct GemmTask {
  const int8_t* a = nullptr;  // (M,K) codes
  int64_t k = 0;
  int64_t k_groups = 0;  // of 4, in each tile; at least ceil(k/4)
  const float* a_units = nullptr;
  int64_t m0 = 0, m1 = 0;
  const uint8_t* tiles = nullptr;
  const int32_t* w_sums = nullptr;  // (N): sum_k code
  const float* w_units = nullptr;
  int64_t n0 = 0, n1 = 0;
  uint32_t product = 1, row_factor = 0, column_factor = 0, constant = 0;
  int a_max_code = 0;  // largest |code| on the activation side
  int w_max_tile = 0;  // largest tile entry
  void* out = nullptr;
  int64_t ldo = 0;
  bool out_is_bfloat16 = false;
};

// Largest |code| of a format: 128 for 8-bit uniform, else max_number.
int max_code(const CodeFormat& format);

// w must be packed for an x86 level.
template <class T>
GemmTask make_task(const CodeFormat& a_format, const int8_t* a, const float* a_units, int64_t m0,
                   int64_t m1, const PackedCodes& w, const float* w_units, int64_t n0, int64_t n1,
                   T* out, int64_t ldo);

// Each computes rows [m0, m1) and columns [n0, n1) of the output.
void gemm_avx2(const GemmTask& task);
void gemm_avx512(const GemmTask& task);
void gemm_avx512vnni(const GemmTask& task);
void gemm_amx(const GemmTask& task);

// The definition (scalar/gemm_lowbit.cpp); w.tiles hold the codes row-major.
template <class T>
void gemm_scalar(const CodeFormat& a_format, const int8_t* a, const float* a_units, int64_t m0,
                 int64_t m1, const PackedCodes& w, const float* w_units, int64_t n0, int64_t n1,
                 T* out, int64_t ldo);

}  // namespace quest::kernels::detail
