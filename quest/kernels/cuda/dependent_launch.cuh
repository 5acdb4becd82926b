// Launches that overlap with the kernel before them in the stream (programmatic dependent launch,
// where overlaps_launches() of device_facts.h; elsewhere plain launches).
//
// Such a kernel may begin while the one before it still runs. It says let_next_start() first, then
// does what depends on nothing (fetches weights), then wait_for_previous(): from there on
// everything that earlier kernels of the stream wrote is visible, and only there may it read their
// results or write anything. A kernel that never says let_next_start() is waited for whole.
//
//   __global__ void k(...) { let_next_start(); fetch(weights); wait_for_previous(); ... }
//   launch_dependent("k", k, grid, threads, shared_bytes, stream, arguments...);
#pragma once

#include <cuda_runtime.h>

#include "quest/kernels/cuda/device_facts.h"
#include "quest/kernels/cuda/launch.h"

namespace quest::kernels::cuda {

__device__ inline void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
#endif
}

__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}

// Kernels that are to run beside each other on a multiprocessor have to want the same division of
// its memory into shared memory and first-level cache: all of a decode step want most of it shared.
template <class Kernel>
void share_most_memory(const char* operation, Kernel* kernel) {
  check(operation, cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                        cudaSharedmemCarveoutMaxShared));
}

// In clusters of `cluster` blocks along x, where that is more than 1.
template <class... Parameters, class... Arguments>
void launch_dependent_clusters(const char* operation, void (*kernel)(Parameters...), dim3 grid,
                               unsigned cluster, dim3 block, size_t shared_bytes,
                               cudaStream_t stream, Arguments... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (overlaps_launches(device_facts())) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = cluster;
    attributes[count].val.clusterDim.y = 1;
    attributes[count++].val.clusterDim.z = 1;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  check(operation, cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
}

template <class... Parameters, class... Arguments>
void launch_dependent(const char* operation, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                      size_t shared_bytes, cudaStream_t stream, Arguments... arguments) {
  launch_dependent_clusters(operation, kernel, grid, 1, block, shared_bytes, stream, arguments...);
}

}  // namespace quest::kernels::cuda
