// attention on AMX-BF16, AVX-512 and AVX512-BF16.
#include "quest/kernels/x86/attention_tiles_avx512.h"

namespace quest::kernels::detail {

template <class T>
void attention_forward_amx(const Attention<T>& attention, const AttentionPlan& plan, int64_t begin,
                           int64_t end) {
  run_forward<AmxTiles>(attention, plan, begin, end);
}

template <class T>
void attention_backward_amx(const Attention<T>& attention, const AttentionGrads<T>& grads,
                            int64_t begin, int64_t end) {
  run_backward<AmxTiles>(attention, grads, begin, end);
}

template void attention_forward_amx(const Attention<bfloat16>&, const AttentionPlan&, int64_t,
                                    int64_t);
template void attention_forward_amx(const Attention<float>&, const AttentionPlan&, int64_t,
                                    int64_t);
template void attention_backward_amx(const Attention<bfloat16>&, const AttentionGrads<bfloat16>&,
                                     int64_t, int64_t);
template void attention_backward_amx(const Attention<float>&, const AttentionGrads<float>&, int64_t,
                                     int64_t);

}  // namespace quest::kernels::detail
