// Two models on the same text: by how much their perplexities differ, and how sure that is.
//
//   const std::vector<float> a = token_logprobs(packed, tokens, 256);
//   const std::vector<float> b = token_logprobs(training, tokens, 256);
//   const PairedDifference d = paired_difference(a, b, 256);
//   judge(d, 0.001);     // kWithin: the first one's perplexity is at most 0.1 % away
//
// The same tokens are compared one by one, so what makes a text hard cancels and a difference far
// below the scatter of the losses themselves is seen.
//
// Thread rules: pure but for the scorer.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "quest/eval/scorer.h"

namespace quest {

// ln p of each token but the first, in windows of `context` inputs as perplexity() cuts them
// (stride = context). tokens (n), n >= 2 -> (n - 1). progress: as in PerplexityOptions. Throws as
// perplexity().
std::vector<float> token_logprobs(Scorer& scorer, std::span<const int32_t> tokens, int64_t context,
                                  const std::function<void(int64_t, int64_t)>& progress = {});

double perplexity_of(std::span<const float> logprobs);  // exp(-mean)

struct PairedDifference {
  double relative = 0;  // perplexity of a / perplexity of b - 1
  // Of `relative`, from the scatter of the differences of windows (tokens within one depend on each
  // other); infinity if there are less than two windows.
  double standard_error = 0;
};
// a, b (n): logprobs of the same tokens; window >= 1: tokens that may depend on each other. Texts
// of less than 16 windows are cut into 16. Asserts equal sizes, n >= 1.
PairedDifference paired_difference(std::span<const float> a, std::span<const float> b,
                                   int64_t window);

enum class Verdict {
  kWithin,     // |relative| <= tolerance
  kUndecided,  // above, but by less than three standard errors: the text is too short to tell
  kBeyond
};
Verdict judge(const PairedDifference& difference, double tolerance);
const char* verdict_name(Verdict verdict);  // "within", "undecided", "beyond"

}  // namespace quest
