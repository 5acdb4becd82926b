#include "quest/train/plan.h"

#include <map>
#include <sstream>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quest/ops/attention.h"
#include "quest/ops/quant_linear.h"

namespace quest::train {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

LlamaConfig small_model() {
  LlamaConfig m;
  m.vocab_size = 1024;
  m.hidden_size = 128;
  m.intermediate_size = 512;
  m.num_layers = 4;
  m.num_heads = 4;
  m.num_kv_heads = 2;
  m.head_dim = 32;
  return m;
}

TrainConfig config_of(const char* recipe, const char* device) {
  TrainConfig c;
  c.quant = recipe_from_name(recipe);
  c.train.device = device;
  return c;
}

// The lines by their first word.
std::map<std::string, std::string> lines_of(const TrainConfig& config) {
  std::map<std::string, std::string> lines;
  std::istringstream in(code_plan_text(config, small_model()));
  for (std::string line; std::getline(in, line);) {
    const size_t end = line.find(' ');
    lines[line.substr(0, end)] = line.substr(line.find_first_not_of(' ', end));
  }
  return lines;
}

TEST(CodePlan, NamesEveryShapeWithItsProduct) {
  const LlamaConfig m = small_model();
  for (const auto& [name, device] : {std::pair("cpu", at::kCPU), std::pair("cuda", at::kCUDA)}) {
    const TrainConfig c = config_of("w4a4", name);
    auto lines = lines_of(c);
    EXPECT_EQ(lines.size(), device == at::kCPU ? 8u : 9u);
    EXPECT_EQ(lines["device"], std::string(name) + ", bf16");
    const auto expect = [&](const char* layer, int64_t n, int64_t k, const QuantRecipe& recipe) {
      EXPECT_THAT(lines[layer], StartsWith(fmt::format(
                                    "{} x {}: {}; input: ", n, k,
                                    ops::product_plan_text(recipe, n, k, at::kBFloat16, device))));
    };
    expect("qkv_proj", 256, 128, c.quant);
    expect("o_proj", 128, 128, c.quant);
    expect("gate_up_proj", 1024, 128, c.quant);
    expect("down_proj", 128, 512, c.quant);
    expect("lm_head", 1024, 128, recipe_from_name("bf16"));
    EXPECT_THAT(lines["lm_head"], HasSubstr("BFloat16 values"));
    EXPECT_EQ(
        lines["attention"],
        ops::attention_plan(at::kBFloat16, {m.num_heads, m.num_kv_heads, m.head_dim}, device));
  }
  EXPECT_THAT(lines_of(config_of("w4a4", "cpu"))["qkv_proj"], HasSubstr("integer codes"));
}

TEST(CodePlan, SaysHowInputsAreMade) {
  auto cpu = lines_of(config_of("w4a4", "cpu")), gpu = lines_of(config_of("w4a4", "cuda"));
  EXPECT_THAT(cpu["qkv_proj"],
              EndsWith("input: residual sum, RMS norm, quantizer one after the other"));
  EXPECT_THAT(gpu["qkv_proj"], EndsWith("input: residual sum, RMS norm, quantizer in one pass"));
  EXPECT_THAT(gpu["gate_up_proj"], EndsWith("RMS norm, quantizer in one pass"));
  EXPECT_THAT(gpu["down_proj"], EndsWith("input: SwiGLU, quantizer in one pass"));
  EXPECT_THAT(gpu["o_proj"], EndsWith("input: quantizer"));
  EXPECT_THAT(gpu["lm_head"], EndsWith("input: residual sum, RMS norm in one pass"));
  gpu = lines_of(config_of("bf16", "cuda"));
  EXPECT_THAT(gpu["o_proj"], EndsWith("input: as it is"));
  EXPECT_THAT(gpu["down_proj"], EndsWith("input: SwiGLU"));
  // Rotated but not quantized: composed of single operations.
  TrainConfig rotated = config_of("bf16", "cuda");
  rotated.quant.weight = rotated.quant.activation = spec_from_string("none.hadamard");
  EXPECT_THAT(lines_of(rotated)["qkv_proj"],
              EndsWith("residual sum, RMS norm, Hadamard transform one after the other"));
}

TEST(CodePlan, SaysHowGradientsAreMultiplied) {
  TrainConfig c = config_of("w4a4", "cuda");
  EXPECT_THAT(lines_of(c)["backward"], HasSubstr("values (cuBLAS)"));
  c.train.backward = "fp8";
  c.train.gradient_format = "e5m2";
  EXPECT_THAT(lines_of(c)["backward"], HasSubstr("gradients in e5m2 (nearest); recomputed"));
  c.train.gradient_hadamard = true;
  EXPECT_THAT(lines_of(c)["backward"],
              HasSubstr("gradients in e5m2 (nearest), both rotated along the sum and rounded, "
                        "unfused; recomputed"));
  EXPECT_THAT(lines_of(config_of("w4a4", "cpu"))["backward"], "");
}

TEST(CodePlan, SaysWhoUpdates) {
  const auto updates = [](const char* device, const char* optimizer, bool graphs) {
    TrainConfig c = config_of("w4a4", device);
    c.optimizer.name = optimizer;
    c.train.cuda_graphs = graphs;
    return lines_of(c)["optimizer"];
  };
  EXPECT_EQ(updates("cpu", "adamw", true), "adamw: LibTorch's fused update");
  EXPECT_EQ(updates("cpu", "schedule_free_adamw", true),
            "schedule_free_adamw: LibTorch's operations");
  EXPECT_THAT(updates("cuda", "adamw", true), EndsWith("the whole step as CUDA graphs"));
  EXPECT_THAT(updates("cuda", "adamw", false), EndsWith("started by the host"));
  EXPECT_THAT(updates("cuda", "sgd", true), EndsWith("no CUDA graphs"));
}

TEST(RunPlan, SaysWhetherAGpusMemoryIsEnough) {
  constexpr int64_t kGigabyte = 1'000'000'000;
  MemoryPlan memory;
  memory.program_bytes = 0;
  memory.weight_bytes = 30 * kGigabyte;
  memory.validation_bytes = 2 * kGigabyte;
  const auto plan = [&](const char* device, int64_t device_bytes) {
    return make_plan(config_of("w4a4", device), small_model(), memory, 10, 1000, 1e12,
                     device_bytes);
  };
  EXPECT_FALSE(plan("cuda", 32 * kGigabyte).is_too_large());
  const std::string enough = plan("cuda", 80 * kGigabyte).text();
  EXPECT_THAT(enough, HasSubstr("about 32 GB of the GPU's 80 GB: weights 30 GB"));
  EXPECT_THAT(enough, HasSubstr("validation 2 GB"));
  EXPECT_THAT(enough, Not(HasSubstr("more than it has")));
  EXPECT_TRUE(plan("cuda", 32 * kGigabyte - 1).is_too_large());
  const std::string too_much = plan("cuda", 24 * kGigabyte).text();
  EXPECT_THAT(too_much, HasSubstr("more than it has: a smaller train.micro_batch_size"));
  const RunPlan cpu = plan("cpu", 0);
  EXPECT_FALSE(cpu.is_too_large());
  EXPECT_THAT(cpu.text(), HasSubstr("about 32 GB: program 0 B"));
}

}  // namespace
}  // namespace quest::train
