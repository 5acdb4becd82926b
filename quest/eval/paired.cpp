#include "quest/eval/paired.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quest/base/error.h"
#include "quest/eval/perplexity.h"

namespace quest {
namespace {

constexpr int64_t kFewestWindows = 16;
constexpr double kErrors = 3;  // standard errors beyond a tolerance that decide

// Hands requests on and keeps what they were answered, in order.
class RecordingScorer : public Scorer {
 public:
  explicit RecordingScorer(Scorer& scorer) : scorer_(scorer) {}

  int64_t context_length() const override { return scorer_.context_length(); }
  int64_t batch_size() const override { return scorer_.batch_size(); }
  void score(std::span<const ScoreRequest> requests) override {
    scorer_.score(requests);
    for (const ScoreRequest& request : requests) {
      logprobs.insert(logprobs.end(), request.logprobs.begin(), request.logprobs.end());
    }
  }

  std::vector<float> logprobs;

 private:
  Scorer& scorer_;
};

}  // namespace

std::vector<float> token_logprobs(Scorer& scorer, std::span<const int32_t> tokens, int64_t context,
                                  const std::function<void(int64_t, int64_t)>& progress) {
  RecordingScorer recording(scorer);
  PerplexityOptions options;
  options.context_length = context;
  options.progress = progress;
  perplexity(recording, tokens, options);
  return std::move(recording.logprobs);
}

double perplexity_of(std::span<const float> logprobs) {
  double nats = 0;
  for (const float logprob : logprobs) nats -= static_cast<double>(logprob);
  return std::exp(nats / static_cast<double>(logprobs.size()));
}

PairedDifference paired_difference(std::span<const float> a, std::span<const float> b,
                                   int64_t window) {
  QUEST_ASSERT(a.size() == b.size() && !a.empty() && window >= 1, "{} and {} tokens, windows of {}",
               a.size(), b.size(), window);
  const auto tokens = static_cast<int64_t>(a.size());
  window = std::clamp<int64_t>(tokens / kFewestWindows, 1, window);
  std::vector<double> sums;  // of windows, in nats that a loses more than b
  for (int64_t i = 0; i < tokens; ++i) {
    if (i % window == 0) sums.push_back(0);
    const auto at = static_cast<size_t>(i);
    sums.back() += static_cast<double>(b[at]) - static_cast<double>(a[at]);
  }
  double total = 0;
  for (const double sum : sums) total += sum;
  const auto n = static_cast<double>(tokens), windows = static_cast<double>(sums.size());
  PairedDifference out{std::expm1(total / n), std::numeric_limits<double>::infinity()};
  if (sums.size() < 2) return out;
  double squares = 0;
  for (size_t j = 0; j < sums.size(); ++j) {
    const int64_t size = std::min(window, tokens - static_cast<int64_t>(j) * window);
    const double off = sums[j] - total / n * static_cast<double>(size);
    squares += off * off;
  }
  // The error of the mean is that of its exponential, to first order.
  out.standard_error = (1 + out.relative) * std::sqrt(windows / (windows - 1) * squares) / n;
  return out;
}

Verdict judge(const PairedDifference& difference, double tolerance) {
  const double size = std::abs(difference.relative);
  if (size <= tolerance) return Verdict::kWithin;
  return size - kErrors * difference.standard_error > tolerance ? Verdict::kBeyond
                                                                : Verdict::kUndecided;
}

const char* verdict_name(Verdict verdict) {
  switch (verdict) {
    case Verdict::kWithin:
      return "within";
    case Verdict::kUndecided:
      return "undecided";
    case Verdict::kBeyond:
      return "beyond";
  }
  return "";
}

}  // namespace quest
