#include "quest/ops/gpu_path.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quest/ops/gpu.h"

namespace quest::ops {
namespace {

using kernels::cuda::DeviceFacts;
using ::testing::HasSubstr;
using ::testing::StartsWith;

DeviceFacts device(int major, int minor, int code, bool is_hopper_code = false) {
  DeviceFacts facts;
  facts.major = major;
  facts.minor = minor;
  facts.has_clusters = major >= 9;
  facts.code = code;
  facts.is_hopper_code = is_hopper_code;
  return facts;
}

TEST(GpuPath, SaysWhichWayAndWhatTheOtherNeeds) {
  EXPECT_THAT(gpu_path_text(device(9, 0, 90, true)), StartsWith("Hopper"));
  const std::string ada = gpu_path_text(device(8, 9, 80));
  EXPECT_THAT(ada, StartsWith("generic"));
  EXPECT_THAT(ada, HasSubstr("this is 8.9"));
  const std::string old_code = gpu_path_text(device(9, 0, 80));
  EXPECT_THAT(old_code, StartsWith("generic"));
  EXPECT_THAT(old_code, HasSubstr("that of 8.0"));
  EXPECT_THAT(old_code, HasSubstr("ARCHITECTURES=90a"));
  EXPECT_THAT(gpu_path_text(device(12, 0, 120)), HasSubstr("this is 12.0"));
}

// Code for less than 9.0 has no waits: a launch that may begin early would read what is not there.
TEST(GpuPath, LaunchesOverlapOnlyWhereTheCodeWaits) {
  EXPECT_TRUE(overlaps_launches(device(9, 0, 90, true)));
  EXPECT_TRUE(overlaps_launches(device(12, 0, 90)));
  EXPECT_FALSE(overlaps_launches(device(9, 0, 80)));
  EXPECT_FALSE(overlaps_launches(device(8, 9, 89)));
  EXPECT_FALSE(overlaps_launches(DeviceFacts{}));
}

TEST(GpuPath, ClustersNeedTheDeviceAndTheCode) {
  EXPECT_TRUE(launches_clusters(device(9, 0, 90)));
  EXPECT_TRUE(launches_clusters(device(10, 0, 100)));
  EXPECT_FALSE(launches_clusters(device(9, 0, 80)));
  EXPECT_FALSE(launches_clusters(device(12, 0, 120)));
  DeviceFacts without = device(9, 0, 90);
  without.has_clusters = false;
  EXPECT_FALSE(launches_clusters(without));
}

TEST(GpuPath, TwoBlocksShareAMultiprocessorsMemory) {
  DeviceFacts hopper = device(9, 0, 90, true);
  hopper.block_shared = 227 << 10;
  hopper.processor_shared = 228 << 10;
  EXPECT_EQ(shared_of_two_blocks(hopper), 113 << 10);
  hopper.block_shared = 99 << 10;  // what one block may have at most
  EXPECT_EQ(shared_of_two_blocks(hopper), 99 << 10);
}

TEST(GpuPath, FactsOfAGpuAreWhole) {
  const DeviceFacts& facts = kernels::cuda::device_facts();
  if (const std::string reason = gpu_unusable_reason(); !reason.empty()) {
    EXPECT_EQ(facts.code, 0) << reason;
    EXPECT_FALSE(gpu_has_fast_products());
    GTEST_SKIP() << reason;
  }
  EXPECT_GT(facts.processors, 0);
  EXPECT_GE(facts.block_shared, 48 << 10);
  EXPECT_GE(facts.processor_shared, facts.block_shared);
  EXPECT_GE(facts.code, 50);
  EXPECT_LE(facts.code, 10 * facts.major + facts.minor);
  const std::string architectures = kernels::cuda::compiled_architectures();
  if (facts.major == 9 && facts.minor == 0 && architectures == "90a") {
    EXPECT_TRUE(facts.is_hopper_code);
    EXPECT_TRUE(launches_clusters(facts) && overlaps_launches(facts));
  }
  if (architectures.find("90a") == std::string::npos) {
    EXPECT_FALSE(facts.is_hopper_code);
  }
}

}  // namespace
}  // namespace quest::ops
