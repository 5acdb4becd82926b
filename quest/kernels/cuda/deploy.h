// The float operations of the engine between its products, on a GPU: the operations of
// kernels/deploy.h with its bits, fused with the quantizer of the product that follows.
//
// FP32. Pointers are device memory, 16-byte aligned, dense row-major. Sums have the order of
// kernels/deploy.h (the tree of quest/quant/sum_of_squares.h), exp and sigmoid its operations,
// codes and units the bits of the scalar quantizer. A row whose rms is not finite gets the unit
// NaN. Calls are asynchronous in `stream`, fit into recorded CUDA graphs, and may begin while the
// kernel before them still runs (dependent_launch.cuh). Only the norm's `weight` is read before
// that kernel has ended.
//
// What is written is what QuantizedRows names: codes and units for the products of codes; for
// specs without codes, and Gaussian levels, `values` with values_are_bfloat16 = false. A spec of
// grid kNone gives the values themselves, rotated where it says hadamard.
//
//   deploy::add_norm_quantize(spec, x, delta, weight, eps, m, c, x, {codes, units}, stream);
//
// Errors: kUsage for a row that the spec refuses or beyond kMaxRow; kEnvironment for CUDA's.
#pragma once

#include <cstdint>

#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/kernels/cuda/stream.h"
#include "quest/quant/quant_spec.h"

namespace quest::kernels::cuda::deploy {

// h (M,C) = x + delta, y = rms_norm(h) with weight (C), y quantized: where that gives units, codes
// are those of h * weight and the norm's factor is in the unit. delta null: h = x and h is not
// written. h may be x.
void add_norm_quantize(const QuantSpec& spec, const float* x, const float* delta,
                       const float* weight, float eps, int64_t m, int64_t c, float* h,
                       const QuantizedRows& out, Stream stream);

// gate_up (M,2F): silu(gate) * up, quantized as rows of F.
void swiglu_quantize(const QuantSpec& spec, const float* gate_up, int64_t m, int64_t f,
                     const QuantizedRows& out, Stream stream);

// x (M,K) quantized.
void quantize(const QuantSpec& spec, const float* x, int64_t m, int64_t k, const QuantizedRows& out,
              Stream stream);

// y (M,C) = rms_norm(x + delta); delta and h as above. y may be x or h.
void add_norm(const float* x, const float* delta, const float* weight, float eps, int64_t m,
              int64_t c, float* h, float* y, Stream stream);

}  // namespace quest::kernels::cuda::deploy
