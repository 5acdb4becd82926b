// Perplexity of a text under a Scorer.
//
// The text is cut into windows of context_length inputs (context_length + 1 tokens). The first
// window scores all its targets, each further one begins `stride` tokens later and scores the
// targets that no window before it has scored: every token but the first of the text is scored
// exactly once. With stride = context_length (the default) windows only share a border token, as in
// training.
//
//   PerplexityResult r = perplexity(scorer, tokens, {.context_length = 512, .text_bytes = n});
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "quest/eval/scorer.h"

namespace quest {

struct PerplexityOptions {
  int64_t context_length = 0;  // inputs per window; 0: the scorer's own
  int64_t stride = 0;  // 1 .. context_length; 0: context_length. Smaller: more context, slower
  std::optional<int64_t> text_bytes =
      {};  // bytes of the text that `tokens` encode: for bits per byte
  // Called after each batch with the targets scored so far and in all; may throw to stop.
  std::function<void(int64_t done, int64_t total)> progress = {};
};

struct PerplexityResult {
  int64_t tokens = 0;                   // targets scored: all tokens but the first
  double total_nats = 0;                // -sum of ln p
  double loss = 0;                      // nats per token
  double perplexity = 0;                // exp(loss)
  std::optional<double> bits_per_byte;  // total_nats / (ln 2 * text_bytes)
};

// tokens (n), n >= 2. Throws kUsage for impossible options or too few tokens, kNumeric if the
// scorer gives a log-probability that is NaN or above 0.
PerplexityResult perplexity(Scorer& scorer, std::span<const int32_t> tokens,
                            const PerplexityOptions& options = {});

}  // namespace quest
