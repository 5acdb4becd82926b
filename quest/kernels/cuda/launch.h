// Errors of CUDA calls and launches, apart from the kernel files so that nvcc reads no fmt.
#pragma once

namespace quest::kernels::cuda {

// Throws kEnvironment with the operation's name and CUDA's text.
[[noreturn]] void throw_cuda_error(const char* operation, int code, const char* text);

#ifdef __CUDACC__
inline void check(const char* operation, cudaError_t error) {
  if (error != cudaSuccess) throw_cuda_error(operation, error, cudaGetErrorString(error));
}
// After a launch.
inline void check_launch(const char* operation) { check(operation, cudaGetLastError()); }
#endif

}  // namespace quest::kernels::cuda
