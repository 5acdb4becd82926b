// gemm_bf16 on AMX-BF16.
#include "quest/kernels/x86/amx_bf16_tiles.h"
#include "quest/kernels/x86/gemm_bf16_amx_kernel.h"

namespace quest::kernels::detail {

void gemm_bf16_pack_amx(const GemmBf16& product, const GemmBf16Plan& plan, int64_t begin,
                        int64_t end, bfloat16* shared) {
  pack_shared<Bf16Tiles>(product, plan, begin, end, shared);
}

void gemm_bf16_run_amx(const GemmBf16& product, const GemmBf16Plan& plan, const bfloat16* shared,
                       int64_t begin, int64_t end) {
  const Scratch<bfloat16> own(task_panel_elements(plan));
  const Scratch<float> sums(task_sums(plan));
  Bf16Tiles::begin();
  for (int64_t task = begin; task < end; ++task) {
    run_task<Bf16Tiles>(product, plan, shared, task, own.get(), sums.get());
  }
  Bf16Tiles::end();
}

// 16 values at once; the instruction takes subnormal values as zero.
void split_bf16_amx(const float* x, const float* scales, int64_t scale_stride, int64_t count,
                    bfloat16* high, bfloat16* middle, bfloat16* low) {
  const auto widen = [](__m256bh piece) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(piece)), 16));
  };
  for (int64_t i = 0; i < count; i += 16) {
    const int64_t left = count - i < 16 ? count - i : 16;
    const auto lanes = static_cast<__mmask16>((1u << left) - 1);
    const __m512 scale =
        scale_stride == 0 ? _mm512_set1_ps(*scales) : _mm512_maskz_loadu_ps(lanes, scales + i);
    __m512 rest = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, x + i), scale);
    for (bfloat16* out : {high, middle, low}) {
      const __m256bh piece = _mm512_cvtneps_pbh(rest);
      _mm256_mask_storeu_epi16(out + i, lanes, reinterpret_cast<__m256i>(piece));
      rest = _mm512_sub_ps(rest, widen(piece));
    }
  }
}

}  // namespace quest::kernels::detail
