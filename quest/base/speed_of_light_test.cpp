#include "quest/base/speed_of_light.h"

#include <gtest/gtest.h>

#include "quest/base/cpu_features.h"
#include "quest/base/error.h"
#include "quest/base/testing.h"

namespace quest {
namespace {

TEST(SpeedOfLight, CeilingsArePlausible) {
  const CpuCeilings ceilings = measure_cpu_ceilings(1, 0.01);
  RecordProperty("ceilings", describe(ceilings));
  // From a slow emulated core to more than any single core of today does.
  EXPECT_GT(ceilings.flops(ComputeType::kFp32), 1e8);
  EXPECT_LT(ceilings.flops(ComputeType::kFp32), 1e12);
  EXPECT_GT(ceilings.memory_read_bytes_per_second, 1e8);
  EXPECT_LT(ceilings.memory_read_bytes_per_second, 1e12);
  for (const ComputeType type : {ComputeType::kBf16, ComputeType::kInt8}) {
    EXPECT_GE(ceilings.flops(type), ceilings.flops(ComputeType::kFp32));
    EXPECT_LT(ceilings.flops(type), 1e14);
    EXPECT_NE(describe(ceilings).find(ceilings.instructions[static_cast<size_t>(type)]),
              std::string::npos);
  }
}

TEST(SpeedOfLight, UsesTheVectorUnitsThatExist) {
  const CpuCeilings ceilings = measure_cpu_ceilings(1, 0.005);
  const bool vectors = cpu_features().avx2 && cpu_features().fma;
  EXPECT_EQ(ceilings.instructions[static_cast<size_t>(ComputeType::kFp32)] == "portable", !vectors);
}

TEST(SpeedOfLight, KeepsToALevel) {
  const CpuCeilings ceilings = measure_cpu_ceilings(1, 0.005, IsaLevel::kScalar);
  for (const std::string& instructions : ceilings.instructions) EXPECT_EQ(instructions, "portable");
}

TEST(SpeedOfLight, RefusesImpossibleSettings) {
  EXPECT_QUEST_ERROR(measure_cpu_ceilings(0), ErrorKind::kUsage, "threads");
  EXPECT_QUEST_ERROR(measure_cpu_ceilings(1, 0), ErrorKind::kUsage, "probe");
}

}  // namespace
}  // namespace quest
