// Errors of CUDA calls and launches, apart from the kernel files so that nvcc reads no fmt.
#pragma once

namespace quest::kernels::cuda {

// Throws kEnvironment with the operation's name and CUDA's text.
[[noreturn]] void throw_cuda_error(const char* operation, int code, const char* text);

// Whether a kernel (its host function) is seen for the first time by this process on `device`:
// attributes of kernels are set once. Any thread. A static variable of a template would not do: it
// is one of the whole program, while each object file has a kernel of its own.
bool is_first_launch(const void* kernel, int device);

#ifdef __CUDACC__
inline void check(const char* operation, cudaError_t error) {
  if (error != cudaSuccess) throw_cuda_error(operation, error, cudaGetErrorString(error));
}
// After a launch.
inline void check_launch(const char* operation) { check(operation, cudaGetLastError()); }
#endif

}  // namespace quest::kernels::cuda
