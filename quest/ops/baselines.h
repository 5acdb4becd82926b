// The quantizers that the paper and its readers compare with, as registered quantizers:
//
//   lsq               learned step per tensor, levels c + 1/2 (arXiv 1902.08153; 1 to 8 bits)
//   lsq_plus          the same from the Gaussian optimum, with a learned offset for activations
//                     (arXiv 2004.09576)
//   pact              learned clipping value per tensor, centred uniform levels (arXiv 1805.06085)
//   absmean_ternary   weights -1 0 1 times mean |w|, straight-through (BitNet b1.58, 2402.17764)
//   absmax            b-bit activations, scale of a row's largest |x|, straight-through (the same)
//   paretoq           weights, a learned scale per output row: sign at 1 bit, SEQ at 2, LSQ with a
//                     zero level at 3 and 4 (arXiv 2502.02631)
//   paretoq_ternary   SEQ with three levels
//
// and the recipe "bitnet" (absmean_ternary x absmax8). Their exact formulas stand at the functions
// in baselines.cpp; those of LSQ and LSQ+ are checked with the authors' golden values, all
// gradients with their stated surrogates (baselines_test.cpp). The straight-through baseline of the
// paper is the recipe w<b>a<c>_nohadamard_ste: a grid.
//
// The gradient of a step is scaled by 1/sqrt(values q_max), as QuEST's authors do it: for an input
// the values of one micro-batch, so that train.micro_batch_size is part of what a run computes.
//
// They are part of a program that makes layers: quant_linear.cpp registers them at its start.
#pragma once

#include "quest/ops/tensor_quantizer.h"

namespace quest::ops {

// Once for all calls.
void register_baselines();

// Values and gradients with given learned values, for tests and golden values: x (rows,K), step
// (1), offset (1) or undefined.
at::Tensor lsq(const at::Tensor& x, const at::Tensor& step, const at::Tensor& offset, int bits);
// First step and offset: 2 mean|x| / sqrt(q_max) (LSQ); 2 alpha rms / (2^bits - 1) and
// min(x) - step q_min (LSQ+).
at::Tensor lsq_first_step(const at::Tensor& x, int bits);
at::Tensor lsq_plus_first_step(const at::Tensor& x, int bits);
at::Tensor lsq_plus_first_offset(const at::Tensor& x, const at::Tensor& step, int bits);

}  // namespace quest::ops
