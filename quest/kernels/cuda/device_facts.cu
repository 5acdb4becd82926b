// device_facts.h, and stream.h: what this build's kernels are.
#include <cuda_runtime.h>

#include "quest/kernels/cuda/device_facts.h"
#include "quest/kernels/cuda/stream.h"

namespace quest::kernels::cuda {
namespace {

// Made for every architecture of the build; what the driver says of it tells which one it took.
constexpr int kHopperThreads = 128;
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
__global__ void __launch_bounds__(kHopperThreads) probe() {}
#else
__global__ void __launch_bounds__(kHopperThreads / 2) probe() {}
#endif

DeviceFacts ask() {
  DeviceFacts facts;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess) {
    cudaGetLastError();
    return facts;
  }
  const auto get = [device](int& value, cudaDeviceAttr attribute) {
    if (cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess) cudaGetLastError();
  };
  int clusters = 0;
  get(facts.major, cudaDevAttrComputeCapabilityMajor);
  get(facts.minor, cudaDevAttrComputeCapabilityMinor);
  get(facts.processors, cudaDevAttrMultiProcessorCount);
  get(facts.block_shared, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  get(facts.processor_shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  get(clusters, cudaDevAttrClusterLaunch);
  facts.has_clusters = clusters != 0;
  cudaFuncAttributes attributes = {};
  if (cudaFuncGetAttributes(&attributes, probe) != cudaSuccess) {
    cudaGetLastError();
    return facts;
  }
  facts.code = attributes.ptxVersion;
  facts.is_hopper_code = attributes.maxThreadsPerBlock == kHopperThreads;
  return facts;
}

}  // namespace

const DeviceFacts& device_facts() {
  static const DeviceFacts facts = ask();
  return facts;
}

bool compiled_with_cuda() { return true; }
const char* compiled_architectures() { return QUEST_CUDA_ARCHITECTURES; }
bool kernels_run_here() { return device_facts().code > 0; }

}  // namespace quest::kernels::cuda
