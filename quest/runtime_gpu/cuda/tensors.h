// Tensors as the GPU's kernels see them. Internal to this room.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include <ATen/core/Tensor.h>

namespace quest::runtime_gpu {

inline at::TensorOptions on_gpu(at::ScalarType type) {
  return at::TensorOptions(type).device(at::kCUDA);
}

// Of a kernel's element type, float or bfloat16.
template <class T>
inline constexpr at::ScalarType kTypeOf = std::is_same_v<T, float> ? at::kFloat : at::kBFloat16;

// Null for a tensor that is not there.
template <class T>
T* pointer(const at::Tensor& t) {
  return t.defined() ? static_cast<T*>(t.data_ptr()) : nullptr;
}

// Of all of them that are there.
inline int64_t bytes_of(std::initializer_list<at::Tensor> tensors) {
  int64_t sum = 0;
  for (const at::Tensor& t : tensors) sum += t.defined() ? static_cast<int64_t>(t.nbytes()) : 0;
  return sum;
}

}  // namespace quest::runtime_gpu
