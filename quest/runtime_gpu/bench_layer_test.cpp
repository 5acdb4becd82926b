#include "quest/runtime_gpu/bench_layer.h"

#include <gtest/gtest.h>

#include "quest/base/testing.h"
#include "quest/kernels/cuda/packed_gemm.h"
#include "quest/ops/gpu.h"
#include "quest/ops/testing_gpu.h"

namespace quest {
namespace {

using Weights = LayerTime::Weights;
using Work = LayerTime::Work;

TEST(LayerBench, WithoutAGpuSaysSo) {
  if (ops::gpu_unusable_reason().empty()) GTEST_SKIP() << "there is a GPU";
  EXPECT_QUEST_ERROR(LayerBench(recipe_from_name("w4a4"), 256, 256), ErrorKind::kEnvironment,
                     ops::gpu_unusable_reason());
}

class GpuLayerBench : public testing::GpuTest {};

TEST_F(GpuLayerBench, TimesEveryWayOfALayer) {
  for (const char* recipe : {"w4a4", "w1a1", "w3a3"}) {
    LayerBench bench(recipe_from_name(recipe), 256, 512, /*repeats=*/3);
    const std::vector<LayerTime> few = bench.time(1);
    ASSERT_EQ(few.size(), 4u) << recipe;
    EXPECT_EQ(few[0].weights, Weights::kBf16);
    EXPECT_EQ(few[0].weight_bytes, 2 * 256 * 512);
    EXPECT_EQ(few[1].work, Work::kProduct);
    EXPECT_EQ(few[3].work, Work::kHadamardQuantize);
    for (const LayerTime& t : few) {
      EXPECT_GT(t.seconds, 0);
      EXPECT_FALSE(t.plan.empty());
    }
    EXPECT_LT(few[1].weight_bytes, few[0].weight_bytes / 4 + 5000) << recipe;
    if (!ops::gpu_has_fast_products()) continue;
    const std::vector<LayerTime> many = bench.time(kernels::cuda::kMaxPackedRows + 1);
    ASSERT_EQ(many.size(), 7u) << recipe;
    EXPECT_EQ(many[3].weights, Weights::kPacked);
    EXPECT_EQ(many[4].weights, Weights::kInt8);
    EXPECT_EQ(many[4].weight_bytes, 256 * 512 + 4 * 256);
    EXPECT_EQ(bench.time(16).size(), 4u);
    EXPECT_EQ(bench.time(17).size(), 7u);
  }
}

TEST_F(GpuLayerBench, RefusesWhatHasNoProduct) {
  EXPECT_QUEST_ERROR(LayerBench(recipe_from_name("w4a16"), 256, 256), ErrorKind::kUsage, "w4a16");
  LayerBench bench(recipe_from_name("w4a8"), 256, 256, 3);
  EXPECT_EQ(bench.time(64).size(), 4u);
  EXPECT_QUEST_ERROR(bench.time(65), ErrorKind::kUsage, "smaller --rows");
  LayerBench odd(recipe_from_name("w4a4"), 256, 200, 3);
  EXPECT_QUEST_ERROR(odd.time(1), ErrorKind::kUsage, "200");
}

}  // namespace
}  // namespace quest
