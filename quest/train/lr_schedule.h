// The learning rate of each step, as a pure function of the step.
//
//   LrSchedule schedule(config.schedule, config.optimizer.lr, total_steps);
//   double lr = schedule.at(step);      // step in [0, total_steps): before update number step + 1
//
// N steps in all, W of warm-up, lr the highest rate, start = lr / div_factor,
// end = start / final_div_factor:
//   onecycle  PyTorch's OneCycleLR(total_steps=N, pct_start=W/N, anneal_strategy="cos"):
//             cosine from start to lr at step W - 1, then to end at step N - 1. The paper's.
//   linear    the same with anneal_strategy="linear".
//   cos       line from start at step 0 to lr at step W, cosine to end at step N.
//   cos_inf   the same, the cosine ending at step N - constant_fraction N, then constant.
//   wsd       line from start to lr at step W, constant, over the last decay_fraction N steps
//             a decay of the given shape to lr * decay_final_factor (warm-up, stable, decay).
//   constant  line from start to lr at step W, constant. Without warm-up: no schedule.
// Beyond the last step the rate stays what it was there.
#pragma once

#include <cstdint>
#include <string>

#include "quest/train/train_config.h"

namespace quest::train {

class LrSchedule {
 public:
  // Throws kUsage if the parts do not fit into total_steps.
  LrSchedule(const TrainConfig::Schedule& settings, double lr, int64_t total_steps);

  double at(int64_t step) const;
  int64_t total_steps() const { return total_; }
  int64_t warmup_steps() const { return warmup_; }

 private:
  double one_cycle(int64_t step) const;
  double warmup_line(int64_t step) const;
  double cosine_to_end(int64_t step, int64_t last) const;
  double stable_decay(int64_t step) const;

  TrainConfig::Schedule settings_;
  double lr_, start_, end_;
  int64_t total_, warmup_, decay_, constant_;
};

}  // namespace quest::train
