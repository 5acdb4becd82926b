// The fused quantizers of every instruction-set level of this CPU, for the golden comparison
// (quest/quant/golden.h).
//
//   run_quantizer_golden(folder, kernels::quantizer_implementations());
#pragma once

#include <vector>

#include "quest/quant/golden.h"

namespace quest::kernels {

// One per version of hadamard_quantize that this CPU can run, named as hadamard_quantize_plan names
// it.
std::vector<QuantizerImplementation> quantizer_implementations();

}  // namespace quest::kernels
