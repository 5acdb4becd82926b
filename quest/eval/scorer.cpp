#include "quest/eval/scorer.h"

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "quest/base/error.h"
#include "quest/base/portable_math.h"

namespace quest {

void check_request(const ScoreRequest& request, int64_t context_length) {
  const size_t tokens = request.tokens.size();
  QUEST_CHECK(tokens >= 2, ErrorKind::kUsage,
              "a sequence to score has {} tokens, at least 2 are needed", tokens);
  QUEST_CHECK(static_cast<int64_t>(tokens) <= context_length + 1, ErrorKind::kUsage,
              "a sequence to score has {} tokens, the model's context allows {}", tokens,
              context_length + 1);
  QUEST_CHECK(request.logprobs.size() == tokens - 1, ErrorKind::kUsage,
              "room for {} log-probabilities was given, {} tokens have {}", request.logprobs.size(),
              tokens, tokens - 1);
  QUEST_CHECK(request.is_greedy.empty() || request.is_greedy.size() == tokens - 1,
              ErrorKind::kUsage, "room for {} greedy marks was given, {} tokens have {}",
              request.is_greedy.size(), tokens, tokens - 1);
}

namespace {

// ln softmax(logits)[target] in double, and whether target is the largest (the lowest id of
// equals).
std::pair<double, bool> score_row(std::span<const float> logits, int32_t target) {
  const auto size = static_cast<int64_t>(logits.size());
  QUEST_CHECK(target >= 0 && target < size, ErrorKind::kData,
              "token {} is outside the vocabulary of {}", target, size);
  size_t best = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    QUEST_CHECK(!std::isnan(logits[i]) && logits[i] < std::numeric_limits<float>::infinity(),
                ErrorKind::kNumeric,
                "the logit of token {} is {}: the model's output is not finite", i, logits[i]);
    if (logits[i] > logits[best]) best = i;
  }
  QUEST_CHECK(std::isfinite(logits[best]), ErrorKind::kNumeric, "all {} logits are -inf", size);
  const double largest = logits[best];
  double sum = 0;
  for (const float logit : logits) sum += portable::exp(logit - largest);
  const auto index = static_cast<size_t>(target);
  return {logits[index] - largest - portable::log(sum), best == index};
}

}  // namespace

LogitsScorer::LogitsScorer(LogitsFn logits, int64_t context_length)
    : logits_(std::move(logits)), context_length_(context_length) {
  QUEST_CHECK(context_length_ >= 1, ErrorKind::kUsage,
              "the context length is {}, allowed are 1 and more", context_length_);
}

void LogitsScorer::score(std::span<const ScoreRequest> requests) {
  for (const ScoreRequest& request : requests) {
    check_request(request, context_length_);
    const auto inputs = request.tokens.first(request.tokens.size() - 1);
    std::vector<uint8_t> seen(inputs.size(), 0);
    logits_(inputs, [&](int64_t t, std::span<const float> row) {
      QUEST_CHECK(t >= 0 && t < static_cast<int64_t>(inputs.size()), ErrorKind::kUsage,
                  "logits of position {} were given for {} tokens", t, inputs.size());
      const auto i = static_cast<size_t>(t);
      const auto [logprob, greedy] = score_row(row, request.tokens[i + 1]);
      request.logprobs[i] = static_cast<float>(logprob);
      if (!request.is_greedy.empty()) request.is_greedy[i] = greedy ? 1 : 0;
      seen[i] = 1;
    });
    for (size_t i = 0; i < seen.size(); ++i) {
      QUEST_CHECK(seen[i] != 0, ErrorKind::kUsage, "logits of position {} of {} were not given", i,
                  seen.size());
    }
  }
}

}  // namespace quest
