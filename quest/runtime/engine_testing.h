// Help for tests of engines: tokens, and all logits of a text. Tests only; header only.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "quest/runtime/engine.h"
#include "quest/runtime/random_prompts.h"

namespace quest::testing {

inline constexpr int64_t kSmallVocabulary = 261;  // of small_llama (testing_packed.h)

inline std::vector<int32_t> some_tokens(int64_t count, uint64_t seed = 1) {
  return random_prompts(1, count, kSmallVocabulary, seed).front();
}

// Logits of every token, one after the other.
inline std::vector<float> all_logits(Engine& engine, std::span<const int32_t> tokens) {
  const SequenceId s = engine.add_sequence();
  std::vector<float> all;
  engine.prefill_all(s, tokens, [&](int64_t i, std::span<const float> row) {
    EXPECT_EQ(static_cast<int64_t>(all.size()), i * engine.config().vocab_size);
    all.insert(all.end(), row.begin(), row.end());
  });
  EXPECT_EQ(engine.length(s), static_cast<int64_t>(tokens.size()));
  engine.remove_sequence(s);
  return all;
}

// The same, token by token.
inline std::vector<float> decoded_logits(Engine& engine, std::span<const int32_t> tokens) {
  const SequenceId s = engine.add_sequence();
  std::vector<float> all, row(static_cast<size_t>(engine.config().vocab_size));
  for (const int32_t token : tokens) {
    engine.decode({&s, 1}, {&token, 1}, row);
    all.insert(all.end(), row.begin(), row.end());
  }
  engine.remove_sequence(s);
  return all;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace quest::testing
