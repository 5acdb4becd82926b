// Choosing the next token from a row of logits.
//
// Order of the filters, as in Hugging Face's generation: logit bias, repetition penalty on the
// logits, temperature, top-k, top-p, min-p; then one draw from what is left, in proportion.
// temperature 0 is greedy: the largest logit, the lowest id of equal ones. Ties at a filter's edge
// are broken by the lowest id too, so the result is a pure function of (settings, logits, position,
// previous tokens).
//
//   Sampler sampler({.temperature = 0.8, .top_p = 0.95, .seed = 7});
//   int32_t next = sampler.sample(logits, position, tokens_so_far);
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "quest/base/philox.h"

namespace quest {

struct SamplerSettings {
  double temperature = 1.0;  // >= 0; 0: greedy
  int64_t top_k = 0;         // the k largest logits; 0: all
  double top_p = 1.0;        // (0, 1]: the smallest set of largest ones that holds this probability
  double min_p = 0.0;        // [0, 1]: at least this fraction of the largest probability
  double repetition_penalty = 1.0;  // > 0; 1: none (Keskar et al., arXiv 1909.05858, section 4.1)
  uint64_t seed = 0;
  // Added to the logits of these tokens; -inf excludes one.
  std::vector<std::pair<int32_t, float>> logit_bias = {};

  bool operator==(const SamplerSettings&) const = default;
};

// Throws kUsage with the setting's name, value and range.
void validate(const SamplerSettings& settings);

// Thread rules: sample() uses scratch memory of its own; one Sampler per thread.
class Sampler {
 public:
  explicit Sampler(const SamplerSettings& settings);  // validates

  // logits (V); -inf excludes a token. position is the index of the random draw: the same position
  // gives the same draw. `previous` are the tokens that repetition_penalty applies to; ids outside
  // [0, V) are ignored. Throws kNumeric if a logit is NaN or +inf or if all are -inf; kUsage if
  // logits is empty or a bias names a token outside [0, V).
  int32_t sample(std::span<const float> logits, uint64_t position,
                 std::span<const int32_t> previous = {});

  const SamplerSettings& settings() const { return settings_; }

 private:
  struct Candidate {
    int32_t id;
    double value;  // logit, then weight exp(logit - largest)
  };
  int32_t largest(std::span<const float> logits) const;
  void load_candidates(std::span<const float> logits, std::span<const int32_t> previous);
  void filter();

  SamplerSettings settings_;
  Philox random_;
  std::vector<Candidate> candidates_;
  std::vector<uint8_t> seen_;
  std::vector<float> biased_;
};

}  // namespace quest
