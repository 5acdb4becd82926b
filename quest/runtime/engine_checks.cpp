#include "quest/runtime/engine_checks.h"

#include <algorithm>
#include <vector>

#include "quest/base/error.h"

namespace quest {

int64_t checked_context(int64_t asked, const LlamaConfig& config) {
  const int64_t context = asked == 0 ? config.max_position_embeddings : asked;
  QUEST_CHECK(context >= 1 && context <= int64_t{1} << 30, ErrorKind::kUsage,
              "the context is {} tokens, allowed are 1 to 2^30 (0: the model's {})", context,
              config.max_position_embeddings);
  QUEST_CHECK(
      context <= config.max_position_embeddings || config.rope_scaling.type == "dynamic",
      ErrorKind::kUsage,
      "the context is {} tokens, but the model was trained for {} and its rope_scaling is '{}': "
      "give quest-run --rope-scaling dynamic:FACTOR (or linear, llama3), or set \"rope_scaling\" "
      "in config.json (type \"dynamic\", or \"linear\" with a factor and a larger "
      "max_position_embeddings)",
      context, config.max_position_embeddings, config.rope_scaling.type);
  return context;
}

namespace {

void check_tokens(std::span<const int32_t> tokens, const LlamaConfig& config) {
  QUEST_CHECK(!tokens.empty(), ErrorKind::kUsage, "there are no tokens to read");
  for (size_t i = 0; i < tokens.size(); ++i) {
    QUEST_CHECK(tokens[i] >= 0 && tokens[i] < config.vocab_size, ErrorKind::kData,
                "token {} is {}, the vocabulary has {} tokens: was the text encoded with another "
                "tokenizer?",
                i, tokens[i], config.vocab_size);
  }
}

void check_room(const Engine& engine, SequenceId sequence, int64_t tokens) {
  const int64_t length = engine.length(sequence), context = engine.context_length();
  QUEST_CHECK(tokens <= context - length, ErrorKind::kUsage,
              "sequence {} has {} tokens and cannot take {} more: the context holds {}", sequence,
              length, tokens, context);
}

}  // namespace

void check_request(const Engine& engine, SequenceId sequence, std::span<const int32_t> tokens,
                   size_t count) {
  check_tokens(tokens, engine.config());
  check_room(engine, sequence, static_cast<int64_t>(count));
}

void check_decode(const Engine& engine, std::span<const SequenceId> sequences,
                  std::span<const int32_t> tokens, int64_t steps) {
  check_tokens(tokens, engine.config());
  QUEST_CHECK(sequences.size() == tokens.size(), ErrorKind::kUsage,
              "decode got {} sequences and {} tokens: one token belongs to each sequence",
              sequences.size(), tokens.size());
  std::vector<SequenceId> sorted(sequences.begin(), sequences.end());
  std::sort(sorted.begin(), sorted.end());
  const auto twin = std::adjacent_find(sorted.begin(), sorted.end());
  QUEST_CHECK(twin == sorted.end(), ErrorKind::kUsage, "sequence {} is named twice in one decode",
              *twin);
  for (const SequenceId sequence : sequences) check_room(engine, sequence, steps);
}

void check_logits(const Engine& engine, std::span<const float> logits, int64_t rows) {
  const int64_t wanted = rows * engine.config().vocab_size;
  QUEST_CHECK(logits.empty() || static_cast<int64_t>(logits.size()) == wanted, ErrorKind::kUsage,
              "room for {} logits was given, the model gives {}", logits.size(), wanted);
}

void check_scores(std::span<const int32_t> tokens, const TokenScores& scores) {
  QUEST_CHECK(tokens.size() >= 2 && scores.logprobs.size() == tokens.size() - 1 &&
                  (scores.is_greedy.empty() || scores.is_greedy.size() == tokens.size() - 1),
              ErrorKind::kUsage,
              "scores of {} tokens and room for {} log-probabilities and {} greedy marks were "
              "asked for: each but the first token has one",
              tokens.size(), scores.logprobs.size(), scores.is_greedy.size());
}

}  // namespace quest
