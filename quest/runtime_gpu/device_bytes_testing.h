// Help for tests of GPU kernels: bytes in device memory and back. Tests only; header only.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include "quest/ops/testing_gpu.h"

namespace quest::testing {

inline at::Tensor device_copy(const void* bytes, int64_t size) {
  const at::Tensor host = at::empty({size}, at::kByte);
  if (size > 0) std::memcpy(host.data_ptr(), bytes, static_cast<size_t>(size));
  return host.to(at::kCUDA);
}
template <class T>
at::Tensor device_copy(const std::vector<T>& values) {
  return device_copy(values.data(), static_cast<int64_t>(values.size() * sizeof(T)));
}

// Memory that a kernel must write: every byte is 0xa5 before.
template <class T>
at::Tensor poisoned_device(int64_t count) {
  const auto bytes = count * static_cast<int64_t>(sizeof(T));
  at::Tensor t = at::empty({bytes}, at::TensorOptions(at::kByte).device(at::kCUDA));
  if (bytes > 0) t.fill_(0xa5);
  return t;
}
template <class T>
std::vector<T> host_copy(const at::Tensor& t) {
  const at::Tensor host = t.cpu();
  std::vector<T> values(static_cast<size_t>(host.numel()) / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), host.data_ptr(), values.size() * sizeof(T));
  return values;
}
template <class T>
T* device_data(const at::Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

// The same bits in the first `count` values.
template <class T>
::testing::AssertionResult same_bits(const std::vector<T>& actual, const std::vector<T>& expected,
                                     int64_t count) {
  if (static_cast<int64_t>(std::min(actual.size(), expected.size())) < count) {
    return ::testing::AssertionFailure()
           << actual.size() << " and " << expected.size() << " of " << count << " values";
  }
  int64_t different = 0, first = -1;
  for (int64_t i = 0; i < count; ++i) {
    if (std::memcmp(&actual[static_cast<size_t>(i)], &expected[static_cast<size_t>(i)],
                    sizeof(T)) == 0) {
      continue;
    }
    if (first < 0) first = i;
    ++different;
  }
  if (different == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << different << " of " << count << " values differ, first " << first;
}

}  // namespace quest::testing
