// Tensors as the GPU's kernels see them. Internal to this room.
#pragma once

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

}  // namespace quest::runtime_gpu
