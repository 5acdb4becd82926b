// A LlamaModel as the Scorer through which everything is evaluated.
//
//   ModelScorer scorer(model, /*batch=*/8);
//   PerplexityResult r = perplexity(scorer, tokens, {.context_length = 512});
#pragma once

#include <cstdint>
#include <span>

#include "quest/eval/scorer.h"
#include "quest/nn/llama_model.h"

namespace quest::train {

// Keeps a reference to the model. Thread rules: as the model's.
class ModelScorer : public Scorer {
 public:
  ModelScorer(nn::LlamaModel& model, int64_t batch);

  int64_t context_length() const override { return model_.config().max_position_embeddings; }
  int64_t batch_size() const override { return batch_; }
  void score(std::span<const ScoreRequest> requests) override;

 private:
  void score_batch(std::span<const ScoreRequest> requests);

  nn::LlamaModel& model_;
  int64_t batch_;
};

}  // namespace quest::train
