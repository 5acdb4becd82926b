#include "quest/train/averaging.h"

#include <ATen/core/grad_mode.h>

#include "quest/base/error.h"

namespace quest::train {

WeightAverages::WeightAverages(const TrainConfig::Averaging& settings,
                               std::vector<nn::NamedParameter> parameters)
    : settings_(settings), parameters_(std::move(parameters)) {
  if (settings_.ema_decay > 0) ema_ = nn::zeros_like(parameters_);
  if (settings_.horizon > 0) {
    open_ = nn::zeros_like(parameters_);
    complete_ = nn::zeros_like(parameters_);
  }
}

void WeightAverages::update(int64_t step) {
  if (step % settings_.interval != 0) return;
  const at::NoGradGuard no_grad;
  const int64_t block = settings_.horizon / settings_.interval;
  if (!ema_.empty()) ++ema_count_;
  if (!open_.empty()) ++open_count_;
  for (size_t k = 0; k < parameters_.size(); ++k) {
    const at::Tensor w = parameters_[k].tensor.detach();
    if (ema_count_ == 1) {
      ema_[k].copy_(w);
    } else if (!ema_.empty()) {
      ema_[k].lerp_(w, 1 - settings_.ema_decay);
    }
    if (open_count_ == 1) {
      open_[k].copy_(w);
    } else if (!open_.empty()) {
      open_[k].lerp_(w, 1.0 / static_cast<double>(open_count_));
    }
    if (!open_.empty() && open_count_ == block) complete_[k].copy_(open_[k]);
  }
  if (!open_.empty() && open_count_ == block) {
    complete_count_ = block;
    open_count_ = 0;
  }
}

std::vector<std::string> WeightAverages::names() const {
  std::vector<std::string> out;
  if (ema_count_ > 0) out.push_back("ema");
  if (complete_count_ + open_count_ > 0) out.push_back("mean");
  return out;
}

const std::vector<at::Tensor>& WeightAverages::average(const std::string& name) const {
  if (name == "ema") return ema_;
  QUEST_ASSERT(name == "mean", "an average that does not exist");
  return complete_count_ > 0 ? complete_ : open_;
}

WeightAverages::Use::Use(const WeightAverages& averages, const std::string& name)
    : averages_(averages) {
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor>& average = averages.average(name);
  for (size_t k = 0; k < average.size(); ++k) {
    at::Tensor w = averages.parameters_[k].tensor;
    own_.push_back(w.detach().clone());
    w.copy_(average[k]);
  }
}

WeightAverages::Use::~Use() {
  const at::NoGradGuard no_grad;
  for (size_t k = 0; k < own_.size(); ++k) {
    at::Tensor(averages_.parameters_[k].tensor).copy_(own_[k]);
  }
}

std::vector<StateTensor> WeightAverages::state() {
  std::vector<StateTensor> out;
  const auto add = [&](const std::vector<at::Tensor>& tensors, const char* suffix) {
    for (size_t k = 0; k < tensors.size(); ++k) {
      out.push_back({parameters_[k].name + suffix, tensors[k]});
    }
  };
  add(ema_, ".ema");
  add(open_, ".mean_open");
  add(complete_, ".mean_complete");
  return out;
}

void WeightAverages::set_counts(const std::vector<int64_t>& counts) {
  QUEST_CHECK(counts.size() == 3, ErrorKind::kData, "averages have 3 counts, the checkpoint {}",
              counts.size());
  ema_count_ = counts[0];
  open_count_ = counts[1];
  complete_count_ = counts[2];
}

}  // namespace quest::train
