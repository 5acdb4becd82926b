// gemm_lowbit with vpdpbusd: 6 rows x 64 columns of int32 sums in 24 registers. The weight tile is
// the unsigned operand; 4 codes of a row of a are broadcast straight from the row-major matrix.
#include <immintrin.h>

#include "quest/kernels/x86/gemm_lowbit_driver.h"

namespace quest::kernels::detail {
namespace {

// sums[r][c] = the products of whole groups. The loop is alone in its function, and the
// accumulators are initialized and stored around it: with any other use of them GCC 12 spills some
// in each step.
template <int kCount>
__attribute__((noinline)) void vnni_sums(const int8_t* a, int64_t stride, int64_t groups,
                                         const uint8_t* tile, int32_t* sums) {
  __m512i acc[kCount][4];
#pragma GCC unroll 8
  for (int r = 0; r < kCount; ++r) {
    acc[r][0] = acc[r][1] = acc[r][2] = acc[r][3] = _mm512_setzero_si512();
  }
  for (int64_t g = 0; g < groups; ++g, tile += 4 * kTileColumns, a += 4) {
    const __m512i w0 = _mm512_loadu_si512(tile);
    const __m512i w1 = _mm512_loadu_si512(tile + 64);
    const __m512i w2 = _mm512_loadu_si512(tile + 128);
    const __m512i w3 = _mm512_loadu_si512(tile + 192);
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) {
      const __m512i codes = _mm512_set1_epi32(load_full_group(a + r * stride));
      acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], w0, codes);
      acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], w1, codes);
      acc[r][2] = _mm512_dpbusd_epi32(acc[r][2], w2, codes);
      acc[r][3] = _mm512_dpbusd_epi32(acc[r][3], w3, codes);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) _mm512_store_si512(sums + r * kTileColumns + 16 * j, acc[r][j]);
  }
}

// Adds the last, partial group of `count` codes.
void add_last_group(const int8_t* a, int64_t stride, int rows, int64_t count, const uint8_t* tile,
                    int32_t* sums) {
  for (int r = 0; r < rows; ++r) {
    const __m512i codes = _mm512_set1_epi32(load_group(a + r * stride, count));
    for (int j = 0; j < 4; ++j) {
      int32_t* sum = sums + r * kTileColumns + 16 * j;
      const __m512i w = _mm512_loadu_si512(tile + 64 * j);
      _mm512_store_si512(sum, _mm512_dpbusd_epi32(_mm512_load_si512(sum), w, codes));
    }
  }
}

struct VnniKernel {
  static constexpr int kRows = 6;

  static void sums(const GemmTask& task, const int8_t* a, int rows, const uint8_t* tile,
                   int32_t* out) {
    const int64_t groups = task.k / 4;
    sum_groups(a, task.k, groups, rows, tile, out);
    if (task.k % 4 != 0) {
      add_last_group(a + 4 * groups, task.k, rows, task.k % 4, tile + groups * 4 * kTileColumns,
                     out);
    }
  }

 private:
  static void sum_groups(const int8_t* a, int64_t stride, int64_t groups, int rows,
                         const uint8_t* tile, int32_t* out) {
    switch (rows) {
      case 6:
        return vnni_sums<6>(a, stride, groups, tile, out);
      case 5:
        return vnni_sums<5>(a, stride, groups, tile, out);
      case 4:
        return vnni_sums<4>(a, stride, groups, tile, out);
      case 3:
        return vnni_sums<3>(a, stride, groups, tile, out);
      case 2:
        return vnni_sums<2>(a, stride, groups, tile, out);
      default:
        return vnni_sums<1>(a, stride, groups, tile, out);
    }
  }
};

}  // namespace

void gemm_avx512vnni(const GemmTask& task) { run_gemm<VnniKernel>(task); }

}  // namespace quest::kernels::detail
