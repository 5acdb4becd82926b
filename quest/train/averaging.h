// Averages of the weights along the run, evaluated beside the weights themselves.
//
//   WeightAverages averages(config.averaging, model.parameters());
//   averages.update(step);                              // after each optimizer step
//   for (const std::string& name : averages.names()) {  // "ema", "mean"
//     WeightAverages::Use use(averages, name);          // the model has the average's weights
//     evaluate(model);
//   }                                                   // and its own again, bit for bit
//
//   ema   e <- d e + (1 - d) w every `interval` steps, started with the first weights it sees
//   mean  plain mean over the last complete block of `horizon` steps (Izmailov et al., arXiv
//         1803.05407, as latest-weight averaging, arXiv 2209.14981); before one is complete, of
//         the block so far
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quest/nn/llama_model.h"
#include "quest/train/optimizer.h"
#include "quest/train/train_config.h"

namespace quest::train {

class WeightAverages {
 public:
  WeightAverages(const TrainConfig::Averaging& settings,
                 std::vector<nn::NamedParameter> parameters);

  // step: optimizer steps done, from 1.
  void update(int64_t step);
  // Those that exist by now.
  std::vector<std::string> names() const;

  // While it lives, the model's parameters hold the average.
  class Use {
   public:
    Use(const WeightAverages& averages, const std::string& name);
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    const WeightAverages& averages_;
    std::vector<at::Tensor> own_;
  };

  // Live tensors as Optimizer::state(), and how many weights are in the EMA, in the open block and
  // in the complete one.
  std::vector<StateTensor> state();
  std::vector<int64_t> counts() const { return {ema_count_, open_count_, complete_count_}; }
  void set_counts(const std::vector<int64_t>& counts);  // throws kData

 private:
  const std::vector<at::Tensor>& average(const std::string& name) const;

  TrainConfig::Averaging settings_;
  std::vector<nn::NamedParameter> parameters_;
  std::vector<at::Tensor> ema_, open_, complete_;
  int64_t ema_count_ = 0, open_count_ = 0, complete_count_ = 0;
};

}  // namespace quest::train
