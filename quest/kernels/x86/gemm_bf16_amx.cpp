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
  Bf16Tiles::begin();
  for (int64_t task = begin; task < end; ++task) {
    run_task<Bf16Tiles>(product, plan, shared, task, own.get());
  }
  Bf16Tiles::end();
}

void split_bf16_avx512(const float* x, const float* scales, int64_t scale_stride, int64_t count,
                       bfloat16* high, bfloat16* middle, bfloat16* low) {
  Bf16Tiles::split(x, scales, scale_stride, count, high, middle, low);
}

}  // namespace quest::kernels::detail
