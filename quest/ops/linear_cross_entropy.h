// LM head and cross-entropy in one operation that never holds the logits of all tokens.
//
// Rows are taken in chunks: logits = x w^T, loss and d loss/d logits over the logits' memory
// (kernels/cross_entropy.h), and at once dx and dw. So the forward pass does the backward's
// products; the backward pass only scales them.
#pragma once

#include <ATen/core/Tensor.h>

namespace quest::ops {

// x (M,C) of the compute type; weight (V,C) master; weight_copy (V,C): the weight in the compute
// type (the weight itself if they are the same type). targets (M) int64 in [0,V) or -100 (ignored).
// Mean over the targets that count, a scalar of the master type; 0 if none counts.
// Throws kData naming the first target out of range; on a GPU, where the host does not wait, the
// loss is NaN then.
at::Tensor linear_cross_entropy(const at::Tensor& x, const at::Tensor& weight,
                                const at::Tensor& weight_copy, const at::Tensor& targets);

// Cross-entropy per row (M) f32, no gradients; 0 where the target is -100.
at::Tensor linear_token_losses(const at::Tensor& x, const at::Tensor& weight_copy,
                               const at::Tensor& targets);

// How many targets (on the CPU) are not -100. Throws kData naming the first outside [0,
// vocabulary).
int64_t count_targets(const at::Tensor& targets, int64_t vocabulary);

// Rows of logits that are held at once, of V values of element_size bytes.
int64_t logits_chunk_rows(int64_t vocabulary, int64_t element_size,
                          at::DeviceType device = at::kCPU);

}  // namespace quest::ops
