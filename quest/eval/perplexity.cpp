#include "quest/eval/perplexity.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "quest/base/error.h"

namespace quest {

namespace {

// Inputs [begin, begin + targets); of its targets the last `fresh` have not been scored before.
struct Window {
  int64_t begin = 0;
  int64_t targets = 0;
  int64_t fresh = 0;
};

std::vector<Window> cut_into_windows(int64_t tokens, int64_t context, int64_t stride) {
  std::vector<Window> windows;
  const int64_t total = tokens - 1;
  for (int64_t begin = 0, scored = 0; scored < total; begin += stride) {
    const int64_t targets = std::min(context, total - begin);
    windows.push_back({begin, targets, begin + targets - scored});
    scored = begin + targets;
  }
  return windows;
}

struct Settings {
  int64_t context;
  int64_t stride;
};

Settings checked(const Scorer& scorer, std::span<const int32_t> tokens,
                 const PerplexityOptions& o) {
  Settings s{o.context_length == 0 ? scorer.context_length() : o.context_length, 0};
  QUEST_CHECK(s.context >= 1 && s.context <= scorer.context_length(), ErrorKind::kUsage,
              "the context length is {}, allowed are 1 to the model's {}", s.context,
              scorer.context_length());
  s.stride = o.stride == 0 ? s.context : o.stride;
  QUEST_CHECK(s.stride >= 1 && s.stride <= s.context, ErrorKind::kUsage,
              "the stride is {}, allowed are 1 to the context length {}", s.stride, s.context);
  QUEST_CHECK(!o.text_bytes.has_value() || *o.text_bytes > 0, ErrorKind::kUsage,
              "the text has {} bytes, bits per byte need at least 1", *o.text_bytes);
  QUEST_CHECK(tokens.size() >= 2, ErrorKind::kUsage,
              "the text has {} tokens, a perplexity needs at least 2", tokens.size());
  return s;
}

// -sum of ln p of the last `fresh` targets of a window.
double nats_of(std::span<const float> logprobs, const Window& window) {
  double nats = 0;
  for (const float logprob : logprobs.last(static_cast<size_t>(window.fresh))) {
    // A little above 0 is rounding; further up or NaN is no probability.
    QUEST_CHECK(logprob <= 1e-3f, ErrorKind::kNumeric,
                "the model gave a token in the window from {} the log-probability {}", window.begin,
                logprob);
    nats -= logprob;
  }
  return nats;
}

}  // namespace

PerplexityResult perplexity(Scorer& scorer, std::span<const int32_t> tokens,
                            const PerplexityOptions& options) {
  const Settings settings = checked(scorer, tokens, options);
  const auto count = static_cast<int64_t>(tokens.size());
  const std::vector<Window> windows = cut_into_windows(count, settings.context, settings.stride);
  const auto batch = static_cast<size_t>(std::max<int64_t>(1, scorer.batch_size()));

  PerplexityResult result;
  std::vector<float> logprobs(batch * static_cast<size_t>(settings.context));
  std::vector<ScoreRequest> requests;
  for (size_t first = 0; first < windows.size(); first += batch) {
    const size_t end = std::min(windows.size(), first + batch);
    requests.clear();
    for (size_t i = first; i < end; ++i) {
      const auto targets = static_cast<size_t>(windows[i].targets);
      const size_t room = (i - first) * static_cast<size_t>(settings.context);
      requests.push_back({tokens.subspan(static_cast<size_t>(windows[i].begin), targets + 1),
                          std::span(logprobs).subspan(room, targets),
                          {}});
    }
    scorer.score(requests);
    for (size_t i = first; i < end; ++i) {
      result.total_nats += nats_of(requests[i - first].logprobs, windows[i]);
      result.tokens += windows[i].fresh;
    }
    if (options.progress) options.progress(result.tokens, count - 1);
  }
  result.loss = result.total_nats / static_cast<double>(result.tokens);
  result.perplexity = std::exp(result.loss);
  if (options.text_bytes.has_value()) {
    result.bits_per_byte =
        result.total_nats / (std::numbers::ln2 * static_cast<double>(*options.text_bytes));
  }
  return result;
}

}  // namespace quest
