// Inside of attention: the functions of its levels. Not for callers.
#pragma once

#include "quest/kernels/attention.h"

namespace quest::kernels::detail {

inline constexpr int64_t kQueryBlock = 64;  // rows of a forward block; the unit of plan.parts

void attention_forward_amx(const Attention& attention, const AttentionPlan& plan, int64_t begin,
                           int64_t end);
void attention_backward_amx(const Attention& attention, const AttentionGrads& grads, int64_t begin,
                            int64_t end);

void attention_forward_avx512bf16(const Attention& attention, const AttentionPlan& plan,
                                  int64_t begin, int64_t end);
void attention_backward_avx512bf16(const Attention& attention, const AttentionGrads& grads,
                                   int64_t begin, int64_t end);

// The functions on one row of 32 values (x86/attention_amx_kernel.h), for the test: they need
// AVX-512 with VNNI, VBMI and BF16, but no tiles.
void attention_raise_maximum_avx512(const float* scores, float* maxima);
float attention_largest_avx512(const float* maxima);
void attention_weigh_avx512(const float* scores, float factor, float offset, float* totals,
                            bfloat16* weights);
float attention_total_avx512(const float* totals);
void attention_differentiate_avx512(const float* scores, const float* grad_weights, float factor,
                                    const float* offsets, const float* deltas, bfloat16* weights,
                                    bfloat16* slopes);
void attention_scale_avx512(const float* sums, float factor, bfloat16* out);
float attention_dot_avx512(const bfloat16* a, const bfloat16* b, int64_t count);

}  // namespace quest::kernels::detail
