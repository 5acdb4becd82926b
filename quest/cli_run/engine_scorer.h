// An Engine as the Scorer through which everything is evaluated.
#pragma once

#include <cstdint>
#include <vector>

#include "quest/eval/scorer.h"
#include "quest/runtime/engine.h"

namespace quest {

// What a request has in common with the beginning of the one before it is not computed again; the
// results are the same bits, as the engine's do not depend on how a text is cut.
//
// Keeps a reference to the engine and a sequence of it. Looks for a signal between parts of a
// request (stop_if_asked()). Thread rules: as the engine's.
class EngineScorer : public Scorer {
 public:
  explicit EngineScorer(Engine& engine) : engine_(engine), sequence_(engine.add_sequence()) {}
  ~EngineScorer() override { engine_.remove_sequence(sequence_); }
  EngineScorer(const EngineScorer&) = delete;
  EngineScorer& operator=(const EngineScorer&) = delete;

  int64_t context_length() const override { return engine_.context_length(); }
  bool keeps_beginnings() const override { return true; }
  void score(std::span<const ScoreRequest> requests) override;
  int64_t tokens_read() const { return tokens_read_; }  // by the engine, of all requests

 private:
  void score_one(const ScoreRequest& request);

  Engine& engine_;
  SequenceId sequence_;
  // Of the request before: T tokens, what the engine said of them (T - 1).
  std::vector<int32_t> tokens_;
  std::vector<float> logprobs_;
  std::vector<uint8_t> is_greedy_;
  int64_t tokens_read_ = 0;
};

}  // namespace quest
