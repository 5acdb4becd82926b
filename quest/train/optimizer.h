// Update rules: AdamW, SGD and schedule-free AdamW, and clipping of the gradient's norm.
//
//   auto optimizer = make_optimizer(config.optimizer, model.parameters());
//   double norm = clip_gradient_norm(parameters, 1.0);
//   optimizer->step(lr);                       // consumes the gradients in tensor.grad()
//   for (const StateTensor& s : optimizer->state()) ...  // into the checkpoint
//
// Weight decay is decoupled (Loshchilov and Hutter, arXiv 1711.05101) and acts on parameters with
// weight_decay only, by a rate of its own on what quantizers learn. Every operation is element-wise
// or has a fixed order, so that a run does not depend on when it was stopped and resumed.
// Parameters are FP32 or FP64; state has their type. Errors: kData when state does not fit. Thread
// rules: one thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "quest/nn/llama_model.h"
#include "quest/train/train_config.h"

namespace quest::train {

// A tensor of the optimizer's state, by the name it has in optimizer.safetensors.
struct StateTensor {
  std::string name;
  at::Tensor tensor;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  // One update from the gradients. A parameter without gradient is a bug (asserted).
  virtual void step(double lr) = 0;
  virtual std::string name() const = 0;

  // On a GPU: the same update without the host waiting, steered by a control tensor
  // (ops/gpu_optimizer.h) whose begin_step is enqueued. The caller counts steps and raises
  // versions.
  virtual bool can_enqueue() const { return false; }
  virtual void enqueue(const at::Tensor& control);

  // Schedule-free rules train at one point (y) and are judged at another (x). Other rules: nothing
  // happens. While at the evaluation point no step may be taken. Going there and back changes no
  // bit of the training point.
  virtual void to_evaluation_point() {}
  virtual void to_training_point() {}
  // While at the evaluation point: the training point as "<parameter>.training_point"; empty if the
  // two are the same.
  virtual std::vector<StateTensor> training_point() { return {}; }

  // Live tensors, always the same ones and in the same order: copy them to save, copy_ into them to
  // restore. Scalars of the state are in scalars().
  virtual std::vector<StateTensor> state() = 0;
  virtual std::vector<double> scalars() const { return {}; }
  virtual void set_scalars(const std::vector<double>& values);

  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

 protected:
  int64_t steps_ = 0;  // updates done
};

std::unique_ptr<Optimizer> make_optimizer(const TrainConfig::Optimizer& settings,
                                          std::vector<nn::NamedParameter> parameters);

// LibTorch's fused updates and CUDA graphs do not raise the version of the tensors they write; the
// layers' quantized copies are remade when it changes.
void raise_versions(const std::vector<nn::NamedParameter>& parameters);

// Global 2-norm of all gradients: squares summed in double, tensor by tensor in order, each in
// fixed chunks: the same for any number of threads. On a GPU in fixed parts too; waits for it.
double gradient_norm(const std::vector<nn::NamedParameter>& parameters);
// Scales all gradients by max_norm / norm if norm > max_norm > 0 (PyTorch's clip_grad_norm_, whose
// quotient is max_norm / (norm + 1e-6)). norm: what gradient_norm gave.
void clip_gradients(const std::vector<nn::NamedParameter>& parameters, double norm,
                    double max_norm);

}  // namespace quest::train
