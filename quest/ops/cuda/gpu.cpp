#include "quest/ops/gpu.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#include <fmt/format.h>

namespace quest::ops {
namespace {

cudaDeviceProp properties() {
  cudaDeviceProp p = {};
  int device = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaGetDeviceProperties(&p, device));
  return p;
}

}  // namespace

kernels::cuda::Stream current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }

std::string gpu_unusable_reason() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return fmt::format("no GPU can be used: {} (is the NVIDIA driver for CUDA 13 installed?)",
                       cudaGetErrorString(error));
  }
  if (count == 0) return "no GPU is visible (CUDA_VISIBLE_DEVICES?)";
  if (!kernels::cuda::kernels_run_here()) {
    const cudaDeviceProp p = properties();
    return fmt::format(
        "the GPU kernels of this build are for {}, {} has compute capability {}.{}: build them for "
        "it, make build PRESET=cuda ARCHITECTURES={}{}{}",
        kernels::cuda::compiled_architectures(), p.name, p.major, p.minor, p.major, p.minor,
        p.major == 9 && p.minor == 0 ? "a" : "");
  }
  return {};
}

std::string gpu_description() {
  const cudaDeviceProp p = properties();
  return fmt::format("{}, {:.1f} GiB, compute capability {}.{}", p.name,
                     static_cast<double>(p.totalGlobalMem) / (1 << 30), p.major, p.minor);
}

GpuFacts gpu_facts() {
  const cudaDeviceProp p = properties();
  int device = 0, clock = 0, memory_clock = 0;  // kHz
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&clock, cudaDevAttrClockRate, device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&memory_clock, cudaDevAttrMemoryClockRate, device));
  return {.name = p.name,
          .major = p.major,
          .minor = p.minor,
          .processors = p.multiProcessorCount,
          .clock_hertz = 1e3 * clock,
          .memory_clock_hertz = 1e3 * memory_clock,
          .memory_bus_bits = p.memoryBusWidth,
          .memory_bytes = static_cast<int64_t>(p.totalGlobalMem)};
}

int64_t gpu_free_bytes() {
  c10::cuda::CUDACachingAllocator::emptyCache();
  size_t free = 0, total = 0;
  C10_CUDA_CHECK(cudaMemGetInfo(&free, &total));
  return static_cast<int64_t>(free);
}

}  // namespace quest::ops
