#include "quest/train/model_scorer.h"

#include <algorithm>
#include <cmath>

#include <ATen/ops/argmax.h>
#include <ATen/ops/full.h>

#include "quest/base/error.h"
#include "quest/ops/gpu_errors.h"

namespace quest::train {
namespace {

constexpr int64_t kIgnored = -100;

}  // namespace

ModelScorer::ModelScorer(nn::LlamaModel& model, int64_t batch) : model_(model), batch_(batch) {
  QUEST_CHECK(batch > 0, ErrorKind::kUsage, "batch size is {}, at least 1 is needed", batch);
}

void ModelScorer::score(std::span<const ScoreRequest> requests) {
  for (const ScoreRequest& request : requests) check_request(request, context_length());
  while (!requests.empty()) {
    const size_t n = std::min(requests.size(), static_cast<size_t>(batch_));
    ops::with_gpu_errors(model_.device(),
                         "fewer sequences at once (eval.batch_size; quest eval: --batch) need less",
                         [&] { score_batch(requests.first(n)); });
    requests = requests.subspan(n);
  }
}

void ModelScorer::score_batch(std::span<const ScoreRequest> requests) {
  const auto rows = static_cast<int64_t>(requests.size());
  int64_t length = 0;  // T: inputs of the longest
  bool greedy = false;
  for (const ScoreRequest& r : requests) {
    length = std::max(length, static_cast<int64_t>(r.tokens.size()) - 1);
    greedy = greedy || !r.is_greedy.empty();
  }
  // Padding follows a sequence, so causal attention keeps it out of the tokens before.
  const at::Tensor tokens = at::full({rows, length}, 0, at::kLong);          // (B, T)
  const at::Tensor targets = at::full({rows, length}, kIgnored, at::kLong);  // (B, T)
  for (int64_t b = 0; b < rows; ++b) {
    const auto& ids = requests[static_cast<size_t>(b)].tokens;
    for (size_t t = 0; t + 1 < ids.size(); ++t) {
      const int64_t at = b * length + static_cast<int64_t>(t);
      tokens.data_ptr<int64_t>()[at] = ids[t];
      targets.data_ptr<int64_t>()[at] = ids[t + 1];
    }
  }
  const at::Tensor losses = model_.token_losses(tokens, targets).to(at::kFloat).contiguous();
  const at::Tensor best = greedy ? model_.logits(tokens).argmax(-1).contiguous() : at::Tensor();
  for (int64_t b = 0; b < rows; ++b) {
    const ScoreRequest& r = requests[static_cast<size_t>(b)];
    for (size_t t = 0; t + 1 < r.tokens.size(); ++t) {
      const int64_t at = b * length + static_cast<int64_t>(t);
      const float loss = losses.const_data_ptr<float>()[at];
      QUEST_CHECK(std::isfinite(loss), ErrorKind::kNumeric,
                  "the model's loss is {} at token {} of a sequence", loss, t + 1);
      // A loss of rounding's -1e-8 is probability 1.
      r.logprobs[t] = std::min(-loss, 0.0f);
      if (!r.is_greedy.empty()) {
        r.is_greedy[t] = best.const_data_ptr<int64_t>()[at] == r.tokens[t + 1] ? 1 : 0;
      }
    }
  }
}

}  // namespace quest::train
