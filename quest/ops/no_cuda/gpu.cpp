#include "quest/ops/gpu.h"

#include "quest/base/error.h"

namespace quest::ops {

std::string gpu_unusable_reason() {
  return "this build has no GPU kernels: run `make build PRESET=cuda` (needs nvcc), or use the CPU";
}
kernels::cuda::Stream current_stream() {
  QUEST_THROW(ErrorKind::kEnvironment, "{}", gpu_unusable_reason());
}
std::string gpu_description() { QUEST_THROW(ErrorKind::kEnvironment, "{}", gpu_unusable_reason()); }
GpuFacts gpu_facts() { QUEST_THROW(ErrorKind::kEnvironment, "{}", gpu_unusable_reason()); }
int64_t gpu_free_bytes() { QUEST_THROW(ErrorKind::kEnvironment, "{}", gpu_unusable_reason()); }

}  // namespace quest::ops
