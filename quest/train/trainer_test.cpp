#include "quest/train/trainer.h"

#include <algorithm>
#include <barrier>
#include <csignal>
#include <fstream>
#include <limits>
#include <sys/resource.h>
#include <thread>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/shutdown.h"
#include "quest/base/testing.h"
#include "quest/train/testing_trainer.h"

namespace quest::train {
namespace {

namespace fs = std::filesystem;
using testing::learned_values;
using testing::metrics;
using testing::TrainerTest;
using testing::weights;

TEST_F(TrainerTest, LearnsAndLeavesACompleteFolder) {
  TrainConfig c = tiny("learns");
  c.train.steps = 40;
  c.averaging.ema_decay = 0.5;
  const TrainOutcome outcome = train(c);
  EXPECT_EQ(outcome.run.filename(), run_folder_name(c));
  EXPECT_TRUE(fs::equivalent(outcome.run, folder_ / "runs" / "learns"));
  const auto lines = metrics(outcome.run);
  EXPECT_LT(lines.back()["validation_loss"].get<double>(), 4.0);
  EXPECT_GT(lines.front()["loss"].get<double>(), 5.4);  // ln 257 is 5.55
  EXPECT_EQ(outcome.summary["validation_tokens"], 399);
  EXPECT_TRUE(outcome.summary.contains("bits_per_byte"));
  EXPECT_TRUE(outcome.summary.contains("ema_validation_loss"));
  for (const char* name :
       {"config.toml", "metrics.jsonl", "summary.json", "final/config.json", "final/config.toml",
        "final/model.safetensors", "final/tokenizer_config.json", "final_ema/model.safetensors",
        "checkpoints/latest/state.json", "checkpoints/best/state.json"}) {
    EXPECT_TRUE(fs::exists(outcome.run / name)) << name;
  }
  verify_folder(outcome.run / "final");

  // Every setting of the run, from its own file.
  TrainConfig again;
  apply_toml(again, parse_toml_file(outcome.run / "config.toml"));
  EXPECT_EQ(config_to_toml(again), config_to_toml(c));

  const TrainOutcome second = train(c);
  EXPECT_TRUE(second.was_complete);
  EXPECT_EQ(weights(second), weights(outcome));
}

// What quantizers learn goes with the weights: trained, decayed, taken over by --init where the
// recipe is the same, begun anew where it is not.
TEST_F(TrainerTest, LearnedQuantizersAreParametersOfTheRun) {
  TrainConfig c = tiny("lsq");
  c.quant = recipe_from_name("w4a4_lsq");
  c.optimizer.lr = 1e-3;
  const std::vector<float> first = learned_values(train(c));
  ASSERT_EQ(first.size(), 16u);  // 2 blocks of 4 layers of 2 sides
  for (const float value : first) EXPECT_GT(value, 0);

  TrainConfig decayed = c;
  decayed.run.name = "decayed";
  decayed.optimizer.quantizer_weight_decay = 500;
  EXPECT_NE(config_hash(decayed), config_hash(c));
  const std::vector<float> smaller = learned_values(train(decayed));
  for (size_t i = 0; i < first.size(); ++i) EXPECT_LT(smaller[i], first[i]);

  TrainConfig on = c;
  on.run.name = "on";
  on.run.init = (folder_ / "runs" / "lsq" / "final").string();
  on.optimizer.lr = 0;
  EXPECT_EQ(learned_values(train(on)), first);
  on.run.name = "other";
  on.quant = recipe_from_name("w2a2_lsq");
  const std::vector<float> anew = learned_values(train(on));
  for (size_t i = 0; i < first.size(); ++i) EXPECT_GT(anew[i], 1.5f * first[i]);
  on.run.name = "without";
  on.quant = recipe_from_name("w4a4");
  EXPECT_TRUE(learned_values(train(on)).empty());
}

TEST_F(TrainerTest, StoppedAfterEveryStepAndResumedIsBitwiseTheSame) {
  std::vector<TrainConfig> configs(5, tiny(""));
  configs[0].run.name = "accumulation";
  configs[0].train.micro_batch_size = 2;
  configs[0].averaging.ema_decay = 0.9;
  configs[0].averaging.horizon = 4;
  configs[0].averaging.interval = 2;
  configs[0].diagnostics.every = 2;
  configs[0].diagnostics.keep_masks = 2;
  configs[1].run.name = "schedule_free";
  configs[1].optimizer.name = "schedule_free_adamw";
  configs[1].schedule.name = "constant";
  configs[1].quant = recipe_from_name("w1a1");
  configs[1].diagnostics.every = 1;
  configs[2].run.name = "sgd";
  configs[2].optimizer.name = "sgd";
  configs[2].optimizer.lr = 0.1;
  configs[2].data.mask_document_starts = true;
  configs[3].run.name = "bf16";
  configs[3].train.compute_type = "bf16";
  configs[3].quant = recipe_from_name("bf16");
  configs[4].run.name = "learned";
  configs[4].quant = recipe_from_name("w3a3_lsq_plus_hadamard");
  configs[4].averaging.ema_decay = 0.9;
  for (TrainConfig c : configs) {
    SCOPED_TRACE(c.run.name);
    const TrainOutcome straight = train(c);
    c.run.folder = (folder_ / "stopped").string();
    install_shutdown_handlers();
    TrainOutcome outcome;
    int stops = 0;
    do {
      std::raise(SIGTERM);
      outcome = train(c);
      reset_shutdown_signal();
      EXPECT_EQ(outcome.step, ++stops);
    } while (outcome.interrupted && stops < 10);
    EXPECT_EQ(stops, 6);
    EXPECT_EQ(weights(outcome), weights(straight));
    EXPECT_EQ(metrics(outcome.run), metrics(straight.run));
    for (const char* name : {"ema_validation_loss", "mean_validation_loss", "validation_loss"}) {
      EXPECT_EQ(outcome.summary.contains(name), straight.summary.contains(name)) << name;
      if (straight.summary.contains(name)) {
        EXPECT_EQ(outcome.summary[name], straight.summary[name]) << name;
      }
    }
  }
}

TEST_F(TrainerTest, DiagnosticsChangeNothing) {
  std::vector<TrainConfig> configs(4, tiny(""));
  configs[0].run.name = "accumulation";
  configs[0].train.micro_batch_size = 2;
  configs[0].averaging.ema_decay = 0.9;
  configs[1].run.name = "recompute";
  configs[1].train.recompute = "block";
  configs[1].quant = recipe_from_name("w1a1");
  configs[2].run.name = "bf16";
  configs[2].train.compute_type = "bf16";
  configs[2].optimizer.name = "schedule_free_adamw";
  configs[2].schedule.name = "constant";
  configs[3].run.name = "learned";
  configs[3].train.recompute = "block";
  configs[3].quant = recipe_from_name("w3a3_lsq_plus_hadamard");
  for (TrainConfig c : configs) {
    SCOPED_TRACE(c.run.name);
    const TrainOutcome without = train(c);
    c.run.folder = (folder_ / "diagnosed").string();
    c.diagnostics.every = 4;
    c.diagnostics.batch_size = 2;
    const TrainOutcome with = train(c);
    EXPECT_EQ(with.run.filename(), without.run.filename());
    EXPECT_EQ(weights(with), weights(without));
    EXPECT_EQ(with.summary["validation_loss"], without.summary["validation_loss"]);
    std::vector<nlohmann::ordered_json> lines = metrics(with.run);
    std::vector<int64_t> steps;
    std::erase_if(lines, [&](const nlohmann::ordered_json& line) {
      if (!line.contains("diagnostics")) return false;
      steps.push_back(line.at("step").get<int64_t>());
      EXPECT_EQ(line.at("tokens"), steps.back() * 64);
      EXPECT_EQ(line.at("diagnostics").at("layers").size(), 8u);
      return true;
    });
    EXPECT_EQ(steps, (std::vector<int64_t>{0, 4}));
    EXPECT_EQ(lines, metrics(without.run));
  }
}

TEST_F(TrainerTest, DiagnosticsWithoutValidationFileTakeTrainingText) {
  TrainConfig c = tiny("alone");
  fs::remove(folder_ / "validation.qtok");
  c.diagnostics.every = 6;
  const auto lines = metrics(train(c).run);
  EXPECT_TRUE(lines.front().contains("diagnostics"));
  EXPECT_TRUE(lines.back().contains("diagnostics"));
  EXPECT_EQ(lines.back()["step"], 6);
  EXPECT_EQ(lines.back()["diagnostics"]["masks_retained"][0]["since_step"], 0);
  SingleProcess group;
  EXPECT_NE(Trainer(c, group).plan().text().find("\ndiagnostics  2 times"), std::string::npos);
}

TEST_F(TrainerTest, ADamagedCheckpointIsLeftAside) {
  TrainConfig c = tiny("damaged");
  c.checkpoint.keep_best = false;
  const TrainOutcome straight = train(c);
  const fs::path checkpoints = straight.run / "checkpoints";
  fs::remove(straight.run / "summary.json");
  fs::resize_file(checkpoints / "step-00000006" / "optimizer.safetensors", 100);
  const TrainOutcome again = train(c);
  EXPECT_EQ(weights(again), weights(straight));
  EXPECT_EQ(metrics(again.run), metrics(straight.run));

  for (const char* name : {"step-00000004", "step-00000006"}) {
    std::ofstream(checkpoints / name / "state.json", std::ios::trunc) << "{";
  }
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kData, "no checkpoint in");
}

TEST_F(TrainerTest, AccumulationDoesNotChangeTheMean) {
  TrainConfig c = tiny("whole");
  c.quant = recipe_from_name("bf16");
  const TrainOutcome whole = train(c);
  c.run.name = "parts";
  c.train.micro_batch_size = 1;
  const TrainOutcome parts = train(c);
  const auto a = metrics(whole.run), b = metrics(parts.run);
  ASSERT_EQ(a.size(), b.size());
  for (size_t k = 0; k < a.size(); ++k) {
    const char* key = a[k].contains("loss") ? "loss" : "validation_loss";
    EXPECT_NEAR(a[k][key].get<double>(), b[k][key].get<double>(), 1e-4) << k;
  }
}

TEST_F(TrainerTest, NotFiniteLossesAreSkippedUntilItIsEnough) {
  const TrainOutcome source = train(tiny("good"));
  const fs::path poisoned = folder_ / "poisoned";
  fs::copy(source.run / "final", poisoned);
  {
    nn::LlamaModel model(load_llama_config(poisoned / "config.json", nullptr),
                         recipe_from_name("w4a4"), nn::ComputeType::kFloat32);
    load_weights(model, poisoned);
    const at::NoGradGuard no_grad;
    for (auto& t : model.hf_tensors()) t.view.fill_(std::numeric_limits<float>::quiet_NaN());
    save_weights(model, poisoned / "model.safetensors", DType::kF32);
  }
  TrainConfig c = tiny("poisoned");
  c.run.init = poisoned.string();
  c.eval.every = 0;
  c.guards.max_skipped = 3;
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kNumeric, "3 steps in a row");
  const auto lines = metrics(folder_ / "runs" / "poisoned");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_TRUE(lines[0]["skipped"].get<bool>());
  EXPECT_TRUE(lines[0]["loss"].is_null());
  c.guards.nonfinite = "stop";
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kNumeric, "guards.nonfinite is stop");
}

TEST_F(TrainerTest, PeakMemoryIsWithoutMappedFiles) {
  constexpr int64_t kMegabyte = 1 << 20;
  const int64_t before = anonymous_bytes();
  fs::resize_file(folder_.write("zeros", ""), 64 * kMegabyte);
  const FileBytes file(folder_ / "zeros");
  ASSERT_EQ(std::count(file.bytes().begin(), file.bytes().end(), std::byte{0}), 64 * kMegabyte);
  const TrainOutcome outcome = train(tiny("memory"));
  const auto own = outcome.summary["peak_memory_bytes"].get<int64_t>();
  EXPECT_GT(own, before / 2);
  EXPECT_LT(own, before + 48 * kMegabyte);
  EXPECT_GT(outcome.summary["peak_resident_bytes"].get<int64_t>(), own + 48 * kMegabyte);
}

// A file that may not grow is what a full disk looks like to the writer.
TEST_F(TrainerTest, AFullDiskIsAnErrorAndTheLastCheckpointStays) {
  const TrainConfig c = tiny("full");
  const TrainOutcome straight = train(c);
  TrainConfig limited = c;
  limited.run.folder = (folder_ / "limited").string();
  install_shutdown_handlers();
  std::raise(SIGTERM);
  const TrainOutcome first = train(limited);
  reset_shutdown_signal();
  ASSERT_TRUE(first.interrupted);

  std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  struct rlimit small = before;
  small.rlim_cur = 20000;  // below the size of the weights
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_QUEST_ERROR(train(limited), ErrorKind::kIo, "safetensors");
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, SIG_DFL);

  const CheckpointScan scan = find_checkpoints(first.run, true);
  ASSERT_EQ(scan.valid.size(), 1u);
  EXPECT_EQ(scan.valid[0].filename(), "step-00000001");
  EXPECT_TRUE(scan.broken.empty());
  const TrainOutcome outcome = train(limited);
  EXPECT_EQ(weights(outcome), weights(straight));
  EXPECT_EQ(metrics(outcome.run), metrics(straight.run));
}

TEST_F(TrainerTest, PlanCountsWhatWillBeDone) {
  TrainConfig c = tiny("plan");
  c.train.steps = 0;
  c.train.epochs = 2;
  SingleProcess group;
  const Trainer trainer(c, group);
  const RunPlan plan = trainer.plan();
  // floor(3000 / 16) - 1 windows at the least, 4 a step.
  EXPECT_NEAR(static_cast<double>(plan.steps), 2 * 186 / 4, 1);
  EXPECT_NEAR(plan.epochs, 2, 0.05);
  EXPECT_EQ(plan.memory.weight_bytes, 4 * plan.parameters);
  EXPECT_GT(plan.memory.program_bytes, 0);
  EXPECT_EQ(plan.memory.optimizer_bytes, 8 * plan.parameters);
  EXPECT_NEAR(plan.seconds_at(0.5) * 0.5 * 1e12,
              plan.flops_per_token * static_cast<double>(plan.steps) * 64, 1);
  EXPECT_NE(plan.text().find("without embedding"), std::string::npos);
  EXPECT_EQ(plan.text().find("diagnostics"), std::string::npos);
  EXPECT_FALSE(fs::exists(folder_ / "runs"));  // nothing was written
}

// Ranks as threads of this process.
class ThreadGroup : public ProcessGroup {
 public:
  struct Shared {
    explicit Shared(int64_t n) : size(n), barrier(n), numbers(static_cast<size_t>(n)) {}
    int64_t size;
    std::barrier<> barrier;
    std::vector<double> numbers;
    std::vector<at::Tensor> tensors = std::vector<at::Tensor>(8);
  };
  ThreadGroup(Shared& shared, int64_t rank) : shared_(shared), rank_(rank) {}
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return shared_.size; }
  void barrier() override { shared_.barrier.arrive_and_wait(); }
  double all_reduce_sum(double value) override {
    return reduce(value, [](double a, double b) { return a + b; });
  }
  int64_t all_reduce_max(int64_t value) override {
    return static_cast<int64_t>(
        reduce(static_cast<double>(value), [](double a, double b) { return std::max(a, b); }));
  }
  void all_reduce_sum(at::Tensor& tensor) override {
    shared_.tensors[static_cast<size_t>(rank_)] = tensor;
    barrier();
    at::Tensor sum = shared_.tensors[0].clone();
    for (int64_t r = 1; r < size(); ++r) sum += shared_.tensors[static_cast<size_t>(r)];
    barrier();
    tensor.copy_(sum);
    barrier();
  }

 private:
  template <class F>
  double reduce(double value, F&& f) {
    shared_.numbers[static_cast<size_t>(rank_)] = value;
    barrier();
    double out = shared_.numbers[0];
    for (size_t r = 1; r < shared_.numbers.size(); ++r) out = f(out, shared_.numbers[r]);
    barrier();
    return out;
  }
  Shared& shared_;
  int64_t rank_;
};

class RanksTest : public TrainerTest {
 protected:
  void two_ranks_train_as_one(TrainConfig c) {
    const TrainOutcome one = train(c);
    c.run.folder = (folder_ / "two").string();
    ThreadGroup::Shared shared(2);
    std::vector<TrainOutcome> outcomes(2);
    const auto work = [&](int64_t rank) {
      ThreadGroup group(shared, rank);
      Trainer trainer(c, group);
      outcomes[static_cast<size_t>(rank)] = trainer.run();
    };
    std::thread other(work, 1);
    work(0);
    other.join();
    const auto a = metrics(one.run), b = metrics(outcomes[0].run);
    ASSERT_EQ(a.size(), b.size());  // one writer
    for (size_t k = 0; k < a.size(); ++k) {
      const char* key = a[k].contains("loss") ? "loss" : "validation_loss";
      EXPECT_NEAR(a[k][key].get<double>(), b[k][key].get<double>(), 1e-4) << k;
    }
    EXPECT_TRUE(outcomes[1].summary.empty());
  }
};

TEST_F(RanksTest, TrainAsOne) {
  for (const char* recipe : {"bf16", "w8a8_lsq"}) {
    SCOPED_TRACE(recipe);
    TrainConfig c = tiny(std::string("ranks_") + recipe);
    c.quant = recipe_from_name(recipe);
    c.train.micro_batch_size = 1;  // quantizers begin from the first one, whatever the ranks
    if (c.quant.is_quantized()) c.optimizer.lr = 1e-4;  // or codes flip at different steps
    two_ranks_train_as_one(c);
  }
}

}  // namespace
}  // namespace quest::train
