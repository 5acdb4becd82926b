// Watches each step's loss and gradient norm before the optimizer uses them.
//
//   switch (guards.check(step, loss, norm)) { case Verdict::kSkip: ... }
//
// A step that is not finite is skipped or ends the run. A step whose loss is spike_z standard
// deviations above the mean of the last losses is reported, skipped or ends the run. Every verdict
// but kGood is logged. Losses of skipped steps do not enter the window.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include <nlohmann/json.hpp>

#include "quest/train/train_config.h"

namespace quest::train {

enum class Verdict { kGood, kSpike, kSkip };

class Guards {
 public:
  explicit Guards(const TrainConfig::Guards& settings) : settings_(settings) {}

  // step: number of the step, from 1. Throws kNumeric where the settings say stop, and after
  // max_skipped skipped steps in a row.
  Verdict check(int64_t step, double loss, double gradient_norm);

  // Mean of the losses in the window; 0 if there are none.
  double mean_loss() const;

  // Everything that decides, for state.json; restore() throws kData.
  nlohmann::json state() const;
  void restore(const nlohmann::json& state);

 private:
  Verdict skip(int64_t step, const std::string& what);
  // Standard deviations above the window's mean; 0 while the window is less than half full.
  double z_score(double loss) const;

  TrainConfig::Guards settings_;
  std::deque<double> window_;
  int64_t skipped_in_a_row_ = 0;
};

}  // namespace quest::train
