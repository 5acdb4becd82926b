// What every engine checks of its callers, before it changes anything (quest/runtime/engine.h).
//
// Errors, with the value: kUsage for lengths, sizes and sequences, kData for tokens that the
// vocabulary does not have. Thread rules: pure.
#pragma once

#include <cstdint>
#include <span>

#include "quest/model/llama_config.h"
#include "quest/runtime/engine.h"

namespace quest {

// The most tokens of a sequence: `asked`, or the model's max_position_embeddings for 0. Not more
// than the model was made for.
int64_t checked_context(int64_t asked, const LlamaConfig& config);

// tokens: at least one, all of the vocabulary; `count` more have room behind those of the sequence.
void check_request(const Engine& engine, SequenceId sequence, std::span<const int32_t> tokens,
                   size_t count);
// A token for each of different sequences, with room for `steps` more in each.
void check_decode(const Engine& engine, std::span<const SequenceId> sequences,
                  std::span<const int32_t> tokens, int64_t steps = 1);
// No logits, or those of `rows` rows.
void check_logits(const Engine& engine, std::span<const float> logits, int64_t rows);
// Room for the scores of all tokens but the first.
void check_scores(std::span<const int32_t> tokens, const TokenScores& scores);

}  // namespace quest
