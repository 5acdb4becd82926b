#include "quest/cli_run/engine_scorer.h"

#include <algorithm>
#include <utility>

#include "quest/base/shutdown.h"

namespace quest {
namespace {

// Tokens between two looks for a signal.
constexpr size_t kPart = 512;

}  // namespace

void EngineScorer::score(std::span<const ScoreRequest> requests) {
  for (const ScoreRequest& request : requests) {
    check_request(request, context_length());
    score_one(request);
  }
}

void EngineScorer::score_one(const ScoreRequest& request) {
  const auto tokens = request.tokens;
  // Nothing is held while the engine is at work: it may throw.
  const std::vector<int32_t> before = std::exchange(tokens_, {});
  const auto [differs, unused] =
      std::mismatch(before.begin(), before.end(), tokens.begin(), tokens.end());
  const auto common = static_cast<size_t>(differs - before.begin());
  // At least one token is read.
  const size_t known = common == 0 ? 0 : std::min(common - 1, tokens.size() - 2);
  engine_.truncate(sequence_, static_cast<int64_t>(known));
  logprobs_.resize(tokens.size() - 1);
  is_greedy_.resize(tokens.size() - 1);
  for (size_t at = known; at + 1 < tokens.size();) {
    stop_if_asked();
    const size_t count = std::min(kPart, tokens.size() - 1 - at);
    engine_.score(
        sequence_, tokens.subspan(at, count + 1),
        {std::span(logprobs_).subspan(at, count), std::span(is_greedy_).subspan(at, count)});
    at += count;
    tokens_read_ += static_cast<int64_t>(count);
  }
  std::copy(logprobs_.begin(), logprobs_.end(), request.logprobs.begin());
  if (!request.is_greedy.empty()) {
    std::copy(is_greedy_.begin(), is_greedy_.end(), request.is_greedy.begin());
  }
  tokens_.assign(tokens.begin(), tokens.end());
}

}  // namespace quest
