// A CUDA stream by its driver type, so that headers of the GPU kernels need no CUDA header.
// cudaStream_t and c10::cuda::CUDAStream::stream() are this type.
#pragma once

struct CUstream_st;

namespace quest::kernels::cuda {

using Stream = CUstream_st*;

// Whether this build has GPU kernels: false where it was made without nvcc, and every operation of
// these headers throws kEnvironment.
bool compiled_with_cuda();

// "80 90a": the architectures that the kernels were compiled for; empty without nvcc.
const char* compiled_architectures();

// Whether the current device is of one of them.
bool kernels_run_here();

}  // namespace quest::kernels::cuda
