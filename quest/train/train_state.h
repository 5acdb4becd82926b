// Where a run is: what a checkpoint's state.json holds.
//
//   TrainState state = train_state_from_json(read_json(path), path.string());
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <nlohmann/json.hpp>

#include "quest/data/data_loader.h"
#include "quest/train/metrics.h"

namespace quest::train {

struct TrainState {
  int64_t step = 0;          // optimizer steps behind (skipped ones included)
  int64_t tokens = 0;        // input tokens behind
  int64_t first_tokens = 0;  // tokens that the parent had behind it
  DataLoaderState loader;
  std::string data_fingerprint;  // of the training token files
  std::string config_hash;
  std::string parent;  // checkpoint that the run began from; empty: none
  MetricsPosition metrics;
  double train_seconds = 0;  // in steps, all processes of this run together
  double wall_seconds = 0;   // with evaluations and checkpoints
  nlohmann::json evaluation = nlohmann::json::object();  // line of the last one
  std::optional<double> validation_loss;                 // if this very step was evaluated
  nlohmann::json guards = nlohmann::json::object();
};
nlohmann::json to_json(const TrainState& state);
// Throws kData, starting with `where`, for what no run writes.
TrainState train_state_from_json(const nlohmann::json& json, const std::string& where);

}  // namespace quest::train
