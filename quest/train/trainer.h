// One training run: from data and configuration to final weights, resumable at any moment.
//
//   SingleProcess group;
//   Trainer trainer(config, group);      // opens data and tokenizer, makes the model
//   fmt::print("{}", trainer.plan().text());
//   TrainOutcome outcome = trainer.run();
//
// A run folder holds config.toml, checkpoints/ (checkpoint.h), metrics.jsonl, tensorboard/, and at
// the end final/ (also final_ema/, final_mean/) and summary.json. run() goes on from the newest
// whole checkpoint of the folder; the result is bit for bit that of a run never stopped, with the
// same number of threads (on a GPU with train.deterministic). On SIGINT or SIGTERM
// (base/shutdown.h) it finishes the step, saves and returns.
//
// Errors: kUsage (settings), kData (damaged files, other data than at the checkpoint), kIo (full
// disk: the last checkpoint stays good), kNumeric (guards). Thread rules: one thread.
#pragma once

#include <chrono>
#include <deque>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "quest/base/progress.h"
#include "quest/data/data_loader.h"
#include "quest/nn/llama_model.h"
#include "quest/text/tokenizer.h"
#include "quest/train/averaging.h"
#include "quest/train/checkpoint.h"
#include "quest/train/diagnostics.h"
#include "quest/train/gpu_step.h"
#include "quest/train/guards.h"
#include "quest/train/lr_schedule.h"
#include "quest/train/metrics.h"
#include "quest/train/optimizer.h"
#include "quest/train/plan.h"
#include "quest/train/process_group.h"
#include "quest/train/run_folder.h"
#include "quest/train/train_config.h"

namespace quest::train {

struct TrainOutcome {
  std::filesystem::path run;
  int64_t step = 0;
  bool interrupted = false;        // by a signal: saved, to be resumed
  bool was_complete = false;       // nothing was left to do
  nlohmann::ordered_json summary;  // content of summary.json; empty if interrupted
};

class Trainer {
 public:
  // Checks and completes the configuration (with run.init or run.parent from that folder:
  // source_model.h), opens the data, allocates the model. Writes nothing.
  Trainer(TrainConfig config, ProcessGroup& group);

  const TrainConfig& config() const { return config_; }
  const nn::LlamaModel& model() const { return *model_; }
  RunPlan plan() const;
  // must_resume: kUsage if there is no checkpoint to go on from.
  TrainOutcome run(bool must_resume = false);

 private:
  struct StepResult {
    int64_t step = 0;    // steps done with this one
    int64_t tokens = 0;  // and their tokens
    double loss = 0;
    double gradient_norm = 0;
    double lr = 0;
    Verdict verdict = Verdict::kGood;
  };

  void open_data();
  void make_model();
  CheckpointParts parts();

  // Setting out.
  void restore_or_begin(const RunFolder& folder, bool must_resume);
  void resume(const std::filesystem::path& checkpoint);
  void begin_from_parent();
  void begin_quantizers();

  // One step. On a GPU steps are set going one ahead of their results, which come in order.
  std::vector<StepResult> advance();
  StepResult step();
  void begin_gpu_step();
  StepResult take_gpu_result();
  std::vector<StepResult> drain();  // results of all steps that are under way
  struct MicroBatches {
    std::vector<Batch> batches;
    std::vector<double> weights;  // shares of the step's mean loss; 0: no targets
  };
  MicroBatches next_batches();
  double forward_and_backward();
  void all_reduce_gradients();
  bool judges_before_update() const;
  void count_seconds(double seconds);

  // Between steps.
  void write_training_line(const StepResult& result);
  void evaluate_now(bool whole_file);
  int64_t validation_rows() const;  // sequences of a validation's forward pass
  void diagnose_now();
  void save(const std::filesystem::path& run);
  bool checkpoint_due() const;
  TrainOutcome finish(const std::filesystem::path& run);
  nlohmann::ordered_json make_summary(const std::filesystem::path& run);
  // Fields of the progress line, which counts the steps itself.
  std::vector<std::string> status(const StepResult& result) const;

  TrainConfig config_;
  ProcessGroup& group_;
  DataPaths paths_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::optional<TokenFile> validation_;
  std::unique_ptr<DataLoader> loader_;
  std::string data_fingerprint_;
  std::unique_ptr<nn::LlamaModel> model_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<GpuStep> gpu_step_;  // with train.device cuda
  std::deque<StepResult> under_way_;   // on the GPU, without their results yet
  std::chrono::steady_clock::time_point last_result_;
  std::unique_ptr<WeightAverages> averages_;
  std::unique_ptr<Diagnostics> diagnostics_;  // with diagnostics.every
  std::optional<LrSchedule> schedule_;
  std::optional<Guards> guards_;
  std::unique_ptr<MetricsWriter> metrics_;
  int64_t accumulation_ = 1;   // forward passes per step and rank
  double peak_flops_ = 0;      // per second; 0 until run() or plan() asks
  int64_t program_bytes_ = 0;  // anonymous_bytes() before anything was opened or allocated
  int64_t peak_bytes_ = 0;     // the most anonymous_bytes() that was seen

  TrainState state_;
  int64_t saved_step_ = -1;
  std::chrono::steady_clock::time_point last_save_;
  // Since the last line of metrics.
  double interval_seconds_ = 0;
  int64_t interval_steps_ = 0;
  double tokens_per_second_ = 0;
};

}  // namespace quest::train
