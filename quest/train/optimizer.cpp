#include "quest/train/optimizer.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/scalar_tensor.h>

#include "quest/base/error.h"
#include "quest/ops/gpu_optimizer.h"

namespace quest::train {
namespace {

std::vector<at::Tensor> gradients(const std::vector<nn::NamedParameter>& parameters) {
  std::vector<at::Tensor> out;
  out.reserve(parameters.size());
  for (const auto& p : parameters) {
    QUEST_ASSERT(p.tensor.grad().defined(), "a parameter has no gradient");
    out.push_back(p.tensor.grad());
  }
  return out;
}

void name_state(std::vector<StateTensor>& out, const std::vector<nn::NamedParameter>& parameters,
                const std::vector<at::Tensor>& tensors, const std::string& suffix) {
  for (size_t k = 0; k < parameters.size(); ++k) {
    out.push_back({parameters[k].name + "." + suffix, tensors[k]});
  }
}

double decay_of(const nn::NamedParameter& p, const TrainConfig::Optimizer& settings) {
  if (!p.weight_decay) return 0;
  return p.of_quantizer ? settings.quantizer_weight_decay : settings.weight_decay;
}

// at::_fused_adamw_: one pass over each parameter, per group of equal weight decay.
class AdamW : public Optimizer {
 public:
  AdamW(const TrainConfig::Optimizer& settings, std::vector<nn::NamedParameter> parameters)
      : settings_(settings),
        parameters_(std::move(parameters)),
        first_(nn::zeros_like(parameters_)),
        second_(nn::zeros_like(parameters_)) {}

  std::string name() const override { return "adamw"; }

  void step(double lr) override {
    const at::NoGradGuard no_grad;
    const std::vector<at::Tensor> grads = gradients(parameters_);
    ++steps_;
    std::set<double> decays;
    for (const nn::NamedParameter& p : parameters_) decays.insert(decay_of(p, settings_));
    for (const double decay : decays) {
      std::vector<at::Tensor> p, g, first, second, count;
      for (size_t k = 0; k < parameters_.size(); ++k) {
        if (decay_of(parameters_[k], settings_) != decay) continue;
        p.push_back(parameters_[k].tensor);
        g.push_back(grads[k]);
        first.push_back(first_[k]);
        second.push_back(second_[k]);
        count.push_back(at::scalar_tensor(static_cast<double>(steps_),
                                          at::TensorOptions(at::kFloat).device(p.back().device())));
      }
      at::_fused_adamw_(p, g, first, second, {}, count, lr, settings_.beta1, settings_.beta2, decay,
                        settings_.eps, /*amsgrad=*/false, /*maximize=*/false);
    }
    raise_versions(parameters_);
  }

  bool can_enqueue() const override { return true; }
  void enqueue(const at::Tensor& control) override {
    const std::vector<at::Tensor> grads = gradients(parameters_);
    std::vector<ops::AdamWTensors> tensors;
    for (size_t k = 0; k < parameters_.size(); ++k) {
      tensors.push_back({parameters_[k].tensor, grads[k], first_[k], second_[k],
                         decay_of(parameters_[k], settings_)});
    }
    ops::adamw_step(tensors, {settings_.beta1, settings_.beta2, settings_.eps}, control);
  }

  std::vector<StateTensor> state() override {
    std::vector<StateTensor> out;
    name_state(out, parameters_, first_, "exp_avg");
    name_state(out, parameters_, second_, "exp_avg_sq");
    return out;
  }

 private:
  TrainConfig::Optimizer settings_;
  std::vector<nn::NamedParameter> parameters_;
  std::vector<at::Tensor> first_, second_;
};

class Sgd : public Optimizer {
 public:
  Sgd(const TrainConfig::Optimizer& settings, std::vector<nn::NamedParameter> parameters)
      : settings_(settings), parameters_(std::move(parameters)) {
    if (settings_.momentum > 0) momentum_ = nn::zeros_like(parameters_);
  }

  std::string name() const override { return "sgd"; }

  void step(double lr) override {
    const at::NoGradGuard no_grad;
    const std::vector<at::Tensor> grads = gradients(parameters_);
    std::vector<at::Tensor> tensors;
    for (const auto& p : parameters_) {
      if (const double decay = decay_of(p, settings_); decay > 0) {
        at::Tensor(p.tensor).mul_(1 - lr * decay);
      }
      tensors.push_back(p.tensor);
    }
    at::_fused_sgd_(tensors, grads, momentum_, /*weight_decay=*/0.0, settings_.momentum, lr,
                    /*dampening=*/0.0, settings_.nesterov, /*maximize=*/false,
                    /*is_first_step=*/steps_ == 0);
    raise_versions(parameters_);
    ++steps_;
  }

  std::vector<StateTensor> state() override {
    std::vector<StateTensor> out;
    if (!momentum_.empty()) name_state(out, parameters_, momentum_, "momentum");
    return out;
  }

 private:
  TrainConfig::Optimizer settings_;
  std::vector<nn::NamedParameter> parameters_;
  std::vector<at::Tensor> momentum_;
};

// Schedule-Free AdamW (Defazio et al., arXiv 2405.15682, algorithm 1 as its authors' program has
// it). Parameters hold y = (1 - beta1) z + beta1 x while training; z is state, x is only formed for
// evaluation.
class ScheduleFreeAdamW : public Optimizer {
 public:
  ScheduleFreeAdamW(const TrainConfig::Optimizer& settings,
                    std::vector<nn::NamedParameter> parameters)
      : settings_(settings),
        parameters_(std::move(parameters)),
        second_(nn::zeros_like(parameters_)) {
    QUEST_CHECK(settings.beta1 > 0, ErrorKind::kUsage,
                "optimizer.beta1 is 0: schedule_free_adamw needs it above 0 to average");
    for (const auto& p : parameters_) z_.push_back(p.tensor.detach().clone());
  }

  std::string name() const override { return "schedule_free_adamw"; }

  void step(double lr) override {
    QUEST_ASSERT(training_point_.empty(), "a step at the evaluation point");
    const at::NoGradGuard no_grad;
    const std::vector<at::Tensor> grads = gradients(parameters_);
    start_z();
    ++steps_;
    lr_max_ = std::max(lr_max_, lr);
    const double weight = lr_max_ * lr_max_;
    weight_sum_ += weight;
    const double c = weight_sum_ > 0 ? weight / weight_sum_ : 0;
    const double correction = 1 - std::pow(settings_.beta2, static_cast<double>(steps_));
    for (size_t k = 0; k < parameters_.size(); ++k) {
      at::Tensor y = parameters_[k].tensor;
      second_[k].mul_(settings_.beta2).addcmul_(grads[k], grads[k], 1 - settings_.beta2);
      at::Tensor direction = grads[k] / second_[k].div(correction).sqrt_().add_(settings_.eps);
      if (const double decay = decay_of(parameters_[k], settings_); decay > 0) {
        direction.add_(y, decay);
      }
      y.lerp_(z_[k], c);
      y.add_(direction, lr * (settings_.beta1 * (1 - c) - 1));
      z_[k].sub_(direction, lr);
    }
  }

  void to_evaluation_point() override {
    QUEST_ASSERT(training_point_.empty(), "already at the evaluation point");
    const at::NoGradGuard no_grad;
    start_z();
    for (size_t k = 0; k < parameters_.size(); ++k) {
      at::Tensor y = parameters_[k].tensor;
      training_point_.push_back(y.detach().clone());
      y.lerp_(z_[k], 1 - 1 / settings_.beta1);
    }
  }

  void to_training_point() override {
    QUEST_ASSERT(!training_point_.empty(), "already at the training point");
    const at::NoGradGuard no_grad;
    for (size_t k = 0; k < parameters_.size(); ++k) {
      at::Tensor(parameters_[k].tensor).copy_(training_point_[k]);
    }
    training_point_.clear();
  }

  std::vector<StateTensor> training_point() override {
    std::vector<StateTensor> out;
    if (!training_point_.empty()) {
      name_state(out, parameters_, training_point_, "training_point");
    }
    return out;
  }

  std::vector<StateTensor> state() override {
    std::vector<StateTensor> out;
    name_state(out, parameters_, z_, "z");
    name_state(out, parameters_, second_, "exp_avg_sq");
    return out;
  }
  std::vector<double> scalars() const override { return {lr_max_, weight_sum_}; }
  void set_scalars(const std::vector<double>& values) override {
    QUEST_CHECK(values.size() == 2, ErrorKind::kData,
                "schedule_free_adamw has 2 numbers of state, the checkpoint {}", values.size());
    lr_max_ = values[0];
    weight_sum_ = values[1];
  }

 private:
  // Before the first step: the weights may have been loaded after construction. In a run that goes
  // on from another one, what its quantizers learn anew: z still has no values there, as at
  // construction.
  void start_z() {
    if (started_) return;
    for (size_t k = 0; k < parameters_.size(); ++k) {
      const bool begins =
          steps_ == 0 || (parameters_[k].of_quantizer && z_[k].isnan().any().item<bool>());
      if (begins) z_[k].copy_(parameters_[k].tensor);
    }
    started_ = steps_ > 0;
  }

  TrainConfig::Optimizer settings_;
  std::vector<nn::NamedParameter> parameters_;
  std::vector<at::Tensor> z_, second_, training_point_;
  double lr_max_ = 0, weight_sum_ = 0;
  bool started_ = false;  // z has values that are steps' own
};

constexpr int64_t kNormChunk = 1 << 16;

template <class Real>
double chunk_squares(const Real* x, int64_t n) {
  std::array<double, 8> lanes{};
  int64_t k = 0;
  for (; k + 8 <= n; k += 8) {
    for (int64_t j = 0; j < 8; ++j) {
      const double v = static_cast<double>(x[k + j]);
      lanes[static_cast<size_t>(j)] += v * v;
    }
  }
  double sum = 0;
  for (; k < n; ++k) sum += static_cast<double>(x[k]) * static_cast<double>(x[k]);
  for (const double lane : lanes) sum += lane;
  return sum;
}

double sum_squares(const at::Tensor& tensor) {
  const at::Tensor values = tensor.contiguous();
  const int64_t n = values.numel();
  std::vector<double> sums(static_cast<size_t>((n + kNormChunk - 1) / kNormChunk));
  const auto run = [&]<class Real>(const Real* x) {
    at::parallel_for(0, static_cast<int64_t>(sums.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        const int64_t first = c * kNormChunk;
        sums[static_cast<size_t>(c)] = chunk_squares(x + first, std::min(kNormChunk, n - first));
      }
    });
  };
  if (values.scalar_type() == at::kDouble) {
    run(values.const_data_ptr<double>());
  } else {
    run(values.to(at::kFloat).const_data_ptr<float>());
  }
  double sum = 0;
  for (const double s : sums) sum += s;
  return sum;
}

}  // namespace

void raise_versions(const std::vector<nn::NamedParameter>& parameters) {
  for (const auto& p : parameters) p.tensor.unsafeGetTensorImpl()->bump_version();
}

void Optimizer::enqueue(const at::Tensor&) { QUEST_ASSERT(false, "{} has no enqueue", name()); }

void Optimizer::set_scalars(const std::vector<double>& values) {
  QUEST_CHECK(values.empty(), ErrorKind::kData, "{} has no numbers of state, the checkpoint {}",
              name(), values.size());
}

std::unique_ptr<Optimizer> make_optimizer(const TrainConfig::Optimizer& settings,
                                          std::vector<nn::NamedParameter> parameters) {
  if (settings.name == "adamw") return std::make_unique<AdamW>(settings, std::move(parameters));
  if (settings.name == "sgd") return std::make_unique<Sgd>(settings, std::move(parameters));
  QUEST_CHECK(settings.name == "schedule_free_adamw", ErrorKind::kUsage,
              "optimizer.name is \"{}\", allowed: adamw, sgd, schedule_free_adamw", settings.name);
  return std::make_unique<ScheduleFreeAdamW>(settings, std::move(parameters));
}

double gradient_norm(const std::vector<nn::NamedParameter>& parameters) {
  if (!parameters.empty() && parameters.front().tensor.is_cuda()) {
    const at::Tensor control = ops::make_step_control();
    ops::begin_step(gradients(parameters), 0, 0, 0, control);
    return control.select(0, ops::StepControl::kGradientNorm).item<double>();
  }
  double sum = 0;
  for (const at::Tensor& grad : gradients(parameters)) sum += sum_squares(grad);
  return std::sqrt(sum);
}

void clip_gradients(const std::vector<nn::NamedParameter>& parameters, double norm,
                    double max_norm) {
  const double factor = max_norm / (norm + 1e-6);
  if (max_norm <= 0 || !(factor < 1)) return;
  const at::NoGradGuard no_grad;
  for (at::Tensor grad : gradients(parameters)) grad.mul_(factor);
}

}  // namespace quest::train
