// Writing text with an engine: reads a prompt, draws tokens, hands out text as it comes.
//
//   Generator generator(engine, tokenizer);
//   const Generation g = generator.generate(tokenizer.encode("And God said"), settings,
//                                           [](std::string_view text) { print(text); return true;
//                                           });
//   g.statistics.decode_tokens_per_second();
//
// The tokens of the last call stay in the engine: what a new prompt has in common with them is not
// read again, so a chat reads only what is new. The text does not depend on it.
//
// Thread rules: one call at a time; the engine is the generator's alone while it is used.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quest/runtime/engine.h"
#include "quest/runtime/sampler.h"
#include "quest/text/tokenizer.h"

namespace quest {

struct GenerationSettings {
  int64_t max_tokens = 200;
  SamplerSettings sampler;
  std::vector<std::string> stop;    // the text ends before the first of these
  std::vector<int32_t> end_tokens;  // and at these, beside the tokenizer's and the model's own
  bool ignore_end = false;          // go on at end-of-document tokens
  bool echo = false;                // the text begins with the prompt's
};

enum class EndReason { kMaxTokens, kEndToken, kStopString, kContextFull, kCancelled };
std::string_view end_reason_name(EndReason reason);

struct GenerationStatistics {
  int64_t prompt_tokens = 0;
  int64_t reused_tokens = 0;  // of them, from the call before
  int64_t written_tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;

  double prefill_tokens_per_second() const;
  double decode_tokens_per_second() const;  // the first token comes from the prefill
};

struct Generation {
  std::vector<int32_t> tokens;  // written, without an end token
  std::string text;             // as it was handed out
  EndReason reason = EndReason::kMaxTokens;
  GenerationStatistics statistics;
};

// Gets pieces of well-formed UTF-8 as they are ready (never empty); false ends the generation. It
// is also asked, with an empty text, before every token.
using TextSink = std::function<bool(std::string_view text)>;

class Generator {
 public:
  // Keeps references to both. Throws kUsage if the tokenizer has more tokens than the model.
  Generator(Engine& engine, const Tokenizer& tokenizer);
  ~Generator();
  Generator(const Generator&) = delete;
  Generator& operator=(const Generator&) = delete;

  // prompt: at least one token. Throws kUsage for settings or if the prompt does not fit into the
  // context with one token to spare.
  Generation generate(std::span<const int32_t> prompt, const GenerationSettings& settings,
                      const TextSink& sink);

 private:
  class Run;
  int64_t read_prompt(std::span<const int32_t> prompt, const std::function<bool()>& go_on);

  Engine& engine_;
  const Tokenizer& tokenizer_;
  SequenceId sequence_;
  std::vector<int32_t> held_;  // the tokens that the sequence holds
  std::vector<float> logits_;
};

// The prompt's tokens; an empty one starts a document: at the beginning mark, or after an end mark.
// Throws kUsage if the tokenizer has neither.
std::vector<int32_t> encode_prompt(const Tokenizer& tokenizer, std::string_view prompt);

}  // namespace quest
