// An Engine as the Scorer through which everything is evaluated.
#pragma once

#include "quest/eval/scorer.h"
#include "quest/runtime/engine.h"

namespace quest {

// Keeps a reference to the engine and a sequence of it. Thread rules: as the engine's.
class EngineScorer : public Scorer {
 public:
  explicit EngineScorer(Engine& engine) : engine_(engine), sequence_(engine.add_sequence()) {}
  ~EngineScorer() override { engine_.remove_sequence(sequence_); }
  EngineScorer(const EngineScorer&) = delete;
  EngineScorer& operator=(const EngineScorer&) = delete;

  int64_t context_length() const override { return engine_.context_length(); }
  void score(std::span<const ScoreRequest> requests) override {
    for (const ScoreRequest& request : requests) {
      check_request(request, context_length());
      engine_.truncate(sequence_, 0);
      engine_.score(sequence_, request.tokens, {request.logprobs, request.is_greedy});
    }
  }

 private:
  Engine& engine_;
  SequenceId sequence_;
};

}  // namespace quest
