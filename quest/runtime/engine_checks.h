// What every engine checks of its callers, before it changes anything (quest/runtime/engine.h).
//
// Errors: as stated; each with the value. Thread rules: pure.
#pragma once

#include <cstdint>
#include <span>

#include "quest/model/llama_config.h"
#include "quest/runtime/engine.h"

namespace quest {

// The most tokens of a sequence: `asked`, or the model's max_position_embeddings for 0. Throws
// kUsage where the model was not made for so many.
int64_t checked_context(int64_t asked, const LlamaConfig& config);

// At least one token, all of the vocabulary: kUsage, kData.
void check_tokens(std::span<const int32_t> tokens, const LlamaConfig& config);
// Room for `tokens` more behind `length`: kUsage.
void check_room(SequenceId sequence, int64_t length, int64_t tokens, int64_t context);
// No logits, or those of `rows` rows: kUsage.
void check_logits(std::span<const float> logits, int64_t rows, const LlamaConfig& config);
// A token for each of different sequences: kUsage, kData.
void check_decode(std::span<const SequenceId> sequences, std::span<const int32_t> tokens,
                  const LlamaConfig& config);
// Room for the scores of all tokens but the first: kUsage.
void check_scores(std::span<const int32_t> tokens, const TokenScores& scores);

}  // namespace quest
