// attention on AVX-512 and AVX512-BF16 without AMX.
#include "quest/kernels/x86/attention_tiles_avx512.h"

namespace quest::kernels::detail {

template <class T>
void attention_forward_avx512bf16(const Attention<T>& attention, const AttentionPlan& plan,
                                  int64_t begin, int64_t end) {
  run_forward<VectorTiles>(attention, plan, begin, end);
}

template <class T>
void attention_backward_avx512bf16(const Attention<T>& attention, const AttentionGrads<T>& grads,
                                   int64_t begin, int64_t end) {
  run_backward<VectorTiles>(attention, grads, begin, end);
}

template void attention_forward_avx512bf16(const Attention<bfloat16>&, const AttentionPlan&,
                                           int64_t, int64_t);
template void attention_forward_avx512bf16(const Attention<float>&, const AttentionPlan&, int64_t,
                                           int64_t);
template void attention_backward_avx512bf16(const Attention<bfloat16>&,
                                            const AttentionGrads<bfloat16>&, int64_t, int64_t);
template void attention_backward_avx512bf16(const Attention<float>&, const AttentionGrads<float>&,
                                            int64_t, int64_t);

using RowTiles = AttentionTiles<VectorTiles>;

void attention_raise_maximum_avx512(const float* scores, float* maxima) {
  RowTiles::raise_maximum(scores, maxima);
}
float attention_largest_avx512(const float* maxima) { return RowTiles::largest(maxima); }
template <int kPieces>
void attention_weigh_avx512(const float* scores, float factor, float offset, float* totals,
                            bfloat16* weights) {
  RowTiles::weigh<kPieces>(scores, factor, offset, totals, weights);
}
template void attention_weigh_avx512<1>(const float*, float, float, float*, bfloat16*);
template void attention_weigh_avx512<3>(const float*, float, float, float*, bfloat16*);

float attention_total_avx512(const float* totals) { return RowTiles::total(totals); }
template <int kPieces>
void attention_differentiate_avx512(const float* scores, const float* grad_weights, float factor,
                                    const float* offsets, const float* deltas, bfloat16* weights,
                                    bfloat16* slopes) {
  RowTiles::differentiate<kPieces>(scores, grad_weights, factor, offsets, deltas, weights, slopes);
}
template void attention_differentiate_avx512<1>(const float*, const float*, float, const float*,
                                                const float*, bfloat16*, bfloat16*);
template void attention_differentiate_avx512<3>(const float*, const float*, float, const float*,
                                                const float*, bfloat16*, bfloat16*);

template <class T>
void attention_scale_avx512(const float* sums, float factor, T* out) {
  RowTiles::scale(sums, factor, out);
}
template void attention_scale_avx512(const float*, float, bfloat16*);
template void attention_scale_avx512(const float*, float, float*);

template <class T>
float attention_dot_avx512(const T* a, const T* b, int64_t count) {
  return RowTiles::dot(a, b, count);
}
template float attention_dot_avx512(const bfloat16*, const bfloat16*, int64_t);
template float attention_dot_avx512(const float*, const float*, int64_t);

}  // namespace quest::kernels::detail
