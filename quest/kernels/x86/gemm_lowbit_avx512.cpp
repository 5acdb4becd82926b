// gemm_lowbit with 512-bit vectors, no VNNI; the method is described in gemm_lowbit_maddubs.h.
#include "quest/kernels/x86/gemm_lowbit_maddubs.h"

namespace quest::kernels::detail {
namespace {

struct Vector512 {
  using Int = __m512i;
  static constexpr int kVectors = 4;

  static inline __attribute__((always_inline)) void pin(Int&) {}
  static Int zero() { return _mm512_setzero_si512(); }
  static Int broadcast(int32_t x) { return _mm512_set1_epi32(x); }
  static Int load(const void* p) { return _mm512_loadu_si512(p); }
  static void store(void* p, Int x) { _mm512_storeu_si512(p, x); }
  static Int maddubs(Int u8, Int s8) { return _mm512_maddubs_epi16(u8, s8); }
  static Int madd16(Int x, Int y) { return _mm512_madd_epi16(x, y); }
  static Int add16(Int x, Int y) { return _mm512_add_epi16(x, y); }
  static Int add32(Int x, Int y) { return _mm512_add_epi32(x, y); }
  static Int bit_and(Int x, Int y) { return _mm512_and_si512(x, y); }
  static Int shift_right16_by_8(Int x) { return _mm512_srli_epi16(x, 8); }
  // Of each 16-bit pair of bytes the lower or the upper one, as a 16-bit number.
  static Int sign_extend_low_bytes(Int x) { return _mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8); }
  static Int sign_extend_high_bytes(Int x) { return _mm512_srai_epi16(x, 8); }
};

}  // namespace

void gemm_avx512(const GemmTask& task) { run_gemm<MaddKernel<Vector512>>(task); }

}  // namespace quest::kernels::detail
