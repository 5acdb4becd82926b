// Activation checkpointing: a part of the model whose inside is computed again in the backward pass
// instead of being kept from the forward pass (Chen et al., arXiv 1604.06174).
//
//   auto out = recompute([&](const variable_list& in) { return f(in); }, {x, delta});
//
// f must give the same result both times and be alive until the backward pass; parameters that it
// uses get their gradients as ever. Inputs may be undefined. Without gradients f is simply called.
#pragma once

#include <functional>

#include <torch/csrc/autograd/variable.h>

namespace quest::nn {

using torch::autograd::variable_list;

variable_list recompute(std::function<variable_list(const variable_list&)> f,
                        const variable_list& inputs);

}  // namespace quest::nn
