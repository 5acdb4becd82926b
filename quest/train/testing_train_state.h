// A run's state with a value in every field. Tests only; header only.
#pragma once

#include "quest/train/train_state.h"

namespace quest::testing {

inline train::TrainState state_at(int64_t step) {
  train::TrainState s;
  s.step = step;
  s.tokens = 100 * step;
  s.loader = {7, 16 * step};
  s.data_fingerprint = "f";
  s.config_hash = "12345678";
  s.parent = "p";
  s.metrics = {123, "events", 45};
  s.train_seconds = 0.1;
  s.validation_loss = 1.0 / 3;
  s.guards = {{"window", {0.1, 2.5}}};
  return s;
}

}  // namespace quest::testing
