// Speed of a whole training step on this CPU: zero gradients, loss, backward, clip, update, as
// `quest train` does them, on random tokens. Prints one JSON line.
//
//   train_cpu --preset 30M --quant w4a4 --compute bf16 --batch 4 --sequence 512 --steps 5
//   train_cpu --quant w4a4 --profile        # and where the time goes
#include "bench/train_cpu/profile.h"
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>
#include <random>
#include <string>
#include <sys/resource.h>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/record_function.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "quest/base/cpu_features.h"
#include "quest/base/error.h"
#include "quest/base/speed_of_light.h"
#include "quest/base/version.h"
#include "quest/nn/llama_model.h"
#include "quest/train/allocator.h"
#include "quest/train/optimizer.h"
#include "quest/train/train_config.h"

namespace quest::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct Options {
  std::string preset = "30M";
  std::string quant = "w4a4";
  std::string compute = "bf16";
  int64_t vocabulary = 32000;
  int64_t batch = 4;
  int64_t sequence = 512;
  int64_t steps = 5;
  int64_t warmup = 2;
  int threads = 0;
  uint64_t seed = 0;
  bool profile = false;
};

void add_options(CLI::App& app, Options& options) {
  const CLI::Range at_least_one(1.0, 1e9, "1 and more");
  app.add_option("--preset", options.preset, "model size: 30M, 50M, ...");
  app.add_option("--quant", options.quant, "recipe: bf16, w4a4, w1a1, ...");
  app.add_option("--compute", options.compute, "compute type")
      ->check(CLI::IsMember({"bf16", "fp32"}));
  app.add_option("--vocabulary", options.vocabulary, "tokens of the vocabulary")
      ->check(at_least_one);
  app.add_option("--batch", options.batch, "sequences of a step")->check(at_least_one);
  app.add_option("--sequence", options.sequence, "tokens of a sequence")->check(at_least_one);
  app.add_option("--steps", options.steps, "timed steps")->check(at_least_one);
  app.add_option("--warmup", options.warmup, "steps before")->check(CLI::NonNegativeNumber);
  app.add_option("--threads", options.threads, "0: LibTorch's choice")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--seed", options.seed, "of weights and tokens");
  app.add_flag("--profile", options.profile, "print where the time of the timed steps goes");
}

// (B, T + 1) int64
at::Tensor random_tokens(const Options& options) {
  at::Tensor tokens = at::empty({options.batch, options.sequence + 1}, at::kLong);
  std::mt19937_64 random(options.seed);
  std::uniform_int_distribution<int64_t> token(0, options.vocabulary - 1);
  std::generate_n(tokens.data_ptr<int64_t>(), tokens.numel(), [&] { return token(random); });
  return tokens;
}

// One optimizer step as train::Trainer takes it (trainer.cpp), without data and guards.
double step(nn::LlamaModel& model, train::Optimizer& optimizer,
            const train::TrainConfig::Optimizer& settings, const at::Tensor& inputs,
            const at::Tensor& targets) {
  {
    RECORD_USER_SCOPE("step::zero_grad");
    model.zero_grad();
  }
  at::Tensor loss;
  {
    RECORD_USER_SCOPE("step::forward");
    loss = model.loss(inputs, targets);
  }
  {
    RECORD_USER_SCOPE("step::backward");
    loss.backward();
  }
  {
    RECORD_USER_SCOPE("step::clip");
    const std::vector<nn::NamedParameter> parameters = model.parameters();
    train::clip_gradients(parameters, train::gradient_norm(parameters), settings.clip_norm);
  }
  RECORD_USER_SCOPE("step::optimizer");
  optimizer.step(settings.lr);
  return loss.item<double>();
}

struct Timing {
  std::vector<double> seconds;  // of each timed step
  double first_loss = 0, last_loss = 0;
  int64_t parameters = 0;
  double flops_per_token = 0;
  std::string profile;  // empty unless asked for
};

Timing time_steps(const Options& options, const train::TrainConfig& config) {
  const LlamaConfig shape = train::resolve_model(config, options.vocabulary);
  nn::LlamaModel model(shape, config.quant, nn::compute_type_from_name(options.compute));
  model.init_weights(options.seed);
  const auto optimizer = train::make_optimizer(config.optimizer, model.parameters());
  const at::Tensor tokens = random_tokens(options);
  const at::Tensor inputs = tokens.narrow(1, 0, options.sequence).contiguous();
  const at::Tensor targets = tokens.narrow(1, 1, options.sequence).contiguous();
  Timing timing;
  timing.parameters = shape.parameters();
  timing.flops_per_token = shape.training_flops_per_token(options.sequence);
  std::optional<StepProfile> profile;
  for (int64_t i = 0; i < options.warmup + options.steps; ++i) {
    if (options.profile && i == options.warmup) profile.emplace();
    const Clock::time_point start = Clock::now();
    const double loss = step(model, *optimizer, config.optimizer, inputs, targets);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    if (i == 0) timing.first_loss = loss;
    timing.last_loss = loss;
    if (i >= options.warmup) timing.seconds.push_back(seconds);
  }
  if (profile) timing.profile = profile->text(options.steps);
  return timing;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

int64_t peak_rss_bytes() {
  struct rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

nlohmann::ordered_json report(const Options& options, const train::TrainConfig& config,
                              const Timing& timing) {
  std::vector<double> rates;
  for (const double seconds : timing.seconds) {
    rates.push_back(static_cast<double>(options.batch * options.sequence) / seconds);
  }
  const int64_t rss = peak_rss_bytes();  // before the probes, which use memory of their own
  const ComputeType type = options.compute == "bf16" ? ComputeType::kBf16 : ComputeType::kFp32;
  const double peak = measure_cpu_ceilings(at::get_num_threads()).flops(type);
  return {{"program", "quest"},
          {"quant", config.quant.name},
          {"compute", options.compute},
          {"tokens_per_second", median(rates)},
          {"least", *std::min_element(rates.begin(), rates.end())},
          {"most", *std::max_element(rates.begin(), rates.end())},
          {"mfu", median(rates) * timing.flops_per_token / peak},
          {"peak_flops", peak},
          {"peak_rss_bytes", rss},
          {"parameters", timing.parameters},
          {"batch", options.batch},
          {"sequence", options.sequence},
          {"steps", options.steps},
          {"threads", at::get_num_threads()},
          {"first_loss", timing.first_loss},
          {"last_loss", timing.last_loss},
          {"cpu", cpu_features().model_name},
          {"isa", isa_level_name(isa_level())},
          {"version", version_text()}};
}

void run(const Options& options) {
  train::keep_freed_memory();
  if (options.threads > 0) at::set_num_threads(options.threads);
  train::TrainConfig config;
  config.model.preset = options.preset;
  config.model.vocab_size = options.vocabulary;
  config.model.max_position_embeddings = options.sequence;
  config.train.sequence_length = options.sequence;
  config.train.compute_type = options.compute;
  config.quant = recipe_from_name(options.quant);
  const Timing timing = time_steps(options, config);
  if (!timing.profile.empty()) fmt::print("{}\n", timing.profile);
  fmt::print("{}\n", report(options, config, timing).dump());
}

}  // namespace
}  // namespace quest::bench

int main(int argc, char** argv) {
  CLI::App app{"Speed of a training step on this CPU; prints one JSON line"};
  quest::bench::Options options;
  quest::bench::add_options(app, options);
  try {
    app.parse(argc, argv);
    quest::bench::run(options);
    return 0;
  } catch (const CLI::ParseError& error) {
    return app.exit(error);
  } catch (const quest::Error& error) {
    fmt::print(stderr, "train_cpu: {}\n", error.what());
    return quest::exit_code(error.kind());
  } catch (const std::exception& error) {
    fmt::print(stderr, "train_cpu: {}\n", error.what());
    return 1;
  }
}
