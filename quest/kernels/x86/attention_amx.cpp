// attention on AMX-BF16, AVX-512 and AVX512-BF16.
#include "quest/kernels/x86/attention_tiles_avx512.h"

namespace quest::kernels::detail {

void attention_forward_amx(const Attention& attention, const AttentionPlan& plan, int64_t begin,
                           int64_t end) {
  run_forward<AmxTiles>(attention, plan, begin, end);
}

void attention_backward_amx(const Attention& attention, const AttentionGrads& grads, int64_t begin,
                            int64_t end) {
  run_backward<AmxTiles>(attention, grads, begin, end);
}

}  // namespace quest::kernels::detail
