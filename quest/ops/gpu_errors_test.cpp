#include "quest/ops/gpu_errors.h"

#include <stdexcept>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quest/base/testing.h"

namespace quest::ops {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kPages =
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.18 GiB of "
    "which 1.50 GiB is free. Process 1 has 77 GiB memory in use.\nSee documentation";

void throw_out_of_memory() { TORCH_CHECK_WITH(OutOfMemoryError, false, kPages); }

TEST(GpuErrors, MemoryThatIsUsedUpIsOneLineWithAdvice) {
  try {
    with_gpu_errors("fewer rows need less", throw_out_of_memory);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kEnvironment);
    EXPECT_THAT(error.what(), HasSubstr("too little memory: CUDA out of memory. Tried to allocate "
                                        "2.00 GiB; fewer rows need less"));
    EXPECT_THAT(error.what(), Not(HasSubstr("total capacity")));
  }
}

TEST(GpuErrors, OtherErrorsOfLibTorchAreTheirFirstLine) {
  EXPECT_QUEST_ERROR(
      with_gpu_errors("", [] { TORCH_CHECK(false, "CUDA error: launch failure\nCompile with"); }),
      ErrorKind::kEnvironment, "the GPU failed: CUDA error: launch failure");
}

TEST(GpuErrors, ResultsAndOtherErrorsPass) {
  EXPECT_EQ(with_gpu_errors("", [] { return 7; }), 7);
  EXPECT_EQ(with_gpu_errors(c10::kCPU, "", [] { return 7; }), 7);
  EXPECT_EQ(with_gpu_errors(c10::kCUDA, "", [] { return 7; }), 7);
  EXPECT_QUEST_ERROR(with_gpu_errors("", [] { QUEST_THROW(ErrorKind::kData, "a bad token"); }),
                     ErrorKind::kData, "a bad token");
  EXPECT_THROW(with_gpu_errors("", [] { throw std::out_of_range("x"); }), std::out_of_range);
}

// A CPU's errors are none of a GPU's.
TEST(GpuErrors, OnlyOnAGpu) {
  EXPECT_THROW(with_gpu_errors(c10::kCPU, "", throw_out_of_memory), c10::OutOfMemoryError);
  EXPECT_QUEST_ERROR(with_gpu_errors(c10::kCUDA, "fewer", throw_out_of_memory),
                     ErrorKind::kEnvironment, "fewer");
}

}  // namespace
}  // namespace quest::ops
