#include "quest/ops/tensor_file.h"

#include <cstring>

#include <ATen/ops/empty.h>

#include "quest/base/error.h"

namespace quest::ops {
namespace {

constexpr struct {
  DType dtype;
  at::ScalarType type;
} kTypes[] = {{DType::kBool, at::kBool}, {DType::kU8, at::kByte},   {DType::kI8, at::kChar},
              {DType::kI16, at::kShort}, {DType::kF16, at::kHalf},  {DType::kBF16, at::kBFloat16},
              {DType::kI32, at::kInt},   {DType::kF32, at::kFloat}, {DType::kI64, at::kLong},
              {DType::kF64, at::kDouble}};

}  // namespace

at::ScalarType scalar_type_of(DType dtype) {
  for (const auto& pair : kTypes) {
    if (pair.dtype == dtype) {
      return pair.type;
    }
  }
  QUEST_THROW(ErrorKind::kData, "tensors of type {} cannot be loaded here", dtype_name(dtype));
}

DType dtype_of(at::ScalarType type) {
  for (const auto& pair : kTypes) {
    if (pair.type == type) {
      return pair.dtype;
    }
  }
  QUEST_THROW(ErrorKind::kUsage, "tensors of type {} cannot be written to safetensors",
              at::toString(type));
}

at::Tensor to_tensor(const TensorView& view) {
  at::Tensor tensor = at::empty(view.shape, scalar_type_of(view.dtype));
  if (!view.bytes.empty()) {
    std::memcpy(tensor.data_ptr(), view.bytes.data(), view.bytes.size());
  }
  return tensor;
}

}  // namespace quest::ops
