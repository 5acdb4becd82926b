#include "quest/ops/golden_gpu.h"

#include <string>

#include <gtest/gtest.h>

#include "quest/base/testing.h"
#include "quest/ops/gpu.h"

namespace quest::ops {
namespace {

TEST(GoldenGpu, EqualsTheScalarDefinitionOrSaysWhyNot) {
  const std::string reason = gpu_unusable_reason();
  if (!reason.empty()) {
    EXPECT_QUEST_ERROR(gpu_quantizer_implementations(), ErrorKind::kEnvironment, reason);
    GTEST_SKIP() << reason;
  }
  const auto implementations = gpu_quantizer_implementations();
  ASSERT_EQ(implementations.size(), 2u);
  int64_t cases = 0;
  for (const GoldenCase& c :
       run_quantizer_golden(std::string(QUEST_SOURCE_DIR) + "/tests/golden", implementations)) {
    EXPECT_NE(c.status, GoldenStatus::kFail) << c.name << ": " << c.note;
    ++cases;
  }
  EXPECT_GT(cases, 50);
  // Grids without codes are values alone: one of the two forms has nothing to say of them.
  const std::vector<float> x(64, 1.0f);
  for (const char* name : {"none.hadamard", "masked_4of8"}) {
    const QuantSpec spec = spec_from_string(name);
    EXPECT_FALSE(implementations[0].run(spec, x, x, 2, 32).has_value()) << name;
    const auto result = implementations[1].run(spec, x, x, 2, 32);
    ASSERT_TRUE(result.has_value()) << name;
    const QuantizerResult scalar = run_scalar_quantizer(spec, x, x, 2, 32);
    EXPECT_EQ(result->y, scalar.y) << name;
    EXPECT_EQ(result->grad_x, scalar.grad_x) << name;
    EXPECT_EQ(result->mask, scalar.mask) << name;
    EXPECT_EQ(result->units, scalar.units) << name;
    EXPECT_TRUE(result->codes.empty()) << name;
  }
}

}  // namespace
}  // namespace quest::ops
