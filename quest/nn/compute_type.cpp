#include "quest/nn/compute_type.h"

#include "quest/base/error.h"

namespace quest::nn {

ComputeType compute_type_from_name(std::string_view name) {
  for (const ComputeType type :
       {ComputeType::kFloat32, ComputeType::kBFloat16, ComputeType::kFloat64}) {
    if (name == compute_type_name(type)) {
      return type;
    }
  }
  QUEST_THROW(ErrorKind::kUsage, "compute type '{}' is unknown; there are fp32, bf16 and fp64",
              name);
}

std::string_view compute_type_name(ComputeType type) {
  switch (type) {
    case ComputeType::kFloat32:
      return "fp32";
    case ComputeType::kBFloat16:
      return "bf16";
    case ComputeType::kFloat64:
      return "fp64";
  }
  QUEST_ASSERT(false, "compute type {}", static_cast<int>(type));
}

}  // namespace quest::nn
