#include "quest/runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quest/base/error.h"
#include "quest/base/portable_math.h"

namespace quest {

void validate(const SamplerSettings& s) {
  // Written so that NaN fails every check.
  QUEST_CHECK(s.temperature >= 0 && std::isfinite(s.temperature), ErrorKind::kUsage,
              "temperature is {}, allowed are 0 (greedy) and more", s.temperature);
  QUEST_CHECK(s.top_k >= 0, ErrorKind::kUsage, "top_k is {}, allowed are 0 (all) and more",
              s.top_k);
  QUEST_CHECK(s.top_p > 0 && s.top_p <= 1, ErrorKind::kUsage,
              "top_p is {}, allowed are numbers above 0 up to 1 (all)", s.top_p);
  QUEST_CHECK(s.min_p >= 0 && s.min_p <= 1, ErrorKind::kUsage,
              "min_p is {}, allowed are numbers from 0 (all) to 1", s.min_p);
  QUEST_CHECK(s.repetition_penalty > 0 && std::isfinite(s.repetition_penalty), ErrorKind::kUsage,
              "repetition_penalty is {}, allowed are numbers above 0 (1: none)",
              s.repetition_penalty);
  for (const auto& [id, bias] : s.logit_bias) {
    QUEST_CHECK(id >= 0 && bias < std::numeric_limits<float>::infinity(), ErrorKind::kUsage,
                "logit_bias of token {} is {}, allowed are numbers and -inf for tokens from 0 on",
                id, bias);
  }
}

Sampler::Sampler(const SamplerSettings& settings) : settings_(settings), random_(settings.seed) {
  validate(settings);
}

namespace {

// A model's output that tokens can be chosen by; -inf excludes one.
bool is_usable(float logit) { return logit < std::numeric_limits<float>::infinity(); }

[[noreturn]] void refuse_logit(int64_t token, float logit) {
  QUEST_THROW(ErrorKind::kNumeric, "the logit of token {} is {}: the model's output is not finite",
              token, logit);
}

}  // namespace

// The first of the largest, in one pass.
int32_t Sampler::largest(std::span<const float> logits) const {
  size_t best = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!is_usable(logits[i])) refuse_logit(static_cast<int64_t>(i), logits[i]);
    if (logits[i] > logits[best]) best = i;
  }
  QUEST_CHECK(logits[best] > -std::numeric_limits<float>::infinity(), ErrorKind::kNumeric,
              "all {} logits are -inf: no token can be chosen", logits.size());
  return static_cast<int32_t>(best);
}

void Sampler::load_candidates(std::span<const float> logits, std::span<const int32_t> previous) {
  const auto size = static_cast<int64_t>(logits.size());
  const bool penalize = settings_.repetition_penalty != 1.0;
  if (penalize) {
    seen_.assign(logits.size(), 0);
    for (const int32_t id : previous) {
      if (id >= 0 && id < size) seen_[static_cast<size_t>(id)] = 1;
    }
  }
  candidates_.clear();
  for (int64_t i = 0; i < size; ++i) {
    double value = logits[static_cast<size_t>(i)];
    if (!is_usable(logits[static_cast<size_t>(i)])) refuse_logit(i, logits[static_cast<size_t>(i)]);
    if (value == -std::numeric_limits<double>::infinity()) continue;
    if (penalize && seen_[static_cast<size_t>(i)] != 0) {
      value =
          value > 0 ? value / settings_.repetition_penalty : value * settings_.repetition_penalty;
    }
    candidates_.push_back({static_cast<int32_t>(i), value});
  }
  QUEST_CHECK(!candidates_.empty(), ErrorKind::kNumeric,
              "all {} logits are -inf: no token can be chosen", size);
}

void Sampler::filter() {
  // A strict order, so that neither ties nor the library's sort can change the result.
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.value != b.value ? a.value > b.value : a.id < b.id;
  };
  const auto all = static_cast<int64_t>(candidates_.size());
  const bool some = settings_.top_k > 0 && settings_.top_k < all;
  if (some) {
    std::partial_sort(candidates_.begin(), candidates_.begin() + settings_.top_k, candidates_.end(),
                      before);
    candidates_.resize(static_cast<size_t>(settings_.top_k));
  } else if (settings_.top_p < 1) {
    std::sort(candidates_.begin(), candidates_.end(), before);
  }

  const double largest = std::min_element(candidates_.begin(), candidates_.end(), before)->value;
  double total = 0;
  for (Candidate& c : candidates_) {
    c.value = portable::exp((c.value - largest) / settings_.temperature);
    total += c.value;
  }
  if (settings_.top_p < 1) {
    size_t kept = 0;
    for (double sum = 0; kept < candidates_.size() && sum < settings_.top_p * total; ++kept) {
      sum += candidates_[kept].value;
    }
    candidates_.resize(kept);
  }
  // The largest weight is 1, so the fraction of it is the weight itself.
  std::erase_if(candidates_, [&](const Candidate& c) { return c.value < settings_.min_p; });
}

int32_t Sampler::sample(std::span<const float> logits, uint64_t position,
                        std::span<const int32_t> previous) {
  const auto size = static_cast<int64_t>(logits.size());
  QUEST_CHECK(size > 0 && size <= std::numeric_limits<int32_t>::max(), ErrorKind::kUsage,
              "cannot choose a token from {} logits", size);
  if (!settings_.logit_bias.empty()) {
    biased_.assign(logits.begin(), logits.end());
    for (const auto& [id, bias] : settings_.logit_bias) {
      QUEST_CHECK(id < size, ErrorKind::kUsage, "logit_bias names token {}, the last one is {}", id,
                  size - 1);
      biased_[static_cast<size_t>(id)] += bias;
    }
    logits = biased_;
  }
  if (settings_.temperature == 0 && settings_.repetition_penalty == 1.0) return largest(logits);
  load_candidates(logits, previous);
  if (settings_.temperature == 0) {
    // max_element returns the first of equal ones, and candidates are in the order of their ids.
    return std::max_element(
               candidates_.begin(), candidates_.end(),
               [](const Candidate& a, const Candidate& b) { return a.value < b.value; })
        ->id;
  }
  filter();
  double total = 0;
  for (const Candidate& c : candidates_) total += c.value;
  double rest = random_.uniform(position) * total;
  int32_t last = candidates_.front().id;
  for (const Candidate& c : candidates_) {
    // A token whose weight underflowed to 0 is never drawn, not even when rounding leaves a rest.
    if (c.value == 0) continue;
    last = c.id;
    rest -= c.value;
    if (rest < 0) break;
  }
  return last;
}

}  // namespace quest
