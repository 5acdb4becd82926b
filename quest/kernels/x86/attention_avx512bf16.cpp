// attention on AVX-512 and AVX512-BF16 without AMX.
#include "quest/kernels/x86/attention_tiles_avx512.h"

namespace quest::kernels::detail {

void attention_forward_avx512bf16(const Attention& attention, const AttentionPlan& plan,
                                  int64_t begin, int64_t end) {
  run_forward<VectorTiles>(attention, plan, begin, end);
}

void attention_backward_avx512bf16(const Attention& attention, const AttentionGrads& grads,
                                   int64_t begin, int64_t end) {
  run_backward<VectorTiles>(attention, grads, begin, end);
}

using RowTiles = AttentionTiles<VectorTiles>;

void attention_raise_maximum_avx512(const float* scores, float* maxima) {
  RowTiles::raise_maximum(scores, maxima);
}
float attention_largest_avx512(const float* maxima) { return RowTiles::largest(maxima); }
void attention_weigh_avx512(const float* scores, float factor, float offset, float* totals,
                            bfloat16* weights) {
  RowTiles::weigh(scores, factor, offset, totals, weights);
}
float attention_total_avx512(const float* totals) { return RowTiles::total(totals); }
void attention_differentiate_avx512(const float* scores, const float* grad_weights, float factor,
                                    const float* offsets, const float* deltas, bfloat16* weights,
                                    bfloat16* slopes) {
  RowTiles::differentiate(scores, grad_weights, factor, offsets, deltas, weights, slopes);
}
void attention_scale_avx512(const float* sums, float factor, bfloat16* out) {
  RowTiles::scale(sums, factor, out);
}
float attention_dot_avx512(const bfloat16* a, const bfloat16* b, int64_t count) {
  return RowTiles::dot(a, b, count);
}

}  // namespace quest::kernels::detail
