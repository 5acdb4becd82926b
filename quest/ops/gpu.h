// What the operations need to know of the GPU. The only place of this room that calls CUDA's
// runtime; builds without nvcc link the twin in no_cuda/.
#pragma once

#include <cstdint>
#include <string>

#include "quest/base/gpu_ceilings.h"
#include "quest/kernels/cuda/device_facts.h"
#include "quest/kernels/cuda/stream.h"

namespace quest::ops {

// The stream that LibTorch computes in on this thread's current device. kEnvironment without CUDA.
kernels::cuda::Stream current_stream();

// Why `--device cuda` cannot work here ("this build has no GPU kernels: ...", "no GPU is visible:
// ..."), or empty if it can.
std::string gpu_unusable_reason();

// "NVIDIA H100 80GB HBM3, 79.1 GiB, compute capability 9.0"; only where gpu_unusable_reason() is
// empty.
std::string gpu_description();

// For its ceilings; throws kEnvironment without a GPU.
GpuFacts gpu_facts();
// Memory of the device that no process holds, after LibTorch's allocator has given back what it
// keeps unused.
int64_t gpu_free_bytes();

// True where this GPU has the fast products and this build its code for them (compute capability
// 9.0, compiled for 90a); others take LibTorch's products of dequantized values, with the same
// quantizer kernels.
inline bool gpu_has_fast_products() { return kernels::cuda::device_facts().is_hopper_code; }

}  // namespace quest::ops
