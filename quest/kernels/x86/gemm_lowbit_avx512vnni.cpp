// gemm_lowbit with vpdpbusd: 6 rows x 64 columns of int32 sums in 24 registers. The weight tile is
// the unsigned operand; 4 codes of a row of a are broadcast straight from the row-major matrix.
#include <immintrin.h>

#include "quest/kernels/x86/gemm_lowbit_driver.h"

namespace quest::kernels::detail {
namespace {

template <int kCount>
inline void vnni_step(__m512i (&acc)[kCount][4], const uint8_t* w, const int32_t* groups) {
  const __m512i w0 = _mm512_loadu_si512(w);
  const __m512i w1 = _mm512_loadu_si512(w + 64);
  const __m512i w2 = _mm512_loadu_si512(w + 128);
  const __m512i w3 = _mm512_loadu_si512(w + 192);
#pragma GCC unroll 8
  for (int r = 0; r < kCount; ++r) {
    const __m512i a = _mm512_set1_epi32(groups[r]);
    acc[r][0] = _mm512_dpbusd_epi32(acc[r][0], w0, a);
    acc[r][1] = _mm512_dpbusd_epi32(acc[r][1], w1, a);
    acc[r][2] = _mm512_dpbusd_epi32(acc[r][2], w2, a);
    acc[r][3] = _mm512_dpbusd_epi32(acc[r][3], w3, a);
  }
}

template <int kCount>
void vnni_sums(const int8_t* a, int64_t k, const uint8_t* tile, int32_t* sums) {
  __m512i acc[kCount][4];
#pragma GCC unroll 8
  for (int r = 0; r < kCount; ++r) {
    acc[r][0] = acc[r][1] = acc[r][2] = acc[r][3] = _mm512_setzero_si512();
  }
  int32_t groups[kCount];
  const int64_t full = k / 4;
  for (int64_t g = 0; g < full; ++g, tile += 4 * kTileColumns) {
#pragma GCC unroll 8
    for (int r = 0; r < kCount; ++r) groups[r] = load_full_group(a + r * k + 4 * g);
    vnni_step<kCount>(acc, tile, groups);
  }
  if (k % 4 != 0) {
    for (int r = 0; r < kCount; ++r) groups[r] = load_group(a + r * k + 4 * full, k % 4);
    vnni_step<kCount>(acc, tile, groups);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kCount; ++r) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) _mm512_store_si512(sums + r * kTileColumns + 16 * j, acc[r][j]);
  }
}

struct VnniKernel {
  static constexpr int kRows = 6;

  static void sums(const GemmTask& task, const int8_t* a, int rows, const uint8_t* tile,
                   int32_t* out) {
    switch (rows) {
      case 6:
        return vnni_sums<6>(a, task.k, tile, out);
      case 5:
        return vnni_sums<5>(a, task.k, tile, out);
      case 4:
        return vnni_sums<4>(a, task.k, tile, out);
      case 3:
        return vnni_sums<3>(a, task.k, tile, out);
      case 2:
        return vnni_sums<2>(a, task.k, tile, out);
      default:
        return vnni_sums<1>(a, task.k, tile, out);
    }
  }
};

}  // namespace

void gemm_avx512vnni(const GemmTask& task) { run_gemm<VnniKernel>(task); }

}  // namespace quest::kernels::detail
