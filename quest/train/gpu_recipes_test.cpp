// Every recipe that the program lists, on a GPU against the CPU: loss, logits, gradients and steps
// of a whole model. Skipped where no GPU can be used.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include "quest/quant/testing_recipes.h"
#include "quest/train/gpu_step.h"
#include "quest/train/optimizer.h"
#include "quest/train/testing_gpu_train.h"

namespace quest::train {
namespace {

using nn::ComputeType;
using testing::batch_of;
using testing::GpuTrain;
using testing::relative;
using testing::small;
using testing::tensor_of;

// What one forward and backward pass gives.
struct Pass {
  double loss = 0;
  at::Tensor logits;
  std::vector<at::Tensor> gradients;
  at::Tensor of_quantizers;  // all that quantizers learn, in one: some alone are nearly zero
};

Pass pass(const QuantRecipe& recipe, int64_t kv_heads, ComputeType compute, at::Device device) {
  const Batch b = batch_of(4, 32, 1);
  const at::Tensor inputs = tensor_of(b.inputs, b), targets = tensor_of(b.targets, b);
  nn::LlamaModel model(small(kv_heads), recipe, compute, device);
  model.init_weights(1);
  model.begin_quantizers(inputs);
  const at::Tensor loss = model.loss(inputs, targets);
  loss.backward();
  Pass out{loss.item<double>(), model.logits(inputs), {}, {}};
  std::vector<at::Tensor> learned;
  for (const nn::NamedParameter& p : model.parameters()) {
    (p.of_quantizer ? learned : out.gradients).push_back(p.tensor.grad().cpu().flatten());
  }
  if (!learned.empty()) out.of_quantizers = at::cat(learned);
  return out;
}

double largest_distance(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  double largest = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double distance = relative(a[i], b[i]);
    if (std::isnan(distance)) return distance;
    largest = std::max(largest, distance);
  }
  return largest;
}

struct Distances {
  double loss = 0, logits = 0, gradients = 0, of_quantizers = 0;
};

Distances distances(const Pass& a, const Pass& b) {
  const bool learns = b.of_quantizers.defined();
  EXPECT_EQ(a.of_quantizers.defined(), learns);
  return {std::abs(a.loss - b.loss), relative(a.logits, b.logits),
          largest_distance(a.gradients, b.gradients),
          learns ? relative(a.of_quantizers, b.of_quantizers) : 0.0};
}

// Rounding decides codes, and a code decides others further on; how far that goes differs by
// recipe. So the GPU may differ from the CPU as the CPU in one compute type does from itself in a
// better one, and a little more.
void compare(const QuantRecipe& recipe, int64_t kv_heads) {
  const Pass fp64 = pass(recipe, kv_heads, ComputeType::kFloat64, at::kCPU);
  const Pass fp32 = pass(recipe, kv_heads, ComputeType::kFloat32, at::kCPU);
  const Pass bf16 = pass(recipe, kv_heads, ComputeType::kBFloat16, at::kCPU);
  const Distances fine = distances(fp32, fp64), coarse = distances(bf16, fp32);
  const auto check = [&](ComputeType compute, const Pass& cpu, double of_coarse) {
    const Distances d = distances(pass(recipe, kv_heads, compute, at::kCUDA), cpu);
    const auto limit = [&](double Distances::*of, double least) {
      return least + 1.5 * fine.*of + of_coarse * coarse.*of;
    };
    const std::string what = fmt::format("{} kv {} {}", recipe.name, kv_heads,
                                         compute == ComputeType::kFloat32 ? "fp32" : "bf16");
    EXPECT_LE(d.loss, limit(&Distances::loss, 5e-3)) << what;
    EXPECT_LE(d.logits, limit(&Distances::logits, 0.02)) << what;
    EXPECT_LE(d.gradients, limit(&Distances::gradients, 0.05)) << what;
    EXPECT_LE(d.of_quantizers, limit(&Distances::of_quantizers, 0.05)) << what;
  };
  check(ComputeType::kFloat32, fp32, 0.25);
  check(ComputeType::kBFloat16, bf16, 1.5);
}

TEST_F(GpuTrain, EveryRecipeGivesTheLossAndTheGradientsOfTheCpu) {
  for (const std::string& name : testing::recipes_of_all_patterns()) {
    compare(recipe_from_name(name), 4);
  }
}

// With two query heads per key-value head the first token's attention is the same twice, so that
// the transform of o_proj's input has exact zeros, where the last bit decides codes.
TEST_F(GpuTrain, SharedKeyValueHeadsGiveTheLossAndTheGradientsOfTheCpu) {
  for (const char* name : {"bf16", "w1a1", "w2a2", "w3a3", "w4a4", "w6a6", "w8a8", "w4a8", "w4a16",
                           "ternary", "fp4", "int4_4of8", "gauss3", "w4a4_nohadamard", "bitnet",
                           "w4a4_lsq_plus", "w4a4_pact_hadamard", "w2a16_paretoq"}) {
    compare(recipe_from_name(name), 2);
  }
}

// From the cache: a prompt, single tokens, and pieces, which attention takes in different ways.
TEST_F(GpuTrain, DecodedLogitsAreThoseOfTheWholeText) {
  const Batch b = batch_of(2, 32, 1);
  const at::Tensor tokens = tensor_of(b.inputs, b);
  for (const int64_t kv_heads : {4, 2}) {
    for (const ComputeType compute : {ComputeType::kFloat32, ComputeType::kBFloat16}) {
      nn::LlamaModel model(small(kv_heads), recipe_from_name("bf16"), compute, at::kCUDA);
      model.init_weights(1);
      const at::Tensor whole = model.logits(tokens);
      nn::KvState state(small().num_layers);
      for (const int64_t n : {5, 1, 1, 7, 1, 17}) {
        const at::Tensor last = model.decode(tokens.narrow(1, state.length(), n), state);
        EXPECT_LT(relative(last, whole.select(1, state.length() - 1)),
                  compute == ComputeType::kFloat32 ? 1e-3 : 0.05)
            << "kv " << kv_heads << " after " << state.length();
      }
      EXPECT_EQ(state.length(), 32);
      EXPECT_GT(relative(whole.select(1, 30), whole.select(1, 31)), 0.3) << "another position";
    }
  }
}

struct Step {
  double loss, norm;
};

TrainConfig config_of(const QuantRecipe& recipe) {
  TrainConfig config;
  config.quant = recipe;
  config.train.device = "cuda";
  return config;
}

constexpr int kSteps = 3;
constexpr double kRate = 1e-3;

std::vector<Step> steps_on_cpu(const TrainConfig& config) {
  nn::LlamaModel model(small(), config.quant, ComputeType::kBFloat16);
  model.init_weights(1);
  const auto optimizer = make_optimizer(config.optimizer, model.parameters());
  std::vector<Step> steps;
  for (int s = 0; s < kSteps; ++s) {
    const Batch b = batch_of(4, 32, static_cast<uint64_t>(s));
    const at::Tensor inputs = tensor_of(b.inputs, b);
    if (s == 0) model.begin_quantizers(inputs);
    model.zero_grad();
    const at::Tensor loss = model.loss(inputs, tensor_of(b.targets, b));
    loss.backward();
    const double norm = gradient_norm(model.parameters());
    clip_gradients(model.parameters(), norm, config.optimizer.clip_norm);
    optimizer->step(kRate);
    steps.push_back({loss.item<double>(), norm});
  }
  return steps;
}

std::vector<Step> steps_on_gpu(const TrainConfig& config) {
  nn::LlamaModel model(small(), config.quant, ComputeType::kBFloat16, at::kCUDA);
  model.init_weights(1);
  const auto optimizer = make_optimizer(config.optimizer, model.parameters());
  GpuStep gpu(model, *optimizer, config, 1);
  std::vector<Step> steps;
  for (int s = 0; s < kSteps; ++s) {
    const Batch b = batch_of(4, 32, static_cast<uint64_t>(s));
    if (s == 0) model.begin_quantizers(tensor_of(b.inputs, b));
    gpu.micro_batch(b, 1.0);
    gpu.finish(kRate);
    gpu.apply();
    const GpuStep::Result r = gpu.take();
    steps.push_back({r.loss, r.gradient_norm});
  }
  return steps;
}

// One recipe of every pattern: recorded as a CUDA graph, as single operations, and on the CPU.
TEST_F(GpuTrain, StepsOfEveryKindOfRecipeAreThoseOfTheCpu) {
  for (const RecipeHelp& help : recipe_names()) {
    const std::vector<std::string> names = testing::recipes_of(help.pattern);
    const std::string& name = names[names.size() / 2];
    SCOPED_TRACE(help.pattern + ": " + name);
    TrainConfig config = config_of(recipe_from_name(name));
    const std::vector<Step> graphs = steps_on_gpu(config);
    config.train.cuda_graphs = false;
    const std::vector<Step> single = steps_on_gpu(config), cpu = steps_on_cpu(config);
    for (size_t s = 0; s < cpu.size(); ++s) {
      EXPECT_EQ(graphs[s].loss, single[s].loss) << s;
      EXPECT_EQ(graphs[s].norm, single[s].norm) << s;
      EXPECT_NEAR(graphs[s].loss, cpu[s].loss, 0.01 * cpu[s].loss) << s;
      EXPECT_NEAR(graphs[s].norm, cpu[s].norm, 0.1 * cpu[s].norm) << s;
    }
  }
}

TEST_F(GpuTrain, Fp32WithoutQuantizersIsExact) {
  const Batch b = batch_of(4, 32, 1);
  const at::Tensor inputs = tensor_of(b.inputs, b), targets = tensor_of(b.targets, b);
  for (const int64_t kv_heads : {4, 2}) {
    nn::LlamaModel cpu(small(kv_heads), recipe_from_name("bf16"), ComputeType::kFloat32);
    nn::LlamaModel gpu(small(kv_heads), recipe_from_name("bf16"), ComputeType::kFloat32, at::kCUDA);
    cpu.init_weights(1);
    gpu.init_weights(1);
    EXPECT_LT(relative(gpu.logits(inputs), cpu.logits(inputs)), 1e-5) << kv_heads;
    cpu.loss(inputs, targets).backward();
    gpu.loss(inputs, targets).backward();
    const auto pa = cpu.parameters(), pg = gpu.parameters();
    for (size_t i = 0; i < pa.size(); ++i) {
      EXPECT_LT(relative(pg[i].tensor.grad(), pa[i].tensor.grad()), 1e-5) << pa[i].name;
    }
  }
}

}  // namespace
}  // namespace quest::train
