#include "quest/ops/gpu.h"

#include "quest/ops/no_cuda/missing_gpu.h"

namespace quest::ops {

std::string gpu_unusable_reason() {
  return "this build has no GPU kernels: run `make build PRESET=cuda` (needs nvcc), or use the CPU";
}
kernels::cuda::Stream current_stream() { missing_gpu(); }
std::string gpu_description() { missing_gpu(); }
GpuFacts gpu_facts() { missing_gpu(); }
int64_t gpu_free_bytes() { missing_gpu(); }

}  // namespace quest::ops
