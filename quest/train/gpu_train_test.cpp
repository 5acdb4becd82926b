// Training on a GPU against training on the CPU, graphs against single operations, resuming.
// Skipped where no GPU can be used.
#include <algorithm>
#include <fstream>
#include <set>

#include <ATen/ops/equal.h>
#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/base/testing.h"
#include "quest/ops/gpu.h"
#include "quest/train/checkpoint.h"
#include "quest/train/gpu_step.h"
#include "quest/train/testing_gpu_train.h"
#include "quest/train/trainer.h"

namespace quest::train {
namespace {

namespace fs = std::filesystem;
using testing::batch_of;
using testing::GpuTrain;
using testing::small;
using testing::tensor_of;

struct Steps {
  std::vector<double> losses, norms;
  std::vector<at::Tensor> weights;
};

Steps run_steps(const TrainConfig& config, int64_t micro_batches, int64_t steps) {
  nn::LlamaModel model(small(), config.quant, nn::ComputeType::kBFloat16, at::kCUDA);
  model.init_weights(1);
  model.set_recompute(nn::recompute_from_name(config.train.recompute));
  if (config.train.backward == "fp8") {
    model.use_fp8_backward({.e5m2 = config.train.gradient_format == "e5m2",
                            .by_chance = config.train.gradient_rounding == "stochastic",
                            .hadamard = config.train.gradient_hadamard});
  }
  const auto optimizer = make_optimizer(config.optimizer, model.parameters());
  GpuStep gpu(model, *optimizer, config, micro_batches);
  Steps run;
  const auto take = [&] {
    const GpuStep::Result r = gpu.take();
    run.losses.push_back(r.loss);
    run.norms.push_back(r.gradient_norm);
  };
  for (int64_t s = 0; s < steps; ++s) {
    const Batch all = batch_of(8, 32, static_cast<uint64_t>(s));
    const int64_t rows = 8 / micro_batches;
    for (int64_t k = 0; k < micro_batches; ++k) {
      Batch part;
      part.batch = rows;
      part.sequence_length = 32;
      part.inputs.assign(all.inputs.begin() + k * rows * 32,
                         all.inputs.begin() + (k + 1) * rows * 32);
      part.targets.assign(all.targets.begin() + k * rows * 32,
                          all.targets.begin() + (k + 1) * rows * 32);
      gpu.micro_batch(part, 1.0 / static_cast<double>(micro_batches));
    }
    gpu.finish(1e-3);
    gpu.apply();
    while (gpu.untaken() > 1) take();
  }
  while (gpu.untaken() > 0) take();
  EXPECT_EQ(optimizer->steps(), steps);
  for (const auto& p : model.parameters()) run.weights.push_back(p.tensor.detach().cpu());
  return run;
}

TrainConfig config_for(const char* recipe) {
  TrainConfig c;
  c.quant = recipe_from_name(recipe);
  c.train.device = "cuda";
  return c;
}

void expect_equal(const Steps& a, const Steps& b) {
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_EQ(a.norms, b.norms);
  for (size_t i = 0; i < a.weights.size(); ++i) {
    EXPECT_TRUE(at::equal(a.weights[i], b.weights[i])) << i;
  }
}

TEST_F(GpuTrain, GraphsSingleOperationsAndRecomputingGiveTheSameBits) {
  for (const char* recipe : {"bf16", "w4a4", "w1a1", "w4a16"}) {
    SCOPED_TRACE(recipe);
    TrainConfig c = config_for(recipe);
    const Steps expected = run_steps(c, 1, 6);
    EXPECT_LT(expected.losses.back(), expected.losses.front());
    for (const char* recompute : {"mlp", "block"}) {
      c.train.recompute = recompute;
      expect_equal(run_steps(c, 1, 6), expected);
    }
    c.train.recompute = "off";
    c.train.cuda_graphs = false;
    expect_equal(run_steps(c, 1, 6), expected);
  }
}

TEST_F(GpuTrain, MicroBatchesAddUpToTheBatch) {
  for (const char* recipe : {"bf16", "w4a4"}) {
    const Steps whole = run_steps(config_for(recipe), 1, 6);
    for (const bool graphs : {true, false}) {
      TrainConfig c = config_for(recipe);
      c.train.cuda_graphs = graphs;
      const Steps parts = run_steps(c, 4, 6);
      for (size_t s = 0; s < whole.losses.size(); ++s) {
        EXPECT_NEAR(parts.losses[s], whole.losses[s], 0.01 * whole.losses[s]) << recipe << s;
        EXPECT_NEAR(parts.norms[s], whole.norms[s], 0.05 * whole.norms[s]) << recipe << s;
      }
    }
  }
}

TEST_F(GpuTrain, Fp8BackwardStaysNearBf16) {
  if (!ops::gpu_has_fast_products()) GTEST_SKIP() << "FP8 row-wise products need a Hopper GPU";
  TrainConfig c = config_for("w4a4");
  const Steps expected = run_steps(c, 1, 10);
  c.train.backward = "fp8";
  std::set<double> norms;
  for (const bool hadamard : {false, true}) {
    for (const char* format : {"e4m3", "e5m2"}) {
      for (const char* rounding : {"nearest", "stochastic"}) {
        SCOPED_TRACE(fmt::format("{} {}{}", format, rounding, hadamard ? " rotated" : ""));
        c.train.gradient_format = format;
        c.train.gradient_rounding = rounding;
        c.train.gradient_hadamard = hadamard;
        const Steps got = run_steps(c, 1, 10);
        EXPECT_EQ(got.losses.front(), expected.losses.front());
        EXPECT_NE(got.norms.front(), expected.norms.front()) << "FP8 must have been used";
        EXPECT_NEAR(got.norms.front(), expected.norms.front(), 0.08 * expected.norms.front());
        EXPECT_NEAR(got.losses.back(), expected.losses.back(), 0.03 * expected.losses.back());
        norms.insert(got.norms.front());
        c.train.cuda_graphs = false;
        expect_equal(run_steps(c, 1, 10), got);
        c.train.cuda_graphs = true;
      }
    }
  }
  EXPECT_EQ(norms.size(), 8) << "each way must have been used";
}

TEST_F(GpuTrain, Fp8BackwardRefusesWhatE4m3CannotHold) {
  for (const char* recipe : {"bf16", "w8a8", "w4a16", "gauss3"}) {
    nn::LlamaModel model(small(), recipe_from_name(recipe), nn::ComputeType::kBFloat16, at::kCUDA);
    EXPECT_THROW(model.use_fp8_backward({}), Error) << recipe;
  }
}

TEST_F(GpuTrain, AStepThatIsNotFiniteChangesNothing) {
  TrainConfig c = config_for("w4a4");
  nn::LlamaModel model(small(), c.quant, nn::ComputeType::kBFloat16, at::kCUDA);
  model.init_weights(1);
  const auto optimizer = make_optimizer(c.optimizer, model.parameters());
  GpuStep gpu(model, *optimizer, c, 1);
  const auto step = [&](double weight) {
    gpu.micro_batch(batch_of(4, 32, 1), weight);
    gpu.finish(1e-3);
    gpu.apply();
    return gpu.take();
  };
  step(1.0);
  std::vector<at::Tensor> before;
  for (const auto& p : model.parameters()) before.push_back(p.tensor.detach().clone());
  const GpuStep::Result bad = step(std::numeric_limits<double>::quiet_NaN());
  EXPECT_FALSE(std::isfinite(bad.loss));
  EXPECT_EQ(optimizer->steps(), 1);
  const auto after = model.parameters();
  for (size_t i = 0; i < after.size(); ++i) {
    EXPECT_TRUE(at::equal(after[i].tensor.detach(), before[i])) << after[i].name;
  }
  EXPECT_TRUE(std::isfinite(step(1.0).loss));
  EXPECT_EQ(optimizer->steps(), 2);
}

TEST_F(GpuTrain, AStepThatIsJudgedAndLeftOutIsNotCounted) {
  for (const bool graphs : {true, false}) {
    TrainConfig c = config_for("w4a4");
    c.train.cuda_graphs = graphs;
    const auto run = [&](bool with_bad_step) {
      nn::LlamaModel model(small(), c.quant, nn::ComputeType::kBFloat16, at::kCUDA);
      model.init_weights(1);
      const auto optimizer = make_optimizer(c.optimizer, model.parameters());
      GpuStep gpu(model, *optimizer, c, 1);
      const auto step = [&](uint64_t seed, bool apply) {
        gpu.micro_batch(batch_of(4, 32, seed), 1.0);
        gpu.finish(1e-3);
        gpu.take();
        if (apply) gpu.apply();
      };
      step(1, true);
      if (with_bad_step) step(9, false);
      step(2, true);
      EXPECT_EQ(optimizer->steps(), 2);
      std::vector<at::Tensor> weights;
      for (const auto& p : model.parameters()) weights.push_back(p.tensor.detach().cpu());
      return weights;
    };
    const auto expected = run(false), got = run(true);
    for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(at::equal(got[i], expected[i])) << i;
  }
}

TEST_F(GpuTrain, TiedEmbeddingsAndUncountedTargetsTrainAsOnTheCpu) {
  LlamaConfig tied = small();
  tied.tie_word_embeddings = true;
  Batch b = batch_of(4, 32, 1);
  for (size_t i = 0; i < b.targets.size(); i += 3) b.targets[i] = kIgnoredTarget;
  TrainConfig c = config_for("w4a4");
  nn::LlamaModel cpu(tied, c.quant, nn::ComputeType::kBFloat16);
  nn::LlamaModel gpu(tied, c.quant, nn::ComputeType::kBFloat16, at::kCUDA);
  cpu.init_weights(1);
  gpu.init_weights(1);
  const auto on_cpu = make_optimizer(c.optimizer, cpu.parameters());
  const auto on_gpu = make_optimizer(c.optimizer, gpu.parameters());
  GpuStep step(gpu, *on_gpu, c, 1);
  for (int i = 0; i < 5; ++i) {
    cpu.zero_grad();
    const at::Tensor loss = cpu.loss(tensor_of(b.inputs, b), tensor_of(b.targets, b));
    loss.backward();
    const double norm = gradient_norm(cpu.parameters());
    clip_gradients(cpu.parameters(), norm, c.optimizer.clip_norm);
    on_cpu->step(1e-3);
    step.micro_batch(b, 1.0);
    step.finish(1e-3);
    step.apply();
    const GpuStep::Result r = step.take();
    EXPECT_NEAR(r.loss, loss.item<double>(), 0.005 * r.loss) << i;
    EXPECT_NEAR(r.gradient_norm, norm, 0.03 * norm) << i;
  }
}

TEST_F(GpuTrain, RecomputingGivesTheSameBitsForwardWithTheFasterAttentionToo) {
  prepare_gpu(/*deterministic=*/false);
  TrainConfig c = config_for("w4a4");
  const double expected = run_steps(c, 1, 1).losses.front();
  for (const char* recompute : {"mlp", "block"}) {
    c.train.recompute = recompute;
    const Steps got = run_steps(c, 1, 1);
    EXPECT_EQ(got.losses.front(), expected) << recompute;
  }
}

class GpuTrainer : public GpuTrain {
 protected:
  void SetUp() override {
    GpuTrain::SetUp();
    if (IsSkipped()) return;
    testing::write_tokens(folder_ / "train.qtok", testing::markov_text(40000, 1));
    testing::write_tokens(folder_ / "validation.qtok", testing::markov_text(2000, 2));
  }

  TrainConfig config(const std::string& name, const char* device, const char* recipe) const {
    TrainConfig c;
    c.run.name = name;
    c.run.folder = (folder_ / "runs").string();
    c.run.threads = 2;
    c.model.preset = "none";
    c.model.hidden_size = 128;
    c.model.num_layers = 2;
    c.model.num_heads = 4;
    c.model.vocab_size = 264;
    c.quant = recipe_from_name(recipe);
    c.data.train = folder_.path().string();
    c.data.tokenizer = "bytes";
    c.train.steps = 20;
    c.train.batch_size = 8;
    c.train.sequence_length = 64;
    c.train.device = device;
    c.train.deterministic = true;
    c.optimizer.lr = 1e-3;
    c.eval.every = 10;
    c.checkpoint.every = 10;
    c.checkpoint.minutes = 0;
    c.log.peak_tflops = 1;
    return c;
  }

  TrainOutcome train(const TrainConfig& c) {
    SingleProcess group;
    Trainer trainer(c, group);
    return trainer.run();
  }

  std::vector<double> losses(const TrainOutcome& outcome, const char* key = "loss") {
    std::vector<double> out;
    std::ifstream file(outcome.run / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json.contains(key)) out.push_back(json[key].get<double>());
    }
    return out;
  }

  testing::TemporaryFolder folder_;
};

TEST_F(GpuTrainer, TheFirstTwentyStepsAreThoseOfTheCpu) {
  for (const char* recipe : {"bf16", "w4a4", "w2a2", "w1a1"}) {
    const TrainOutcome cpu = train(config(fmt::format("cpu_{}", recipe), "cpu", recipe));
    const TrainOutcome gpu = train(config(fmt::format("gpu_{}", recipe), "cuda", recipe));
    const std::vector<double> a = losses(cpu), b = losses(gpu);
    ASSERT_EQ(a.size(), 20u);
    ASSERT_EQ(b.size(), 20u);
    for (size_t s = 0; s < a.size(); ++s) EXPECT_NEAR(b[s], a[s], 0.005 * a[s]) << recipe << s;
    EXPECT_LT(b.back(), 0.9 * b.front());
    const auto va = losses(cpu, "validation_loss"), vb = losses(gpu, "validation_loss");
    ASSERT_EQ(va.size(), vb.size());
    for (size_t s = 0; s < va.size(); ++s) EXPECT_NEAR(vb[s], va[s], 0.01 * va[s]) << recipe;
    const auto peak = gpu.summary["peak_gpu_memory_bytes"].get<int64_t>();
    EXPECT_GT(peak, 0);
    EXPECT_GE(gpu.summary["peak_gpu_reserved_bytes"].get<int64_t>(), peak);
  }
}

TEST_F(GpuTrainer, ResumedIsAsNeverStopped) {
  TrainConfig c = config("whole", "cuda", "w4a4");
  c.averaging.ema_decay = 0.9;
  const TrainOutcome whole = train(c);
  // The same run again from its checkpoint of step 10.
  const auto weights = whole.summary["weights_xxh3_128"];
  const auto curve = losses(whole);
  fs::remove_all(whole.run / "final");
  fs::remove(whole.run / "summary.json");
  fs::remove_all(whole.run / "checkpoints" / "step-00000020");
  ASSERT_TRUE(fs::exists(whole.run / "checkpoints" / "step-00000010" / "model.safetensors"));
  const TrainOutcome resumed = train(c);
  EXPECT_EQ(resumed.summary["weights_xxh3_128"], weights);
  EXPECT_EQ(losses(resumed), curve);
}

TEST_F(GpuTrainer, DiagnosticsChangeNothingAndAreThoseOfTheCpu) {
  const auto measured = [](const TrainOutcome& outcome) {
    std::vector<nlohmann::json> out;
    std::ifstream file(outcome.run / "metrics.jsonl");
    for (std::string line; std::getline(file, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json.contains("diagnostics")) out.push_back(json["diagnostics"]);
    }
    return out;
  };
  for (const char* recipe : {"bf16", "w4a4", "w1a1", "int4_4of8"}) {
    SCOPED_TRACE(recipe);
    TrainConfig c = config(recipe, "cuda", recipe);
    const TrainOutcome without = train(c);
    c.run.folder = (folder_ / "diagnosed").string();
    c.diagnostics.every = 10;
    const TrainOutcome with = train(c);
    EXPECT_EQ(with.summary["weights_xxh3_128"], without.summary["weights_xxh3_128"]);
    EXPECT_EQ(losses(with), losses(without));
    c.train.device = "cpu";
    const auto gpu = measured(with), cpu = measured(train(c));
    ASSERT_EQ(gpu.size(), 3u);
    ASSERT_EQ(cpu.size(), 3u);
    for (size_t k = 0; k < cpu[0]["layers"].size(); ++k) {
      const auto &a = cpu[0]["layers"][k]["weight"], &b = gpu[0]["layers"][k]["weight"];
      for (const char* exact : {"masked", "dead_codes", "code_use"}) {  // codes are, bit for bit
        EXPECT_EQ(a.value(exact, nlohmann::json()), b.value(exact, nlohmann::json())) << exact;
      }
      EXPECT_NEAR(a["kurtosis"].get<double>(), b["kurtosis"].get<double>(), 1e-4);
    }
    for (size_t part = 0; part < 4; ++part) {
      EXPECT_NEAR(gpu[0]["gradient_cosine"][part]["mean"].get<double>(),
                  cpu[0]["gradient_cosine"][part]["mean"].get<double>(), 0.01);
    }
    if (gpu[2].contains("masks_retained")) {
      EXPECT_NEAR(gpu[2]["masks_retained"][1]["retained"].get<double>(),
                  cpu[2]["masks_retained"][1]["retained"].get<double>(), 0.05);
    }
  }
}

TEST_F(GpuTrainer, OtherOptimizersAndGuardsWork) {
  for (const char* optimizer : {"sgd", "schedule_free_adamw"}) {
    TrainConfig c = config(optimizer, "cuda", "w4a4");
    c.optimizer.name = optimizer;
    c.optimizer.lr = optimizer == std::string("sgd") ? 0.1 : 2e-3;
    const auto l = losses(train(c));
    EXPECT_LT(l.back(), l.front()) << optimizer;
    c.train.device = "cpu";
    const auto on_cpu = losses(train(c));
    EXPECT_NEAR(l.back(), on_cpu.back(), 0.01 * on_cpu.back()) << optimizer;
  }
  TrainConfig c = config("judged", "cuda", "w4a4");
  c.guards.spike = "skip";  // the loss is waited for before the update
  const auto judged = losses(train(c));
  const auto plain = losses(train(config("plain", "cuda", "w4a4")));
  EXPECT_EQ(judged, plain) << "no spike: the same steps";
}

}  // namespace
}  // namespace quest::train
