// Golden training runs: the Llama part of `quest selftest`.
//
// A golden folder holds llama_init.safetensors (initial weights in the authors' layout),
// golden.json (sizes, optimizer, and per mode the two quantizers) and llama_<mode>.safetensors for
// any modes: tokens, losses, grad_norms, learning_rates, step0.logits, step0.grad_norm.*,
// step0.grad_head.*, final_norm.*. Each mode is trained here in FP32 from the same weights on the
// same tokens and compared with tolerances by kind of mode (none quantized, weights only, both
// sides):
//   first loss 1e-5; logits 1e-5 of the largest, or, where codes flip in FP32, 5e-3 in FP32 and
//   1e-5 in FP64 through the scalar definition; step-0 gradient norms 1e-3, heads 2e-2 of their
//   largest (unquantized 1e-5); later losses 0.5 % (weights only 0.05 %, unquantized 1e-5);
//   gradient norms 6 % (unquantized 1e-4). Norms of the final weights: 1 % (unquantized 1e-4).
//
//   for (const GoldenCase& c : run_trajectory_golden("tests/golden")) ...
//   for (const GoldenCase& c : run_trajectory_golden("tests/golden", at::kCUDA)) ...
#pragma once

#include <filesystem>
#include <vector>

#include <c10/core/Device.h>

#include "quest/quant/golden.h"

namespace quest::train {

// Six cases per mode (loss0, logits, gradients, losses, grad_norms, final_norms), in the order of
// the modes' names. `ties` counts values beyond the exact tolerance that the rule for flips allows.
// Throws kIo / kData naming file and tensor if the folder is not what this header says.
//
// device: where models are trained; FP64 is always the CPU's. On a GPU the tolerances are the same,
// so LibTorch's TF32 products, which round the factors, are switched off in this process. Throws
// kEnvironment where no GPU can be used.
std::vector<GoldenCase> run_trajectory_golden(const std::filesystem::path& folder,
                                              at::Device device = at::kCPU);

}  // namespace quest::train
