// The one interface through which anything that predicts tokens is evaluated.
//
// A Scorer says how probable each next token of a sequence is. It gives only the target's
// log-probability, so a model need not hold (T, V) logits of a whole batch at once.
//
//   void MyScorer::score(std::span<const ScoreRequest> requests) { ... run the model, fill ... }
//   PerplexityResult r = perplexity(scorer, tokens, {.context_length = 512});
#pragma once

#include <cstdint>
#include <functional>
#include <span>

namespace quest {

// One sequence of T >= 2 tokens. The scorer writes, for t in [0, T - 1):
//   logprobs[t]  = ln p(tokens[t + 1] | tokens[0 .. t])           (T - 1)
//   is_greedy[t] = 1 if tokens[t + 1] is the most probable token there (of equal ones, the one
//                  with the lowest id), else 0                    (T - 1), or empty: not wanted
struct ScoreRequest {
  std::span<const int32_t> tokens;
  std::span<float> logprobs;
  std::span<uint8_t> is_greedy;
};

class Scorer {
 public:
  virtual ~Scorer() = default;

  // The most input tokens the model can read at once: a request has at most context_length() + 1
  // tokens, since the last one is only a target.
  virtual int64_t context_length() const = 0;
  // How many sequences are best given at once.
  virtual int64_t batch_size() const { return 1; }
  // Whether a request costs less if it begins like the one before it: then such requests should
  // follow each other.
  virtual bool keeps_beginnings() const { return false; }
  // Requests are independent and may differ in length; the scorer batches and pads them as it
  // likes. Token ids outside the vocabulary: kData. A non-finite result: kNumeric.
  virtual void score(std::span<const ScoreRequest> requests) = 0;
};

// Checks a request against the contract (sizes of the spans, length). Throws kUsage. For
// implementers.
void check_request(const ScoreRequest& request, int64_t context_length);

// A function that gives logits: it reads tokens (T) and calls row(t, logits) with logits (V) of the
// token after tokens[t], for each t in [0, T). Rows may come in any order, one at a time.
using LogitsRow = std::function<void(int64_t t, std::span<const float> logits)>;
using LogitsFn = std::function<void(std::span<const int32_t> tokens, const LogitsRow& row)>;

// Any LogitsFn as a Scorer; log-softmax in double.
class LogitsScorer : public Scorer {
 public:
  LogitsScorer(LogitsFn logits, int64_t context_length);

  int64_t context_length() const override { return context_length_; }
  void score(std::span<const ScoreRequest> requests) override;

 private:
  LogitsFn logits_;
  int64_t context_length_;
};

}  // namespace quest
