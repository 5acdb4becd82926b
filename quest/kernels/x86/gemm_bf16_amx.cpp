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

}  // namespace quest::kernels::detail
