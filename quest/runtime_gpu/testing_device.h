// Help for tests of GPU kernels against the CPU's, on tensors. Tests only; header only.
#pragma once

#include <cstring>
#include <vector>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/randn.h>

#include "quest/ops/dispatch.h"
#include "quest/ops/testing_gpu.h"
#include "quest/ops/testing_tensors.h"

namespace quest::testing {

// N(0, 1) in float, the same at every call: for many values (normal() is slow).
inline at::Tensor quick_normal(const std::vector<int64_t>& shape) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(uint64_t{11}), at::kFloat);
}

inline at::Tensor to_gpu(const std::vector<int32_t>& values) {
  at::Tensor t = at::empty({static_cast<int64_t>(values.size())}, at::kInt);
  std::memcpy(t.data_ptr(), values.data(), values.size() * sizeof(int32_t));
  return t.cuda();
}

}  // namespace quest::testing
