#include "quest/train/memory_plan.h"

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <tuple>

#include <ATen/ops/empty.h>
#include <ATen/ops/randint.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "quest/base/file_bytes.h"
#include "quest/base/testing.h"
#include "quest/nn/llama_model.h"
#include "quest/ops/gpu.h"
#include "quest/train/allocator.h"
#include "quest/train/optimizer.h"

namespace quest::train {
namespace {

namespace fs = std::filesystem;

// Bytes of tensors that this thread allocated and did not free, and the most there were.
class LiveBytes : public c10::MemoryReportingInfoBase {
 public:
  bool memoryProfilingEnabled() const override { return true; }
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) override {
    bytes += size;
    peak = std::max(peak, bytes);
  }
  int64_t bytes = 0, peak = 0;
};

TrainConfig config_of(const char* recipe, const char* type) {
  TrainConfig c;
  c.quant = recipe_from_name(recipe);
  c.train.compute_type = type;
  c.train.batch_size = 4;
  c.train.sequence_length = 128;
  return c;
}

LlamaConfig small_model() {
  LlamaConfig m;
  m.vocab_size = 1024;
  m.hidden_size = 128;
  m.intermediate_size = 512;
  m.num_layers = 4;
  m.num_heads = 4;
  m.num_kv_heads = 2;
  m.head_dim = 32;
  m.max_position_embeddings = 128;
  return m;
}

struct Case {
  const char* recipe;
  const char* type;
  bool tiles;  // packed weights, which are no tensors
};

#ifdef __GLIBC__
// The hole that a tensor leaves is taken by the next one of its size, so that steps do not make the
// heap grow. LibTorch's own allocator takes new memory here.
TEST(KeepFreedMemory, TheHoleOfATensorFitsTheNext) {
  keep_freed_memory();
  for (const int64_t bytes : {(5 << 20) + 1, 64 << 20}) {
    at::Tensor first = at::empty({bytes}, at::kByte);
    const void* place = first.data_ptr();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(place) % 64, 0U);
    const at::Tensor behind = at::empty({bytes}, at::kByte);  // keeps the hole from growing
    first.fill_(7);
    first.reset();
    const at::Tensor second = at::empty({bytes}, at::kByte);
    EXPECT_EQ(second.data_ptr(), place) << bytes;
  }
  EXPECT_EQ(reinterpret_cast<uintptr_t>(at::empty({1}, at::kByte).data_ptr()) % 64, 0U);
  EXPECT_EQ(at::empty({0}).data_ptr(), nullptr);
  EXPECT_QUEST_ERROR(at::empty({int64_t{1} << 50}, at::kByte), ErrorKind::kEnvironment,
                     "no memory for a tensor of 1125899906842624 bytes");
}
#endif

// The parts against what LibTorch's allocator was asked for.
TEST(MemoryPlan, CountsTheTensorsOfAStep) {
  const LlamaConfig m = small_model();
  for (const Case& k : {Case{"bf16", "bf16", false}, Case{"bf16", "fp32", false},
                        Case{"w4a4", "bf16", true}, Case{"w1a1", "fp32", true},
                        Case{"w4a16", "bf16", false}, Case{"int4_4of8", "bf16", true}}) {
    SCOPED_TRACE(std::string(k.recipe) + " " + k.type);
    const TrainConfig c = config_of(k.recipe, k.type);
    const MemoryPlan plan = make_memory_plan(c, m, 4, 0);
    const auto live = std::make_shared<LiveBytes>();
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, live);
    nn::LlamaModel model(m, c.quant, nn::compute_type_from_name(k.type));
    EXPECT_NEAR(static_cast<double>(live->bytes), static_cast<double>(plan.weight_bytes),
                0.02 * static_cast<double>(plan.weight_bytes));
    model.init_weights(1);
    const std::unique_ptr<Optimizer> optimizer = make_optimizer(c.optimizer, model.parameters());
    const at::Tensor tokens = at::randint(m.vocab_size, {4, 128}, at::kLong);
    const int64_t before = live->bytes;
    live->peak = before;
    const at::Tensor loss = model.loss(tokens, tokens);
    // Kept after the forward pass: copies, saved tensors and the head's gradient.
    const int64_t tiles = k.tiles ? m.num_layers * (128 * 256 + 128 * 128 + 3 * 128 * 512) : 0;
    const int64_t head_gradient = m.vocab_size * m.hidden_size * 4;
    const auto kept =
        static_cast<double>(plan.copy_bytes - tiles + plan.saved_bytes + head_gradient);
    EXPECT_NEAR(static_cast<double>(live->bytes - before), kept, 0.03 * kept);
    loss.backward();
    optimizer->step(1e-3);
    // At most, and not much less than, what is planned for a whole step.
    const auto step = static_cast<double>(plan.copy_bytes - tiles + plan.saved_bytes +
                                          plan.gradient_bytes + plan.working_bytes);
    EXPECT_LE(static_cast<double>(live->peak - before), step);
    EXPECT_GE(static_cast<double>(live->peak - before), 0.6 * step);
  }
}

TEST(MemoryPlan, StateFollowsTheSettings) {
  const LlamaConfig m = small_model();
  TrainConfig c = config_of("w4a4", "bf16");
  const int64_t masters = 4 * m.parameters();
  const MemoryPlan whole = make_memory_plan(c, m, 4, 1000);
  EXPECT_EQ(whole.program_bytes, 1000);
  EXPECT_EQ(whole.optimizer_bytes, 2 * masters);
  // Micro-batches save less and hold one gradient more.
  const MemoryPlan parts = make_memory_plan(c, m, 1, 1000);
  EXPECT_EQ(parts.saved_bytes * 4, whole.saved_bytes);
  EXPECT_LT(parts.total_bytes(), whole.total_bytes());
  c.optimizer.name = "sgd";
  EXPECT_EQ(make_memory_plan(c, m, 4, 0).optimizer_bytes, masters);
  c.optimizer.momentum = 0;
  c.averaging.ema_decay = 0.99;
  c.averaging.horizon = 10;
  EXPECT_EQ(make_memory_plan(c, m, 4, 0).optimizer_bytes, 3 * masters);
}

TrainConfig gpu_config_of(const char* recipe, const char* type) {
  TrainConfig c = config_of(recipe, type);
  c.train.device = "cuda";
  return c;
}

// The estimate alone: no GPU is needed.
TEST(MemoryPlan, CountsWhatAGpuKeepsOfEachWeight) {
  const LlamaConfig m = small_model();
  const auto head = static_cast<double>(m.vocab_size * m.hidden_size);
  const auto blocks = static_cast<double>(m.num_layers * (128 * 256 + 128 * 128 + 3 * 128 * 512));
  const auto copies = [&](const char* recipe, const char* type) {
    return static_cast<double>(make_memory_plan(gpu_config_of(recipe, type), m, 4, 0).copy_bytes);
  };
  // Codes, values and mask bits; the head in the compute type.
  EXPECT_EQ(copies("w4a4", "bf16"), blocks * (1 + 2 + 0.125) + 2 * head);
  EXPECT_EQ(copies("w4a4", "fp32"), blocks * (1 + 4 + 0.125) + 4 * head);
  EXPECT_EQ(copies("w4a16", "bf16"), copies("w4a4", "bf16"));
  EXPECT_EQ(copies("bf16", "bf16"), 2 * (blocks + head));
  EXPECT_EQ(copies("bf16", "fp32"), 4 * (blocks + head));
}

TEST(MemoryPlan, AGpuDiffersInCopiesSavedAndWorkingMemory) {
  const LlamaConfig m = small_model();
  const TrainConfig c = gpu_config_of("w4a4", "bf16");
  const MemoryPlan gpu = make_memory_plan(c, m, 4, 1000);
  const MemoryPlan cpu = make_memory_plan(config_of("w4a4", "bf16"), m, 4, 1000);
  EXPECT_EQ(gpu.program_bytes, 0);
  EXPECT_EQ(gpu.weight_bytes, cpu.weight_bytes);
  EXPECT_EQ(gpu.gradient_bytes, 4 * m.parameters());
  EXPECT_EQ(gpu.optimizer_bytes, cpu.optimizer_bytes);
  EXPECT_EQ(gpu.saved_bytes, cpu.saved_bytes);
  TrainConfig fp8 = c;
  fp8.train.backward = "fp8";
  const MemoryPlan rounded = make_memory_plan(fp8, m, 4, 0);
  EXPECT_LT(rounded.copy_bytes, gpu.copy_bytes);
  EXPECT_GT(rounded.working_bytes, gpu.working_bytes) << "FP8 forms of the gradient of gate and up";
  // 512 tokens; of gate and up: a turned copy in BF16 in the place of one FP8 form and turned
  // codes.
  fp8.train.gradient_hadamard = true;
  const MemoryPlan rotated = make_memory_plan(fp8, m, 4, 0);
  EXPECT_EQ(rotated.working_bytes - rounded.working_bytes, 512 * (2 * 512 - 128));
  EXPECT_EQ(rotated.copy_bytes, rounded.copy_bytes);
  EXPECT_EQ(rotated.saved_bytes, rounded.saved_bytes);
}

TEST(MemoryPlan, RecomputingKeepsLess) {
  for (const char* recipe : {"w4a4", "bf16"}) {
    TrainConfig c = config_of(recipe, "bf16");
    LlamaConfig m = small_model();
    m.num_layers = 8;  // one block's insides exist at a time
    int64_t last = std::numeric_limits<int64_t>::max();
    for (const char* recompute : {"off", "mlp", "block"}) {
      c.train.recompute = recompute;
      const int64_t saved = make_memory_plan(c, m, 4, 0).saved_bytes;
      EXPECT_LT(saved, last) << recipe << " " << recompute;
      last = saved;
    }
  }
}

TEST(MemoryPlan, OfAGpuGrowsWithEverySize) {
  const LlamaConfig m = small_model();
  const TrainConfig c = gpu_config_of("w4a4", "bf16");
  const int64_t base = make_memory_plan(c, m, 4, 0).total_bytes();
  for (int64_t LlamaConfig::*size :
       {&LlamaConfig::vocab_size, &LlamaConfig::hidden_size, &LlamaConfig::intermediate_size,
        &LlamaConfig::num_layers, &LlamaConfig::num_heads, &LlamaConfig::num_kv_heads}) {
    LlamaConfig larger = m;
    larger.*size *= 2;
    EXPECT_GT(make_memory_plan(c, larger, 4, 0).total_bytes(), base);
  }
  EXPECT_GT(make_memory_plan(c, m, 8, 0).total_bytes(), base);
  EXPECT_LT(make_memory_plan(c, m, 1, 0).total_bytes(), base);
  TrainConfig longer = c;
  longer.train.sequence_length *= 2;
  EXPECT_GT(make_memory_plan(longer, m, 4, 0).total_bytes(), base);
  EXPECT_GT(make_memory_plan(gpu_config_of("w4a4", "fp32"), m, 4, 0).total_bytes(), base);
}

TEST(MemoryPlan, AValidationIsBesideTheGraphsOfAGpu) {
  const LlamaConfig m = small_model();
  TrainConfig c = gpu_config_of("bf16", "bf16");
  const auto validation = [&](int64_t rows) {
    return make_memory_plan(c, m, 4, 0, rows).validation_bytes;
  };
  EXPECT_EQ(validation(0), 0);
  EXPECT_EQ(make_memory_plan(config_of("bf16", "bf16"), m, 4, 0, 4).validation_bytes, 0) << "CPU";
  // 512 tokens; MLP: twice two residual tensors of 128, the sum, the output; gate and up, and their
  // product, of 512 each. Logits of 1024 take less than that.
  EXPECT_EQ(validation(4), 512 * (2 * (6 * 128 + 3 * 512) + 16));
  EXPECT_EQ(validation(8), 2 * validation(4));
  const MemoryPlan without = make_memory_plan(c, m, 4, 0), with = make_memory_plan(c, m, 4, 0, 4);
  EXPECT_EQ(with.total_bytes(), without.total_bytes() + with.validation_bytes);
  // An average is evaluated in the place of the weights.
  const int64_t plain = validation(4);
  c.averaging.ema_decay = 0.99;
  EXPECT_EQ(validation(4), plain + 4 * m.parameters());
  c.averaging.ema_decay = 0;
  // Without graphs a step's memory is free for it.
  c.train.cuda_graphs = false;
  EXPECT_EQ(validation(4), 0);
  const int64_t freed = without.saved_bytes + without.working_bytes;
  EXPECT_EQ(validation(400), 100 * plain - freed);
  c.train.cuda_graphs = true;
  c.optimizer.name = "sgd";  // has no update in a graph
  EXPECT_EQ(validation(4), 0);
}

TEST(MemoryPlan, AValidationIsOfItsLogitsWhereTheVocabularyIsLarge) {
  LlamaConfig m = small_model();
  m.vocab_size = 32000;
  const TrainConfig c = gpu_config_of("w4a4", "bf16");
  const int64_t logits = 512 * 32000 * 2;
  EXPECT_EQ(make_memory_plan(c, m, 4, 0, 4).validation_bytes, logits + 512 * (2 * 128 + 4 + 16));
}

// The parts against what the GPU's allocator was asked for. Looser than on a CPU: it rounds sizes
// up, and attention's workspaces are its library's.
TEST(MemoryPlan, CountsTheTensorsOfAStepOnAGpu) {
  if (const std::string reason = ops::gpu_unusable_reason(); !reason.empty()) {
    GTEST_SKIP() << reason;
  }
  const LlamaConfig m = small_model();
  for (const auto& [recipe, backward, rotated] : {std::tuple{"w4a4", "bf16", false},
                                                  {"bf16", "bf16", false},
                                                  {"w4a4", "fp8", false},
                                                  {"w4a4", "fp8", true}}) {
    const bool fp8 = backward == std::string("fp8");
    if (fp8 && !ops::gpu_has_fast_products()) {
      GTEST_SKIP() << "the rest: FP8 row-wise products need a Hopper GPU";
    }
    SCOPED_TRACE(fmt::format("{} {} {}", recipe, backward, rotated));
    TrainConfig c = gpu_config_of(recipe, "bf16");
    c.train.backward = backward;
    c.train.gradient_hadamard = rotated;
    const MemoryPlan plan = make_memory_plan(c, m, 4, 0);
    const auto live = std::make_shared<LiveBytes>();
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, live);
    nn::LlamaModel model(m, c.quant, nn::ComputeType::kBFloat16, at::kCUDA);
    model.init_weights(1);
    if (fp8) model.use_fp8_backward({.hadamard = rotated});
    int64_t before = live->bytes;
    model.refresh();
    const auto copies = static_cast<double>(plan.copy_bytes);
    EXPECT_NEAR(static_cast<double>(live->bytes - before), copies, 0.05 * copies);
    const std::unique_ptr<Optimizer> optimizer = make_optimizer(c.optimizer, model.parameters());
    const at::Tensor tokens = at::randint(m.vocab_size, {4, 128}, at::kLong);
    model.loss(tokens, tokens).backward();  // libraries take their workspaces for good
    optimizer->step(1e-3);
    model.zero_grad();
    before = live->peak = live->bytes;
    const at::Tensor loss = model.loss(tokens, tokens);
    const auto kept = static_cast<double>(plan.saved_bytes + m.vocab_size * m.hidden_size * 4);
    EXPECT_NEAR(static_cast<double>(live->bytes - before), kept, 0.1 * kept);
    loss.backward();
    const auto step =
        static_cast<double>(plan.saved_bytes + plan.gradient_bytes + plan.working_bytes);
    EXPECT_LE(static_cast<double>(live->peak - before), 1.1 * step);
    EXPECT_GE(static_cast<double>(live->peak - before), 0.5 * step);
  }
}

TEST(MemoryPlan, CountsTheTensorsOfAValidationOnAGpu) {
  if (const std::string reason = ops::gpu_unusable_reason(); !reason.empty()) {
    GTEST_SKIP() << reason;
  }
  const LlamaConfig m = small_model();
  for (const char* recipe : {"w4a4", "bf16"}) {
    SCOPED_TRACE(recipe);
    const TrainConfig c = gpu_config_of(recipe, "bf16");
    const auto live = std::make_shared<LiveBytes>();
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, live);
    nn::LlamaModel model(m, c.quant, nn::ComputeType::kBFloat16, at::kCUDA);
    model.init_weights(1);
    const at::Tensor tokens = at::randint(m.vocab_size, {16, 128}, at::kLong);
    model.token_losses(tokens, tokens);  // makes the copies; libraries take their workspaces
    const int64_t before = live->peak = live->bytes;
    model.token_losses(tokens, tokens);
    const auto planned = static_cast<double>(make_memory_plan(c, m, 4, 0, 16).validation_bytes);
    EXPECT_LE(static_cast<double>(live->peak - before), 1.1 * planned);
    EXPECT_GE(static_cast<double>(live->peak - before), 0.7 * planned);
  }
}

TEST(MemoryPlan, OwnMemoryGrowsWithWhatIsTouchedAndNotWithMappedFiles) {
  constexpr int64_t kMegabyte = 1 << 20;
  const int64_t before = anonymous_bytes();
  EXPECT_GT(before, kMegabyte);
  const testing::TemporaryFolder folder;
  fs::resize_file(folder.write("zeros", ""), 64 * kMegabyte);
  const FileBytes file(folder / "zeros");
  EXPECT_EQ(std::count(file.bytes().begin(), file.bytes().end(), std::byte{0}), 64 * kMegabyte);
  EXPECT_LT(anonymous_bytes(), before + 16 * kMegabyte);
  const std::vector<char> touched(64 * kMegabyte, 1);
  EXPECT_GT(anonymous_bytes(), before + 48 * kMegabyte * touched.back());
}

}  // namespace
}  // namespace quest::train
