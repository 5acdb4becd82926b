// Help for tests of GPU kernels: a fixture that skips without a GPU, memory that must be written,
// equality of bits. Tests only; header only.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/ops/gpu.h"
#include "quest/quant/quantizer.h"

namespace quest::testing {

class GpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string reason = ops::gpu_unusable_reason();
    if (!reason.empty()) GTEST_SKIP() << reason;
  }
};

// The tests of quest/kernels/cuda, in several files.
class CudaKernels : public GpuTest {};

// Memory that a kernel must write: every byte is 0xff before, which is NaN in floats.
inline at::Tensor unwritten(const std::vector<int64_t>& shape, at::ScalarType type) {
  at::Tensor t = at::empty(shape, at::TensorOptions(type).device(at::kCUDA));
  if (t.numel() > 0) t.view(at::kByte).fill_(0xff);
  return t;
}

inline void expect_same_bits(const at::Tensor& actual, const at::Tensor& expected,
                             const std::string& what) {
  const at::Tensor a = actual.cpu().contiguous(), b = expected.cpu().contiguous();
  ASSERT_EQ(a.sizes(), b.sizes()) << what;
  ASSERT_EQ(a.scalar_type(), b.scalar_type()) << what;
  const auto* x = static_cast<const uint8_t*>(a.const_data_ptr());
  const auto* y = static_cast<const uint8_t*>(b.const_data_ptr());
  const auto size = static_cast<int64_t>(a.nbytes()), element = a.element_size();
  int64_t different = 0, first = -1;
  for (int64_t i = 0; i < size; i += element) {
    if (std::memcmp(x + i, y + i, static_cast<size_t>(element)) != 0) {
      if (first < 0) first = i / element;
      ++different;
    }
  }
  EXPECT_EQ(different, 0) << what << ": of " << a.numel() << " values, first " << first;
}

// Whether a spec takes rows of k values.
inline bool fits(const QuantSpec& spec, int64_t k) {
  try {
    check_row_size(spec, k);
    return true;
  } catch (const Error&) {
    return false;
  }
}

}  // namespace quest::testing
