// stream.h: what this build's kernels are.
#include <cuda_runtime.h>

#include "quest/kernels/cuda/stream.h"

namespace quest::kernels::cuda {
namespace {

__global__ void probe() {}

}  // namespace

bool compiled_with_cuda() { return true; }
const char* compiled_architectures() { return QUEST_CUDA_ARCHITECTURES; }

bool kernels_run_here() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, probe);
  if (error != cudaSuccess) cudaGetLastError();
  return error == cudaSuccess;
}

}  // namespace quest::kernels::cuda
