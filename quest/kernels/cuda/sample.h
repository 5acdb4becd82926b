// The next token of each row of logits on a GPU: the token that Sampler::sample
// (quest/runtime/sampler.h) chooses from the same logits.
//
//   sample_rows(logits, m, v, v, rows, next, stream);  // rows: SampleRow (M) in device memory
//
// Always the same, not almost: values, weights (portable::exp) and the draw (Philox) have the CPU's
// bits, and order and ties are the CPU's. Only sums of weights are not: the CPU adds one after the
// other, a block in parallel, with a bound on how far the two can lie apart. Where the draw or the
// threshold of top_p is nearer to the edge of a token than that (about 16 V^2 2^-53 of all draws
// from V tokens; or equal weights that end exactly at top_p), one thread adds again in the CPU's
// order, which takes milliseconds. At most 256 tokens are added so at once.
//
// Limits, for which the CPU's sampler has answers or errors of its own: a row with a NaN or +inf or
// with nothing but -inf gives -1 (the CPU throws), and so does a repetition penalty that makes the
// largest value infinite.
//
// Asynchronous in `stream`, overlapping its predecessor (dependent_launch.cuh), no allocations, all
// that varies is read from device memory: it can be recorded as a CUDA graph.
#pragma once

#include <cstdint>

#include "quest/kernels/cuda/stream.h"

namespace quest::kernels::cuda {

struct TokenBias {
  int32_t token = 0;  // ignored outside [0, V)
  float bias = 0;
};

// What SamplerSettings say of a row, validated (quest/runtime/sampler.h); pointers to device
// memory.
struct SampleRow {
  double temperature = 1;
  double top_p = 1;
  double min_p = 0;
  double repetition_penalty = 1;
  int64_t top_k = 0;
  uint64_t seed = 0;
  uint64_t position = 0;  // index of the draw; a call leaves it one larger
  const TokenBias* biases = nullptr;
  int64_t bias_count = 0;
  // Bit i % 32 of word i / 32: whether the repetition penalty applies to token i. ceil(V / 32)
  // words, null for none; a call sets the bit of the token that it chooses.
  uint32_t* seen = nullptr;
};

// out (M) = the token of each row, -1 where none can be chosen. logits (M,V), row stride ld, V from
// 1 to 2^30; the biases of a row are added to its logits in place.
void sample_rows(float* logits, int64_t m, int64_t v, int64_t ld, SampleRow* rows, int32_t* out,
                 Stream stream);

}  // namespace quest::kernels::cuda
