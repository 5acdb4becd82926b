// Golden values of the quantizers with a learned step (LSQ, LSQ+): values, first learned values and
// all gradients against those of the paper's authors.
//
// Cases of quantizers.safetensors: <int b>.lsq, .lsq_plus_weight, .lsq_plus_activation with y,
// grad_x, alpha_weight (the step), grad_alpha_weight, and for activations beta_weight (the offset)
// and grad_beta_weight. y and grad_x must agree to 1e-5 of a row's largest |golden|; a value whose
// code or whose being inside the clipping range changes when x moves by 4e-7 of the row's largest
// |x| is a tie, counted and not failed. Learned values must agree to 1e-5, their gradients to 1e-4
// of the sum of the terms' sizes.
#pragma once

#include <filesystem>
#include <vector>

#include <ATen/core/Tensor.h>

#include "quest/quant/golden.h"

namespace quest::ops {

// Throws kIo or kData for a file that cannot be read.
std::vector<GoldenCase> run_learned_golden(const std::filesystem::path& folder,
                                           at::Device device = at::kCPU);

}  // namespace quest::ops
