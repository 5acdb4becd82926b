// How a run sets out: data, model, and the state it begins or goes on from.
#include <algorithm>

#include <ATen/Parallel.h>

#include "quest/base/checksum.h"
#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/base/speed_of_light.h"
#include "quest/base/thread_pool.h"
#include "quest/ops/gpu.h"
#include "quest/ops/gpu_errors.h"
#include "quest/train/source_model.h"
#include "quest/train/trainer.h"
#include "quest/train/weights.h"

namespace quest::train {

namespace fs = std::filesystem;
namespace {

// Steps that steps, tokens or epochs ask for; at least one.
int64_t total_steps(const TrainConfig::Train& train, int64_t windows_per_epoch) {
  if (train.steps > 0) return train.steps;
  const int64_t per_step = train.batch_size * train.sequence_length;
  if (train.tokens > 0) return (train.tokens + per_step - 1) / per_step;
  const double steps =
      train.epochs * static_cast<double>(windows_per_epoch) / static_cast<double>(train.batch_size);
  return std::max<int64_t>(1, static_cast<int64_t>(steps));
}

double peak_flops_of(const TrainConfig& config) {
  if (config.log.peak_tflops > 0) return config.log.peak_tflops * 1e12;
  const bool bf16 = config.train.compute_type == "bf16";
  if (config.train.device == "cuda") return measure_gpu_flops(bf16);
  return measure_cpu_flops(at::get_num_threads())
      .flops(bf16 ? ComputeType::kBf16 : ComputeType::kFp32);
}

}  // namespace

Trainer::Trainer(TrainConfig config, ProcessGroup& group)
    : config_(std::move(config)), group_(group), program_bytes_(anonymous_bytes()) {
  finish_config(config_);
  at::set_num_threads(config_.run.threads > 0 ? static_cast<int>(config_.run.threads)
                                              : default_thread_count());
  open_data();
  make_model();
}

void Trainer::open_data() {
  const auto& train = config_.train;
  const int64_t per_rank = train.batch_size / group_.size();
  QUEST_CHECK(train.batch_size % group_.size() == 0, ErrorKind::kUsage,
              "train.batch_size {} is no multiple of the {} ranks", train.batch_size,
              group_.size());
  const int64_t micro = train.micro_batch_size > 0 ? train.micro_batch_size : per_rank;
  QUEST_CHECK(per_rank % micro == 0, ErrorKind::kUsage,
              "train.micro_batch_size {} does not divide a rank's share of the batch, {}", micro,
              per_rank);
  accumulation_ = per_rank / micro;

  paths_ = resolve_data(config_.data);
  std::vector<TokenFile> files;
  for (const fs::path& path : paths_.train) files.push_back(TokenFile::open(path));
  tokenizer_ = load_tokenizer(paths_.tokenizer);
  const auto check_tokenizer = [&](const TokenFile& file) {
    QUEST_CHECK(file.info().tokenizer_fingerprint == tokenizer_->fingerprint(), ErrorKind::kData,
                "{} was made with another tokenizer ({}) than {} ({}); name the one it was "
                "made with (data.tokenizer), or make the token file with this one (quest data)",
                file.path().string(), file.info().tokenizer_fingerprint, paths_.tokenizer.string(),
                tokenizer_->fingerprint());
  };
  std::string identity;
  for (const TokenFile& file : files) {
    check_tokenizer(file);
    identity += fmt::format("{:016x} {} ", file.info().data_checksum, file.token_count());
  }
  data_fingerprint_ = checksum128_hex(identity);
  if (!paths_.validation.empty()) {
    validation_ = TokenFile::open(paths_.validation);
    check_tokenizer(*validation_);
  }
  DataLoaderOptions options;
  options.batch = micro;
  options.sequence_length = train.sequence_length;
  options.seed = static_cast<uint64_t>(config_.run.seed);
  options.rank = group_.rank();
  options.world = group_.size();
  options.shuffle = config_.data.shuffle;
  options.mask_document_starts = config_.data.mask_document_starts;
  loader_ = std::make_unique<DataLoader>(std::move(files), options);
  schedule_.emplace(config_.schedule, config_.optimizer.lr,
                    total_steps(train, loader_->windows_per_epoch()));
}

void Trainer::make_model() {
  adopt_source_model(config_);
  const bool on_gpu = config_.train.device == "cuda";
  if (on_gpu) {
    prepare_gpu(config_.train.deterministic);
    QUEST_CHECK(group_.size() == 1, ErrorKind::kUsage,
                "train.device cuda with {} ranks: this version trains on one GPU", group_.size());
  }
  LlamaConfig shape = resolve_model(config_, tokenizer_->vocab_size());
  shape.bos_token_id = tokenizer_->bos_id().value_or(-1);
  shape.eos_token_id = tokenizer_->eos_id().value_or(-1);
  QUEST_CHECK(config_.optimizer.name != "schedule_free_adamw" ||
                  (config_.averaging.ema_decay == 0 && config_.averaging.horizon == 0),
              ErrorKind::kUsage,
              "optimizer.name is schedule_free_adamw, which averages by itself: set "
              "averaging.ema_decay and averaging.horizon to 0");
  const at::Device device = on_gpu ? at::kCUDA : at::kCPU;
  ops::with_gpu_errors(device, "weights and optimizer state alone do not fit", [&] {
    model_ = std::make_unique<nn::LlamaModel>(
        shape, config_.quant, nn::compute_type_from_name(config_.train.compute_type), device);
    optimizer_ = make_optimizer(config_.optimizer, model_->parameters());
    averages_ = std::make_unique<WeightAverages>(config_.averaging, model_->parameters());
  });
  guards_.emplace(config_.guards);
  if (config_.train.backward == "fp8") {
    model_->use_fp8_backward({.e5m2 = config_.train.gradient_format == "e5m2",
                              .by_chance = config_.train.gradient_rounding == "stochastic",
                              .hadamard = config_.train.gradient_hadamard});
  }
  model_->set_recompute(nn::recompute_from_name(config_.train.recompute));
  if (config_.diagnostics.every > 0) {
    const TokenFile& file = validation_ ? *validation_ : loader_->files().front();
    diagnostics_ = std::make_unique<Diagnostics>(*model_, file, config_);
  }
  if (on_gpu) {
    gpu_step_ = std::make_unique<GpuStep>(*model_, *optimizer_, config_, accumulation_);
  }
}

RunPlan Trainer::plan() const {
  int64_t tokens = 0;
  for (const TokenFile& file : loader_->files()) tokens += file.token_count();
  const MemoryPlan memory = make_memory_plan(config_, model_->config(), loader_->options().batch,
                                             program_bytes_, validation_ ? validation_rows() : 0);
  return make_plan(config_, model_->config(), memory, schedule_->total_steps(), tokens,
                   peak_flops_of(config_), gpu_step_ ? ops::gpu_facts().memory_bytes : 0);
}

CheckpointParts Trainer::parts() {
  return {*model_,           *optimizer_, *averages_, *tokenizer_, config_to_toml(config_),
          diagnostics_.get()};
}

void Trainer::restore_or_begin(const RunFolder& folder, bool must_resume) {
  peak_flops_ = peak_flops_of(config_);
  const CheckpointScan scan = find_checkpoints(folder.path());
  for (const std::string& broken : scan.broken) {
    log::warn("checkpoint left aside: {}", broken);
  }
  if (!scan.valid.empty()) {
    resume(scan.valid.front());
  } else {
    QUEST_CHECK(scan.broken.empty(), ErrorKind::kData,
                "no checkpoint in {} is whole; remove the folder to begin anew",
                folder.path().string());
    QUEST_CHECK(!must_resume, ErrorKind::kUsage, "{} has no checkpoint to resume from",
                folder.path().string());
    if (!config_.run.parent.empty()) {
      begin_from_parent();
    } else if (!config_.run.init.empty()) {
      load_weights(*model_, config_.run.init);
      log::info("weights of {}", config_.run.init);
    } else {
      model_->init_weights(static_cast<uint64_t>(config_.run.seed));
    }
    begin_quantizers();
  }
  state_.config_hash = config_hash(config_);
  state_.data_fingerprint = data_fingerprint_;
  state_.parent = config_.run.parent;
  QUEST_CHECK(state_.step <= schedule_->total_steps(), ErrorKind::kUsage,
              "{} is at step {}, beyond the {} steps of this configuration", folder.path().string(),
              state_.step, schedule_->total_steps());
}

void Trainer::resume(const fs::path& checkpoint) {
  state_ = load_checkpoint(checkpoint, parts(), /*strict=*/true);
  QUEST_CHECK(state_.config_hash == config_hash(config_), ErrorKind::kData,
              "{} was made with another configuration ({}, this is {})", checkpoint.string(),
              state_.config_hash, config_hash(config_));
  QUEST_CHECK(state_.data_fingerprint == data_fingerprint_, ErrorKind::kData,
              "{} was trained on other token files than {} holds now: put the old ones back, or "
              "give the run another name (--name)",
              checkpoint.string(), config_.data.train);
  loader_->restore(state_.loader);
  guards_->restore(state_.guards);
  saved_step_ = state_.step;
  log::info("resumed from {}", checkpoint.string());
}

void Trainer::begin_from_parent() {
  const fs::path parent = config_.run.parent;
  const TrainState old = load_checkpoint(parent, parts(), /*strict=*/false);
  state_.step = old.step;
  state_.tokens = old.tokens;
  state_.first_tokens = old.tokens;
  if (old.data_fingerprint == data_fingerprint_) {
    loader_->restore(old.loader);
  } else {
    log::warn("{} was trained on other token files: this run begins at the start of its own",
              parent.string());
  }
  log::info("continues {} from step {}", parent.string(), old.step);
}

}  // namespace quest::train
