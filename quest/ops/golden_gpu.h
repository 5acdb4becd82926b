// The quantizers of this GPU, for the golden comparison (quest/quant/golden.h).
//
//   run_quantizer_golden(folder, ops::gpu_quantizer_implementations());
#pragma once

#include <vector>

#include "quest/quant/golden.h"

namespace quest::ops {

// What training runs (kernels/cuda/hadamard_quantize.h), in its two forms: codes that are taken
// back to values later, as of activations; and values written beside the codes, as of weights.
// Throws kEnvironment with the reason where no GPU can be used.
std::vector<QuantizerImplementation> gpu_quantizer_implementations();

}  // namespace quest::ops
