#include "quest/train/gpu_step.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <deque>
#include <utility>

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAStream.h>

#include "quest/base/error.h"
#include "quest/ops/cuda_graph.h"
#include "quest/ops/gpu.h"
#include "quest/ops/gpu_errors.h"
#include "quest/ops/gpu_optimizer.h"

namespace quest::train {
namespace {

using ops::StepControl;

at::TensorOptions on_gpu(at::ScalarType type) { return at::TensorOptions(type).device(at::kCUDA); }
at::TensorOptions pinned(at::ScalarType type) {
  return at::TensorOptions(type).pinned_memory(true);
}

// Host memory of one transfer; free again when its event has passed.
struct Transfer {
  at::Tensor tokens, targets;  // (B,T) int64
  at::Tensor scalar;           // (1) f32
  at::cuda::CUDAEvent done;
};

template <class F>
void with_cuda_errors(F&& f) {
  ops::with_gpu_errors("a smaller train.micro_batch_size or train.recompute needs less",
                       std::forward<F>(f));
}

}  // namespace

class GpuStep::Impl {
 public:
  Impl(nn::LlamaModel& model, Optimizer& optimizer, const TrainConfig& config,
       int64_t micro_batches)
      : model_(model),
        optimizer_(optimizer),
        config_(config),
        parameters_(model.parameters()),
        micro_batches_(micro_batches),
        graphs_(config.train.cuda_graphs && optimizer.can_enqueue()),
        control_(ops::make_step_control()),
        weight_(at::zeros({1}, on_gpu(at::kFloat))),
        loss_(at::zeros({}, on_gpu(at::kFloat))) {}

  void micro_batch(const Batch& batch, double weight) {
    if (step_ < 0) step_ = optimizer_.steps();
    check_batch(batch);
    with_cuda_errors([&] {
      upload(batch, weight);
      if (model_.gradient_counter().defined()) {
        // Of the step and the micro-batch, so that a resumed run rounds as one never stopped.
        if (at_start_) ++step_;
        at::Tensor(model_.gradient_counter())
            .fill_(static_cast<int64_t>((step_ * 4096 + begun_) & 0x7fffffff));
      }
      if (!graphs_) {
        run_micro_batch(at_start_);
      } else {
        if (!recorded_) record();
        if (at_start_) refresh_.replay();
        (at_start_ ? first_ : further_).replay();
      }
    });
    at_start_ = false;
  }

  void finish(double lr) {
    with_cuda_errors([&] { enqueue_norm(lr); });
  }

  void apply() {
    with_cuda_errors([&] { apply_update(); });
    raise_versions(parameters_);
  }

  Result take() {
    QUEST_ASSERT(!untaken_.empty(), "no step to take a result of");
    const std::unique_ptr<Untaken> r = std::move(untaken_.front());
    untaken_.pop_front();
    with_cuda_errors([&] { r->done.synchronize(); });
    const float* c = r->control.const_data_ptr<float>();
    if (c[StepControl::kSkipped] != 0) {
      --updates_;
    } else if (r->applied) {
      optimizer_.set_steps(optimizer_.steps() + 1);
    } else {
      judged_ = true;  // apply() may follow; if not, finish() finds that control counts too many
    }
    return {c[StepControl::kLoss], c[StepControl::kGradientNorm]};
  }

  int64_t untaken() const { return static_cast<int64_t>(untaken_.size()); }

 private:
  struct Untaken {
    at::Tensor control;
    at::cuda::CUDAEvent done;
    bool applied = false;  // its update is enqueued
  };

  // The norm of the gradient and what take() will say of the step.
  void enqueue_norm(double lr) {
    at_start_ = true;
    Transfer& t = next_transfer();
    t.scalar.data_ptr<float>()[0] = static_cast<float>(lr);
    control_.narrow(0, StepControl::kLearningRate, 1).copy_(t.scalar, /*non_blocking=*/true);
    t.done.record();
    if (updates_ != optimizer_.steps() && untaken_.empty()) {
      // After loading a checkpoint, or a step that was judged and left out.
      control_.select(0, StepControl::kUpdates).fill_(static_cast<double>(optimizer_.steps()));
      updates_ = optimizer_.steps();
    }
    graphs_ ? norm_.replay() : run_norm();
    ++updates_;
    auto r = std::make_unique<Untaken>();
    r->control = at::empty({StepControl::kSize}, pinned(at::kFloat));
    r->control.copy_(control_, /*non_blocking=*/true);
    r->done.record();
    untaken_.push_back(std::move(r));
  }

  void apply_update() {
    const bool was_judged = std::exchange(judged_, false);
    if (optimizer_.can_enqueue()) {
      graphs_ ? update_.replay() : optimizer_.enqueue(control_);
      if (was_judged) {
        optimizer_.set_steps(optimizer_.steps() + 1);
      } else if (!untaken_.empty()) {
        untaken_.back()->applied = true;
      }
      return;
    }
    const double norm = control_.select(0, StepControl::kGradientNorm).item<double>();
    if (control_.select(0, StepControl::kSkipped).item<float>() != 0) return;
    clip_gradients(parameters_, norm, config_.optimizer.clip_norm);
    optimizer_.step(control_.select(0, StepControl::kLearningRate).item<double>());
    updates_ = optimizer_.steps();
  }

  void check_batch(const Batch& batch) {
    const auto count = static_cast<size_t>(batch.batch * batch.sequence_length);
    QUEST_ASSERT(batch.inputs.size() == count && batch.targets.size() == count,
                 "a batch of {} x {} with {} tokens", batch.batch, batch.sequence_length,
                 batch.inputs.size());
    QUEST_ASSERT(!tokens_.defined() ||
                     (tokens_.size(0) == batch.batch && tokens_.size(1) == batch.sequence_length),
                 "a batch of {} x {} after others of {} x {}", batch.batch, batch.sequence_length,
                 tokens_.size(0), tokens_.size(1));
    begun_ = at_start_ ? 1 : begun_ + 1;
    QUEST_ASSERT(begun_ <= micro_batches_, "{} micro-batches in a step of {}", begun_,
                 micro_batches_);
    const int64_t v = model_.config().vocab_size;
    const auto check = [&](const std::vector<int32_t>& ids, const char* what, int32_t also) {
      for (size_t i = 0; i < ids.size(); ++i) {
        QUEST_CHECK((ids[i] >= 0 && ids[i] < v) || ids[i] == also, ErrorKind::kData,
                    "{} {} is {}, the vocabulary has {} tokens; was the data tokenized with "
                    "another tokenizer?",
                    what, i, ids[i], v);
      }
    };
    check(batch.inputs, "token", 0);
    check(batch.targets, "target", kIgnoredTarget);
  }

  Transfer& next_transfer() {
    Transfer& t = transfers_[static_cast<size_t>(next_transfer_++) % transfers_.size()];
    if (t.scalar.defined()) {
      t.done.synchronize();
    } else {
      t.scalar = at::empty({1}, pinned(at::kFloat));
    }
    return t;
  }

  void upload(const Batch& batch, double weight) {
    Transfer& t = next_transfer();
    const std::vector<int64_t> shape = {batch.batch, batch.sequence_length};
    if (!t.tokens.defined()) {
      t.tokens = at::empty(shape, pinned(at::kLong));
      t.targets = at::empty(shape, pinned(at::kLong));
    }
    if (!tokens_.defined()) {
      tokens_ = at::empty(shape, on_gpu(at::kLong));
      targets_ = at::empty(shape, on_gpu(at::kLong));
    }
    std::copy(batch.inputs.begin(), batch.inputs.end(), t.tokens.data_ptr<int64_t>());
    std::copy(batch.targets.begin(), batch.targets.end(), t.targets.data_ptr<int64_t>());
    t.scalar.data_ptr<float>()[0] = static_cast<float>(weight);
    tokens_.copy_(t.tokens, /*non_blocking=*/true);
    targets_.copy_(t.targets, /*non_blocking=*/true);
    weight_.copy_(t.scalar, /*non_blocking=*/true);
    t.done.record();
  }

  // Forward and backward. The first of a step makes the gradients, others add to them.
  void run_micro_batch(bool first) {
    if (first) model_.zero_grad();
    const at::Tensor loss = model_.loss(tokens_, targets_) * weight_.squeeze(0);
    loss.backward();
    const at::NoGradGuard no_grad;
    first ? loss_.copy_(loss.detach()) : loss_.add_(loss.detach());
  }

  void run_norm() {
    control_.select(0, StepControl::kLoss).copy_(loss_);
    std::vector<at::Tensor> gradients;
    for (const auto& p : parameters_) {
      QUEST_ASSERT(p.tensor.grad().defined(), "{} has no gradient", p.name);
      gradients.push_back(p.tensor.grad());
    }
    ops::begin_step(gradients, config_.optimizer.clip_norm, config_.optimizer.beta1,
                    config_.optimizer.beta2, control_);
  }

  template <class F>
  void record_graph(at::cuda::CUDAGraph& graph, F&& f) {
    ops::record_graph(graph, std::forward<F>(f), pool_);
  }

  // Graphs of all parts, on the inputs that lie on the device. Plain runs come first: libraries
  // make their handles and choose their algorithms then.
  void record() {
    for (int i = 0; i < 2; ++i) run_micro_batch(/*first=*/true);
    model_.zero_grad();
    c10::cuda::getCurrentCUDAStream().synchronize();
    c10::cuda::CUDACachingAllocator::emptyCache();
    pool_ = at::cuda::graph_pool_handle();
    raise_versions(parameters_);
    record_graph(refresh_, [&] { model_.refresh(); });
    record_graph(first_, [&] { run_micro_batch(true); });
    if (micro_batches_ > 1) record_graph(further_, [&] { run_micro_batch(false); });
    record_graph(norm_, [&] { run_norm(); });
    record_graph(update_, [&] { optimizer_.enqueue(control_); });
    recorded_ = true;
  }

  nn::LlamaModel& model_;
  Optimizer& optimizer_;
  const TrainConfig& config_;
  std::vector<nn::NamedParameter> parameters_;
  int64_t micro_batches_, begun_ = 0;  // of a step; of the step at work
  bool judged_ = false;                // the last step's result was taken before its update
  bool graphs_;
  bool recorded_ = false;
  int64_t step_ = -1;     // of the optimizer's count when training began, and those begun since
  bool at_start_ = true;  // of a step: the next micro-batch is its first
  at::Tensor control_, weight_, loss_;
  at::Tensor tokens_, targets_;  // the graphs' inputs
  std::array<Transfer, 8> transfers_;
  int64_t next_transfer_ = 0;
  std::deque<std::unique_ptr<Untaken>> untaken_;
  int64_t updates_ = -1;  // what control's kUpdates will be when all that was enqueued is done
  at::cuda::MempoolId_t pool_{};
  at::cuda::CUDAGraph refresh_, first_, further_, norm_, update_;
};

GpuStep::GpuStep(nn::LlamaModel& model, Optimizer& optimizer, const TrainConfig& config,
                 int64_t micro_batches)
    : impl_(std::make_unique<Impl>(model, optimizer, config, micro_batches)) {}
GpuStep::~GpuStep() = default;
void GpuStep::micro_batch(const Batch& batch, double weight) { impl_->micro_batch(batch, weight); }
void GpuStep::finish(double lr) { impl_->finish(lr); }
void GpuStep::apply() { impl_->apply(); }
GpuStep::Result GpuStep::take() { return impl_->take(); }
int64_t GpuStep::untaken() const { return impl_->untaken(); }

void prepare_gpu(bool deterministic) {
  const std::string reason = ops::gpu_unusable_reason();
  QUEST_CHECK(reason.empty(), ErrorKind::kEnvironment, "{}", reason);
  if (deterministic) setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  at::globalContext().setDeterministicAlgorithms(deterministic, /*warn_only=*/true);
  at::globalContext().setDeterministicFillUninitializedMemory(false);
  if (c10::cuda::getCurrentCUDAStream() == c10::cuda::getDefaultCUDAStream()) {
    c10::cuda::setCurrentCUDAStream(c10::cuda::getStreamFromPool(/*isHighPriority=*/false));
  }
}

int64_t gpu_peak_bytes() {
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(c10::cuda::current_device());
  return stats.allocated_bytes[0].peak;
}

int64_t gpu_peak_reserved_bytes() {
  const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(c10::cuda::current_device());
  return stats.reserved_bytes[0].peak;
}

double measure_gpu_flops(bool bf16) {
  constexpr int64_t kSize = 8192, kTimes = 5;
  const int64_t size = bf16 ? kSize : kSize / 2;
  const auto options = on_gpu(bf16 ? at::kBFloat16 : at::kFloat);
  const at::Tensor a = at::randn({size, size}, options), b = at::randn({size, size}, options);
  at::Tensor c = at::mm(a, b);
  at::cuda::CUDAEvent begin(cudaEventDefault), end(cudaEventDefault);
  begin.record();
  for (int64_t i = 0; i < kTimes; ++i) at::mm_out(c, a, b);
  end.record();
  end.synchronize();
  const double seconds = static_cast<double>(begin.elapsed_time(end)) * 1e-3;
  c10::cuda::CUDACachingAllocator::resetPeakStats(c10::cuda::current_device());
  return 2.0 * static_cast<double>(size * size * size * kTimes) / seconds;
}

}  // namespace quest::train
