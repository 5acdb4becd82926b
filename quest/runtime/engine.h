// What runs a language model token by token: the interface of every backend.
//
// A sequence is a text being read or written: its tokens so far, held as keys and values. Sequences
// are independent, and what is computed for one does not depend on which others share a call, on
// chunks, or on threads: the CPU engine gives the same bits in all cases.
//
//   CpuEngine engine(PackedModel("demo/packed/w4a4"), {.threads = 2});
//   const SequenceId s = engine.add_sequence();
//   std::vector<float> logits(engine.config().vocab_size);
//   engine.prefill(s, prompt, logits);  // logits after the prompt's last token
//   while (...) engine.decode({&s, 1}, {&next, 1}, logits);
//
// Errors: kUsage for an unknown sequence, a full context, or outputs of a wrong size; kData for
// token ids outside the vocabulary; kNumeric, with layer and token, where values are not finite. A
// call that throws leaves the lengths of its sequences at the tokens that were read before, or a
// whole number of chunks later.
// Thread rules: one call at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "quest/model/llama_config.h"

namespace quest {

using SequenceId = int64_t;

// logits (V) of what follows token i; valid during the call.
using TokenLogits = std::function<void(int64_t i, std::span<const float> logits)>;

// ln p of each next token of a sequence.
struct TokenScores {
  std::span<float> logprobs;     // (T - 1)
  std::span<uint8_t> is_greedy;  // (T - 1), or empty: 1 if the next token has the largest logit
};

class Engine {
 public:
  virtual ~Engine() = default;

  virtual const LlamaConfig& config() const = 0;
  // The most tokens a sequence can hold.
  virtual int64_t context_length() const = 0;

  virtual SequenceId add_sequence() = 0;
  virtual void remove_sequence(SequenceId sequence) = 0;
  virtual int64_t length(SequenceId sequence) const = 0;
  // Forgets all tokens from `length` on (0: all).
  virtual void truncate(SequenceId sequence, int64_t length) = 0;

  // Reads tokens (at least one). logits (V): of what follows the last; or empty: not wanted.
  virtual void prefill(SequenceId sequence, std::span<const int32_t> tokens,
                       std::span<float> logits) = 0;
  // The same with the logits of every token, in order.
  virtual void prefill_all(SequenceId sequence, std::span<const int32_t> tokens,
                           const TokenLogits& row) = 0;
  // Reads tokens (T >= 2) but the last and scores each that follows another (quest/eval/scorer.h);
  // only ln p is kept, so T is bounded by the context alone.
  virtual void score(SequenceId sequence, std::span<const int32_t> tokens, TokenScores scores) = 0;
  // One token for each of n different sequences. logits (n, V).
  virtual void decode(std::span<const SequenceId> sequences, std::span<const int32_t> tokens,
                      std::span<float> logits) = 0;

  // Which code computes what, one line for each kind of layer.
  virtual std::string plans() const = 0;
};

}  // namespace quest
