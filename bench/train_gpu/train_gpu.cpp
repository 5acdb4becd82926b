// Speed of a whole training step on the GPU as `quest train --device cuda` takes it (gpu_step.h):
// upload, forward, backward, norm, clipping, update, on random tokens. Prints one JSON line.
//
//   train_gpu --model 800M --batch 32 --recipe w4a4 --steps 20
//   train_gpu --model 800M --recipe w4a4 --profile profile.md     # and the time of each kernel
#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <c10/cuda/CUDAFunctions.h>
#include <nlohmann/json.hpp>
#include <torch/csrc/autograd/profiler_kineto.h>

#include "quest/base/error.h"
#include "quest/base/version.h"
#include "quest/nn/llama_model.h"
#include "quest/ops/gpu.h"
#include "quest/ops/quant_linear.h"
#include "quest/train/gpu_step.h"
#include "quest/train/optimizer.h"
#include "quest/train/train_config.h"

namespace quest::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string model = "800M";
  std::string recipe = "w4a4";
  std::string backward = "bf16";
  std::string recompute = "off";
  int64_t vocabulary = 32000;
  int64_t batch = 32;
  int64_t micro_batch = 0;
  int64_t sequence = 512;
  int64_t steps = 10;
  int64_t warmup = 3;
  double lr = 1.2e-3;
  uint64_t seed = 0;
  bool gradient_hadamard = false;
  bool no_graphs = false;
  bool deterministic = false;
  std::string profile;
};

void add_options(CLI::App& app, Options& o) {
  const CLI::Range at_least_one(1.0, 1e9, "1 and more");
  app.add_option("--model", o.model, "model size: 30M, 50M, ... 1.6B");
  app.add_option("--recipe", o.recipe, "recipe: bf16, w4a4, w1a1, ...");
  app.add_option("--backward", o.backward, "type of the backward products");
  app.add_flag("--gradient-hadamard", o.gradient_hadamard, "with --backward fp8: rotate first");
  app.add_option("--recompute", o.recompute, "what is computed again in the backward pass");
  app.add_option("--vocabulary", o.vocabulary, "tokens of the vocabulary")->check(at_least_one);
  app.add_option("--batch", o.batch, "sequences of a step")->check(at_least_one);
  app.add_option("--micro-batch", o.micro_batch, "sequences of a forward pass; 0: the batch");
  app.add_option("--seq", o.sequence, "tokens of a sequence")->check(at_least_one);
  app.add_option("--steps", o.steps, "timed steps")->check(at_least_one);
  app.add_option("--warmup", o.warmup, "steps before")->check(at_least_one);
  app.add_option("--lr", o.lr, "learning rate")->check(CLI::PositiveNumber);
  app.add_option("--seed", o.seed, "of weights and tokens");
  app.add_flag("--no-graphs", o.no_graphs, "start every operation from the host");
  app.add_flag("--deterministic", o.deterministic, "the same bits every time");
  app.add_option("--profile", o.profile, "write the time of each kernel of three more steps");
}

train::TrainConfig config_of(const Options& o) {
  train::TrainConfig config;
  const auto set = [&](const char* key, const std::string& value) {
    train::apply_setting(config, key, value);
  };
  set("model.preset", o.model);
  set("quant.recipe", o.recipe);
  set("train.steps", "1000");
  set("train.batch_size", fmt::format("{}", o.batch));
  set("train.micro_batch_size", fmt::format("{}", o.micro_batch));
  set("train.sequence_length", fmt::format("{}", o.sequence));
  set("train.device", "cuda");
  set("optimizer.lr", fmt::format("{}", o.lr));
  set("train.cuda_graphs", o.no_graphs ? "false" : "true");
  set("train.deterministic", o.deterministic ? "true" : "false");
  if (o.backward != "bf16") set("train.backward", o.backward);
  if (o.gradient_hadamard) set("train.gradient_hadamard", "true");
  if (o.recompute != "off") set("train.recompute", o.recompute);
  train::finish_config(config);
  return config;
}

std::vector<Batch> random_batches(const Options& o, int64_t micro_batch) {
  std::mt19937_64 random(o.seed);
  std::uniform_int_distribution<int32_t> token(0, static_cast<int32_t>(o.vocabulary) - 1);
  std::vector<Batch> batches(static_cast<size_t>(o.batch / micro_batch));
  for (Batch& b : batches) {
    b.batch = micro_batch;
    b.sequence_length = o.sequence;
    b.inputs.resize(static_cast<size_t>(micro_batch * o.sequence));
    b.targets.resize(b.inputs.size());
    std::generate(b.inputs.begin(), b.inputs.end(), [&] { return token(random); });
    std::generate(b.targets.begin(), b.targets.end(), [&] { return token(random); });
  }
  return batches;
}

// Milliseconds of each kernel over `steps` steps, the largest first, as a Markdown table.
std::string kernel_table(torch::autograd::profiler::ProfilerResult& result, int64_t steps) {
  struct Sum {
    double ms = 0;
    int64_t calls = 0;
  };
  std::map<std::string, Sum> sums;
  double all = 0;
  for (const auto& event : result.events()) {
    if (event.deviceType() != c10::DeviceType::CUDA) continue;
    std::string name = event.name();
    if (name.size() > 160) name.resize(160);
    Sum& sum = sums[name];
    sum.ms += static_cast<double>(event.durationNs()) * 1e-6;
    sum.calls += 1;
    all += static_cast<double>(event.durationNs()) * 1e-6;
  }
  std::vector<std::pair<std::string, Sum>> sorted(sums.begin(), sums.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.second.ms > b.second.ms; });
  std::string out = "| ms a step | % | calls a step | kernel |\n|---|---|---|---|\n";
  const auto n = static_cast<double>(steps);
  for (const auto& [name, sum] : sorted) {
    out += fmt::format("| {:.3f} | {:.1f} | {:.1f} | `{}` |\n", sum.ms / n, 100 * sum.ms / all,
                       static_cast<double>(sum.calls) / n, name);
  }
  return out + fmt::format("\nSum: {:.2f} ms a step.\n", all / n);
}

void profile_steps(const std::string& file, const std::function<void()>& step) {
  namespace profiler = torch::autograd::profiler;
  constexpr int64_t kSteps = 3;
  const std::set<torch::profiler::impl::ActivityType> activities = {
      torch::profiler::impl::ActivityType::CUDA};
  const torch::profiler::impl::ProfilerConfig settings(
      torch::profiler::impl::ProfilerState::KINETO);
  profiler::prepareProfiler(settings, activities);
  profiler::enableProfiler(settings, activities);
  for (int64_t i = 0; i < kSteps; ++i) step();
  c10::cuda::device_synchronize();  // the last update is under way
  const auto result = profiler::disableProfiler();
  std::ofstream out(file);
  out << kernel_table(*result, kSteps);
  QUEST_CHECK(out.good(), ErrorKind::kIo, "{}: cannot be written", file);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void run(const Options& o) {
  const train::TrainConfig config = config_of(o);
  train::prepare_gpu(o.deterministic);
  const LlamaConfig shape = train::resolve_model(config, o.vocabulary);
  nn::LlamaModel model(shape, config.quant, nn::ComputeType::kBFloat16, at::kCUDA);
  model.init_weights(o.seed);
  if (o.backward == "fp8") model.use_fp8_backward({.hadamard = o.gradient_hadamard});
  model.set_recompute(nn::recompute_from_name(o.recompute));
  const auto optimizer = train::make_optimizer(config.optimizer, model.parameters());
  const int64_t micro = o.micro_batch > 0 ? o.micro_batch : o.batch;
  const std::vector<Batch> batches = random_batches(o, micro);
  train::GpuStep gpu(model, *optimizer, config, static_cast<int64_t>(batches.size()));
  const auto enqueue = [&] {
    for (const Batch& b : batches) gpu.micro_batch(b, 1.0 / static_cast<double>(batches.size()));
    gpu.finish(config.optimizer.lr);
    gpu.apply();
  };
  std::vector<double> losses;
  const auto take = [&] { losses.push_back(gpu.take().loss); };
  for (int64_t i = 0; i < o.warmup; ++i) {
    enqueue();
    take();
  }
  // One step ahead of the results, as the trainer is; a step's time is that between two results.
  std::vector<double> ms;
  Clock::time_point last = Clock::now();
  enqueue();
  for (int64_t i = 0; i < o.steps; ++i) {
    if (i + 1 < o.steps) enqueue();
    take();
    const Clock::time_point now = Clock::now();
    ms.push_back(1e3 * std::chrono::duration<double>(now - last).count());
    last = now;
  }
  const int64_t peak = train::gpu_peak_bytes(), reserved = train::gpu_peak_reserved_bytes();
  if (!o.profile.empty()) {
    profile_steps(o.profile, [&] {
      enqueue();
      take();
    });
  }
  const double step_ms = median(ms);
  const double tokens = static_cast<double>(o.batch * o.sequence) / step_ms * 1e3;
  const nlohmann::ordered_json line = {
      {"program", "quest"},
      {"version", version_text()},
      {"model", o.model},
      {"batch", o.batch},
      {"micro_batch", micro},
      {"seq", o.sequence},
      {"method", o.recipe},
      {"backward", o.backward},
      {"recompute", o.recompute},
      {"graphs", !o.no_graphs},
      {"deterministic", o.deterministic},
      {"plan", ops::product_plan_text(config.quant, shape.hidden_size, shape.hidden_size,
                                      at::kBFloat16, at::kCUDA)},
      {"steps", o.steps},
      {"parameters", shape.parameters()},
      {"ms_per_step", step_ms},
      {"ms_least", *std::min_element(ms.begin(), ms.end())},
      {"ms_most", *std::max_element(ms.begin(), ms.end())},
      {"tokens_per_second", tokens},
      {"tflops", tokens * shape.training_flops_per_token(o.sequence) * 1e-12},
      {"peak_memory_bytes", peak},
      {"peak_reserved_bytes", reserved},
      {"loss_first", losses.front()},
      {"loss_last", losses.back()},
      {"gpu", ops::gpu_description()},
  };
  fmt::print("{}\n", line.dump());
}

}  // namespace
}  // namespace quest::bench

int main(int argc, char** argv) {
  CLI::App app("Speed of a training step on the GPU");
  quest::bench::Options options;
  quest::bench::add_options(app, options);
  CLI11_PARSE(app, argc, argv);
  try {
    quest::bench::run(options);
  } catch (const quest::Error& error) {
    fmt::print(stderr, "train_gpu: {}\n", error.what());
    return quest::exit_code(error.kind());
  } catch (const std::exception& error) {
    fmt::print(stderr, "train_gpu: {}\n", error.what());
    return 1;
  }
  return 0;
}
