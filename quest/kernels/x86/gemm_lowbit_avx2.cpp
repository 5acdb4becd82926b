// gemm_lowbit with 256-bit vectors; the method is described in gemm_lowbit_maddubs.h.
#include "quest/kernels/x86/gemm_lowbit_maddubs.h"

namespace quest::kernels::detail {
namespace {

struct Vector256 {
  using Int = __m256i;
  static constexpr int kVectors = 2;  // 4 rows x 2 vectors of sums leave room in 16 registers

  static inline __attribute__((always_inline)) void pin(Int& x) { asm("" : "+x"(x)); }
  static Int zero() { return _mm256_setzero_si256(); }
  static Int broadcast(int32_t x) { return _mm256_set1_epi32(x); }
  static Int load(const void* p) { return _mm256_loadu_si256(static_cast<const Int*>(p)); }
  static void store(void* p, Int x) { _mm256_storeu_si256(static_cast<Int*>(p), x); }
  static Int maddubs(Int u8, Int s8) { return _mm256_maddubs_epi16(u8, s8); }
  static Int madd16(Int x, Int y) { return _mm256_madd_epi16(x, y); }
  static Int add16(Int x, Int y) { return _mm256_add_epi16(x, y); }
  static Int add32(Int x, Int y) { return _mm256_add_epi32(x, y); }
  static Int bit_and(Int x, Int y) { return _mm256_and_si256(x, y); }
  static Int shift_right16_by_8(Int x) { return _mm256_srli_epi16(x, 8); }
  // Of each 16-bit pair of bytes the lower or the upper one, as a 16-bit number.
  static Int sign_extend_low_bytes(Int x) { return _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8); }
  static Int sign_extend_high_bytes(Int x) { return _mm256_srai_epi16(x, 8); }
};

}  // namespace

void gemm_avx2(const GemmTask& task) { run_gemm<MaddKernel<Vector256>>(task); }

}  // namespace quest::kernels::detail
