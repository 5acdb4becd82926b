// Inside of attention: the functions of its levels. Not for callers.
#pragma once

#include "quest/kernels/attention.h"

namespace quest::kernels::detail {

inline constexpr int64_t kQueryBlock = 64;  // rows of a forward block; the unit of plan.parts

template <class T>
void attention_forward_amx(const Attention<T>& attention, const AttentionPlan& plan, int64_t begin,
                           int64_t end);
template <class T>
void attention_backward_amx(const Attention<T>& attention, const AttentionGrads<T>& grads,
                            int64_t begin, int64_t end);

// FP32 for the tests, which so run all but the tiles on CPUs without AMX.
template <class T>
void attention_forward_avx512bf16(const Attention<T>& attention, const AttentionPlan& plan,
                                  int64_t begin, int64_t end);
template <class T>
void attention_backward_avx512bf16(const Attention<T>& attention, const AttentionGrads<T>& grads,
                                   int64_t begin, int64_t end);

// The functions on one row of 32 values (x86/attention_amx_kernel.h), for the test: they need
// AVX-512 with VNNI, VBMI and BF16, but no tiles.
void attention_raise_maximum_avx512(const float* scores, float* maxima);
float attention_largest_avx512(const float* maxima);
template <int kPieces>  // 1 or 3
void attention_weigh_avx512(const float* scores, float factor, float offset, float* totals,
                            bfloat16* weights);
float attention_total_avx512(const float* totals);
template <int kPieces>
void attention_differentiate_avx512(const float* scores, const float* grad_weights, float factor,
                                    const float* offsets, const float* deltas, bfloat16* weights,
                                    bfloat16* slopes);
template <class T>
void attention_scale_avx512(const float* sums, float factor, T* out);
template <class T>
float attention_dot_avx512(const T* a, const T* b, int64_t count);

}  // namespace quest::kernels::detail
