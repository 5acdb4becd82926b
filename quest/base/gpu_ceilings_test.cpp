#include "quest/base/gpu_ceilings.h"

#include <gtest/gtest.h>

namespace quest {
namespace {

const GpuFacts kH100{.name = "NVIDIA H100 80GB HBM3",
                     .major = 9,
                     .minor = 0,
                     .processors = 132,
                     .clock_hertz = 1.98e9,
                     .memory_clock_hertz = 2.619e9,
                     .memory_bus_bits = 5120};

TEST(GpuCeilings, AreThoseOfTheDataSheet) {
  const GpuCeilings h100 = gpu_ceilings(kH100);
  EXPECT_NEAR(h100.memory_bytes, 3.35e12, 0.01e12);
  EXPECT_NEAR(h100.bf16_operations, 989e12, 1e12);
  EXPECT_NEAR(h100.int8_operations, 1979e12, 1e12);
  EXPECT_EQ(describe(h100), "memory 3.35 TB/s, BF16 989 TFLOP/s, INT8 1979 TOP/s");
  const GpuCeilings a100 = gpu_ceilings({.major = 8,
                                         .minor = 0,
                                         .processors = 108,
                                         .clock_hertz = 1.41e9,
                                         .memory_clock_hertz = 1.215e9,
                                         .memory_bus_bits = 5120});
  EXPECT_NEAR(a100.bf16_operations, 312e12, 1e12);
  EXPECT_NEAR(a100.memory_bytes, 1.555e12, 0.01e12);
}

TEST(GpuCeilings, ShareIsOfWhatTakesLonger) {
  const GpuCeilings c{.memory_bytes = 10, .bf16_operations = 100, .int8_operations = 200};
  EXPECT_DOUBLE_EQ(c.share(20, 100, c.bf16_operations, 4), 0.5) << "2 s of reading";
  EXPECT_DOUBLE_EQ(c.share(20, 600, c.int8_operations, 4), 0.75) << "3 s of products";
}

TEST(GpuCeilings, OfUnknownProductsLeaveMemory) {
  GpuFacts other = kH100;
  other.major = 12;
  const GpuCeilings c = gpu_ceilings(other);
  EXPECT_EQ(c.bf16_operations, 0);
  EXPECT_NE(describe(c).find("not known"), std::string::npos);
  EXPECT_DOUBLE_EQ(c.share(c.memory_bytes, 1e30, c.bf16_operations, 2), 0.5);
}

}  // namespace
}  // namespace quest
