// Log-probabilities of given tokens, with the bits of the CPU engine's scores
// (kernels/deploy.h log_sum_exp, base/portable_math.h log).
#pragma once

#include <cstdint>

#include "quest/kernels/cuda/stream.h"

namespace quest::kernels::cuda::deploy {

// logits (M,V) f32, targets (M) of [0, V) -> logprob (M) = min(logit of the target -
// log_sum_exp, 0) as float, NaN where a logit is NaN or the largest is infinite; is_greedy (M) or
// null: 1 where the target is the first of the largest logits. Device memory, asynchronous in
// `stream`.
void score_rows(const float* logits, const int32_t* targets, int64_t m, int64_t v, float* logprob,
                uint8_t* is_greedy, Stream stream);

}  // namespace quest::kernels::cuda::deploy
