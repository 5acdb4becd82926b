// The type that products and activations are computed in.
#pragma once

#include <string_view>

namespace quest::nn {

enum class ComputeType {
  kFloat32,   // exact mode
  kBFloat16,  // BF16 activations and backward products; norms, softmax, loss, quantizers in FP32
  kFloat64,   // scalar definition in double: for tests
};
ComputeType compute_type_from_name(std::string_view name);  // fp32, bf16, fp64; throws kUsage
std::string_view compute_type_name(ComputeType type);

}  // namespace quest::nn
