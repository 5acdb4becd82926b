#include "quest/train/trainer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <sys/resource.h>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/checksum.h"
#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/base/shutdown.h"
#include "quest/train/evaluation.h"

namespace quest::train {

namespace fs = std::filesystem;
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// (B, T) int64
at::Tensor to_tensor(const std::vector<int32_t>& ids, const Batch& batch) {
  at::Tensor out = at::empty({batch.batch, batch.sequence_length}, at::kLong);
  std::copy(ids.begin(), ids.end(), out.data_ptr<int64_t>());
  return out;
}

int64_t count_targets(const Batch& batch) {
  return std::count_if(batch.targets.begin(), batch.targets.end(),
                       [](int32_t target) { return target != kIgnoredTarget; });
}

int64_t peak_resident_bytes() {
  struct rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

// Of all parameters in order: equal bits, equal digits.
std::string weights_checksum(const nn::LlamaModel& model) {
  std::string digests;
  for (const nn::NamedParameter& p : model.parameters()) {
    const at::Tensor w = p.tensor.detach().cpu().contiguous();
    digests += checksum128_hex(
        {static_cast<const std::byte*>(w.const_data_ptr()), static_cast<size_t>(w.nbytes())});
  }
  return checksum128_hex(digests);
}

}  // namespace

TrainOutcome Trainer::run(bool must_resume) {
  const bool writer = group_.rank() == 0;
  RunFolder folder(config_, writer);
  group_.barrier();
  restore_or_begin(folder, must_resume);
  // A start that failed would have taken the name from a trained run.
  folder.keep();
  // A child run leaves the name to the run that it goes on from.
  if (writer && config_.run.parent.empty()) folder.link_name(config_);
  TrainOutcome outcome;
  outcome.run = folder.path();
  const int64_t total = schedule_->total_steps();
  if (state_.step == total && fs::exists(folder.path() / "summary.json")) {
    log::info("{} is complete: {}", folder.path().string(), format_count(total, "step"));
    outcome.step = total;
    outcome.was_complete = true;
    outcome.summary = nlohmann::ordered_json::parse(read_file(folder.path() / "summary.json"),
                                                    nullptr, /*allow_exceptions=*/false);
    return outcome;
  }
  if (writer) {
    metrics_ =
        std::make_unique<MetricsWriter>(folder.path(), config_.log.tensorboard, state_.metrics);
  }
  last_save_ = Clock::now();
  const double wall_before = state_.wall_seconds;
  const Clock::time_point start = Clock::now();
  const int64_t first = state_.step;
  std::optional<ProgressBar> progress;
  if (writer) {
    progress.emplace("training", total, "steps", config_.log.seconds, first);
  }
  std::vector<std::string> last_status;
  const auto report = [&](const std::vector<StepResult>& results) {
    for (const StepResult& result : results) {
      write_training_line(result);
      last_status = status(result);
    }
  };
  if (saved_step_ < 0) diagnose_now();
  last_result_ = Clock::now();
  while (state_.step < total) {
    report(advance());
    if (progress) progress->update(state_.step, last_status);
    state_.validation_loss.reset();
    const bool evaluates = config_.eval.every > 0 && state_.step % config_.eval.every == 0;
    if (evaluates || state_.step == total) {
      report(drain());
      evaluate_now(state_.step == total && config_.eval.full_at_end);
      last_result_ = Clock::now();
    }
    if (diagnostics_ && diagnostics_->due(state_.step)) {
      report(drain());
      diagnose_now();
      last_result_ = Clock::now();
    }
    // The heap keeps what a step has freed (allocator.h): between steps is where its peak is seen.
    peak_bytes_ = std::max(peak_bytes_, anonymous_bytes());
    state_.wall_seconds = wall_before + seconds_since(start);
    const bool stop = group_.all_reduce_max(shutdown_signal()) != 0;
    // Ranks agree, whatever their clocks say.
    const bool due = group_.all_reduce_max(checkpoint_due() ? 1 : 0) != 0;
    if (stop || due) {
      report(drain());
      save(folder.path());
      last_result_ = Clock::now();
    }
    if (stop && state_.step < total) {
      if (progress) {
        progress->finish(last_status);
        log::info("stopped by a signal at step {} of {}; the same command goes on from there",
                  state_.step, total);
      }
      outcome.step = state_.step;
      outcome.interrupted = true;
      return outcome;
    }
  }
  if (progress) progress->finish(last_status);
  return finish(folder.path());
}

// From the first micro-batch that the run trains on: that of the first rank.
void Trainer::begin_quantizers() {
  std::vector<at::Tensor> begun;
  for (const nn::NamedParameter& p : model_->parameters()) {
    if (p.of_quantizer && p.tensor.isnan().any().item<bool>()) begun.push_back(p.tensor.detach());
  }
  if (begun.empty()) return;
  const DataLoaderState here = loader_->state();
  const Batch first = loader_->next();
  loader_->restore(here);
  model_->begin_quantizers(to_tensor(first.inputs, first));
  if (group_.size() == 1) return;
  for (at::Tensor& tensor : begun) {
    if (group_.rank() != 0) tensor.zero_();
    group_.all_reduce_sum(tensor);
  }
}

std::vector<Trainer::StepResult> Trainer::advance() {
  if (!gpu_step_) return {step()};
  begin_gpu_step();
  std::vector<StepResult> results;
  while (under_way_.size() > 1) results.push_back(take_gpu_result());
  return results;
}

std::vector<Trainer::StepResult> Trainer::drain() {
  std::vector<StepResult> results;
  while (!under_way_.empty()) results.push_back(take_gpu_result());
  return results;
}

void Trainer::count_seconds(double seconds) {
  state_.train_seconds += seconds;
  interval_seconds_ += seconds;
  ++interval_steps_;
}

Trainer::StepResult Trainer::step() {
  const Clock::time_point start = Clock::now();
  StepResult result;
  result.lr = schedule_->at(state_.step);
  model_->zero_grad();
  result.loss = forward_and_backward();
  if (std::isfinite(result.loss)) {
    all_reduce_gradients();
    result.gradient_norm = gradient_norm(model_->parameters());
  } else {
    result.gradient_norm = std::numeric_limits<double>::quiet_NaN();
  }
  result.step = ++state_.step;
  result.tokens = state_.tokens += config_.train.batch_size * config_.train.sequence_length;
  result.verdict = guards_->check(state_.step, result.loss, result.gradient_norm);
  if (result.verdict != Verdict::kSkip) {
    clip_gradients(model_->parameters(), result.gradient_norm, config_.optimizer.clip_norm);
    optimizer_->step(result.lr);
    averages_->update(state_.step);
  }
  count_seconds(seconds_since(start));
  return result;
}

// Whether what a step gave decides more than its own update, which the GPU decides by itself: a
// finite loss that may keep it from being applied, averages that only applied steps enter.
bool Trainer::judges_before_update() const {
  return config_.guards.spike == "skip" || config_.guards.spike == "stop" ||
         config_.averaging.ema_decay > 0 || config_.averaging.horizon > 0;
}

void Trainer::begin_gpu_step() {
  StepResult result;
  result.lr = schedule_->at(state_.step);
  const MicroBatches micro = next_batches();
  for (size_t k = 0; k < micro.batches.size(); ++k) {
    gpu_step_->micro_batch(micro.batches[k], micro.weights[k]);
  }
  gpu_step_->finish(result.lr);
  result.step = ++state_.step;
  result.tokens = state_.tokens += config_.train.batch_size * config_.train.sequence_length;
  if (judges_before_update()) {
    const GpuStep::Result taken = gpu_step_->take();
    result.loss = taken.loss;
    result.gradient_norm = taken.gradient_norm;
    result.verdict = guards_->check(result.step, result.loss, result.gradient_norm);
    if (result.verdict != Verdict::kSkip) {
      gpu_step_->apply();
      averages_->update(state_.step);
    }
  } else {
    gpu_step_->apply();
  }
  under_way_.push_back(result);
}

Trainer::StepResult Trainer::take_gpu_result() {
  StepResult result = under_way_.front();
  under_way_.pop_front();
  if (!judges_before_update()) {
    const GpuStep::Result taken = gpu_step_->take();
    result.loss = taken.loss;
    result.gradient_norm = taken.gradient_norm;
    result.verdict = guards_->check(result.step, result.loss, result.gradient_norm);
  }
  const Clock::time_point now = Clock::now();
  count_seconds(std::chrono::duration<double>(now - last_result_).count());
  last_result_ = now;
  return result;
}

// Micro-batches and ranks are weighted by their targets, so that neither accumulation nor the
// number of ranks changes the mean over all targets of the step.
Trainer::MicroBatches Trainer::next_batches() {
  MicroBatches micro;
  std::vector<int64_t> targets;
  int64_t mine = 0;
  for (int64_t k = 0; k < accumulation_; ++k) {
    micro.batches.push_back(loader_->next());
    targets.push_back(count_targets(micro.batches.back()));
    mine += targets.back();
  }
  const double all = group_.all_reduce_sum(static_cast<double>(mine));
  QUEST_CHECK(all > 0, ErrorKind::kData,
              "step {}: no token of the batch is a target (data.mask_document_starts leaves out "
              "every document's first)",
              state_.step + 1);
  for (const int64_t count : targets) micro.weights.push_back(static_cast<double>(count) / all);
  return micro;
}

// The gradient of the mean over all targets of the step, and that mean.
double Trainer::forward_and_backward() {
  const MicroBatches micro = next_batches();
  double sum = 0;
  try {
    for (size_t k = 0; k < micro.batches.size(); ++k) {
      const double weight = micro.weights[k];
      if (weight == 0) continue;
      const Batch& batch = micro.batches[k];
      const at::Tensor loss =
          model_->loss(to_tensor(batch.inputs, batch), to_tensor(batch.targets, batch));
      (loss * weight).backward();
      sum += loss.item<double>() * weight;
    }
  } catch (const Error& error) {
    // A quantizer met a value that is not finite: for the guards to judge, like a loss that is not.
    if (error.kind() != ErrorKind::kNumeric) throw;
    log::warn("step {}: {}", state_.step + 1, error.what());
    sum = std::numeric_limits<double>::quiet_NaN();
  }
  return group_.all_reduce_sum(sum);
}

void Trainer::all_reduce_gradients() {
  if (group_.size() == 1) return;
  for (const nn::NamedParameter& p : model_->parameters()) {
    at::Tensor gradient = p.tensor.grad();
    group_.all_reduce_sum(gradient);
  }
}

void Trainer::write_training_line(const StepResult& result) {
  if (result.step % config_.log.every != 0 && result.step != schedule_->total_steps()) return;
  const double tokens = static_cast<double>(interval_steps_ * config_.train.batch_size *
                                            config_.train.sequence_length);
  tokens_per_second_ = interval_seconds_ > 0 ? tokens / interval_seconds_ : 0;
  interval_seconds_ = 0;
  interval_steps_ = 0;
  if (!metrics_) return;
  const double flops = model_->config().training_flops_per_token(config_.train.sequence_length);
  nlohmann::ordered_json line = {
      {"step", result.step},
      {"tokens", result.tokens},
      {"loss", result.loss},
      {"lr", result.lr},
      {"grad_norm", result.gradient_norm},
      {"tokens_per_second", tokens_per_second_},
      {"mfu", peak_flops_ > 0 ? tokens_per_second_ * flops / peak_flops_ : 0.0},
      {"seconds", state_.train_seconds},
  };
  if (result.verdict == Verdict::kSkip) line["skipped"] = true;
  if (result.verdict == Verdict::kSpike) line["spike"] = true;
  metrics_->write(line);
}

std::vector<std::string> Trainer::status(const StepResult& result) const {
  const double flops = model_->config().training_flops_per_token(config_.train.sequence_length);
  const double used = peak_flops_ > 0 ? tokens_per_second_ * flops / peak_flops_ : 0.0;
  return {fmt::format("loss {:.4f}", result.loss), format_quantity(tokens_per_second_, "tokens/s"),
          fmt::format("lr {:.3g}", result.lr),
          fmt::format("grad norm {:.3g}", result.gradient_norm),
          fmt::format("MFU {:.1f} %", 100 * used)};
}

int64_t Trainer::validation_rows() const {
  return config_.eval.batch_size > 0 ? config_.eval.batch_size : loader_->options().batch;
}

void Trainer::evaluate_now(bool whole_file) {
  if (!validation_) return;
  EvaluationOptions options;
  options.tokens = whole_file ? 0 : config_.eval.tokens;
  options.sequence_length = config_.train.sequence_length;
  options.batch = validation_rows();
  optimizer_->to_evaluation_point();
  Evaluation own;
  try {
    own = evaluate(*model_, *validation_, options, group_);
  } catch (...) {
    optimizer_->to_training_point();
    throw;
  }
  optimizer_->to_training_point();
  nlohmann::ordered_json line = {
      {"step", state_.step},
      {"tokens", state_.tokens},
      {"validation_loss", own.loss},
      {"perplexity", own.perplexity},
      {"validation_tokens", own.tokens},
  };
  if (own.bits_per_byte) line["bits_per_byte"] = *own.bits_per_byte;
  for (const std::string& name : averages_->names()) {
    const WeightAverages::Use use(*averages_, name);
    const Evaluation average = evaluate(*model_, *validation_, options, group_);
    line[name + "_validation_loss"] = average.loss;
    line[name + "_perplexity"] = average.perplexity;
  }
  if (metrics_) metrics_->write(line);
  if (group_.rank() == 0) {
    log::info("step {}: validation loss {:.4f}, perplexity {:.2f}", state_.step, own.loss,
              own.perplexity);
  }
  if (std::isfinite(own.loss)) state_.validation_loss = own.loss;
  state_.evaluation = line;
}

// All ranks have the same weights: one of them looks.
void Trainer::diagnose_now() {
  if (!diagnostics_ || group_.rank() != 0) return;
  const Clock::time_point start = Clock::now();
  Diagnostics::Report report;
  try {
    report = diagnostics_->measure(state_.step);
  } catch (const Error& error) {
    // A value that is not finite is for the guards to judge.
    if (error.kind() != ErrorKind::kNumeric) throw;
    log::warn("step {}: no diagnostics: {}", state_.step, error.what());
    return;
  }
  metrics_->write(
      {{"step", state_.step}, {"tokens", state_.tokens}, {"diagnostics", std::move(report.json)}},
      report.histograms);
  log::debug("step {}: diagnostics in {:.2f} s", state_.step, seconds_since(start));
}

bool Trainer::checkpoint_due() const {
  const auto& settings = config_.checkpoint;
  if (state_.step == schedule_->total_steps()) return true;
  if (settings.every > 0 && state_.step % settings.every == 0) return true;
  return settings.minutes > 0 && seconds_since(last_save_) > 60 * settings.minutes;
}

void Trainer::save(const fs::path& run) {
  state_.loader = loader_->state();
  state_.guards = guards_->state();
  if (group_.rank() == 0) {
    state_.metrics = metrics_->sync();
    const fs::path path = save_checkpoint(run, parts(), state_);
    prune_checkpoints(run, config_.checkpoint.keep_last, config_.checkpoint.keep_best);
    log::debug("saved {}", path.string());
  }
  group_.barrier();
  saved_step_ = state_.step;
  last_save_ = Clock::now();
}

TrainOutcome Trainer::finish(const fs::path& run) {
  TrainOutcome outcome;
  outcome.run = run;
  outcome.step = state_.step;
  if (group_.rank() == 0) {
    const DType dtype = config_.checkpoint.export_dtype == "bf16" ? DType::kBF16
                        : config_.train.compute_type == "fp64"    ? DType::kF64
                                                                  : DType::kF32;
    optimizer_->to_evaluation_point();
    try {
      save_final(run / "final", parts(), dtype);
      outcome.summary = make_summary(run);
    } catch (...) {
      optimizer_->to_training_point();
      throw;
    }
    optimizer_->to_training_point();
    for (const std::string& name : averages_->names()) {
      const WeightAverages::Use use(*averages_, name);
      save_final(run / ("final_" + name), parts(), dtype);
    }
    write_file_atomically(run / "summary.json", outcome.summary.dump(2) + "\n");
  }
  group_.barrier();
  return outcome;
}

nlohmann::ordered_json Trainer::make_summary(const fs::path& run) {
  const nn::LlamaModel& model = *model_;
  nlohmann::ordered_json out = {
      {"run", run.filename().string()},
      {"recipe", config_.quant.name},
      {"parameters", model.config().parameters()},
      {"non_embedding_parameters", model.config().non_embedding_parameters()},
      {"steps", state_.step},
      {"tokens", state_.tokens},
      {"train_loss", guards_->mean_loss()},
  };
  for (const auto& [key, value] : state_.evaluation.items()) {
    if (key != "step" && key != "tokens") out[key] = value;
  }
  out["tokens_per_second"] =
      state_.train_seconds > 0
          ? static_cast<double>(state_.tokens - state_.first_tokens) / state_.train_seconds
          : 0.0;
  out["train_seconds"] = state_.train_seconds;
  out["wall_seconds"] = state_.wall_seconds;
  // Own memory; and with the pages of mapped files (token files), which the system can take back.
  peak_bytes_ = std::max(peak_bytes_, anonymous_bytes());
  if (peak_bytes_ > 0) out["peak_memory_bytes"] = peak_bytes_;
  if (gpu_step_) {
    out["peak_gpu_memory_bytes"] = gpu_peak_bytes();
    out["peak_gpu_reserved_bytes"] = gpu_peak_reserved_bytes();
  }
  out["peak_resident_bytes"] = peak_resident_bytes();
  out["weights_xxh3_128"] = weights_checksum(model);
  return out;
}

}  // namespace quest::train
