// Tokens to train on. Tests only; header only.
#pragma once

#include <cstdint>
#include <vector>

#include "quest/base/philox.h"

namespace quest::testing {

// Markov text: there is something to learn.
inline std::vector<int32_t> markov_text(int64_t count, uint64_t seed) {
  const Philox random(seed);
  std::vector<int32_t> tokens;
  int32_t last = 'a';
  for (int64_t k = 0; k < count; ++k) {
    last =
        'a' + (last - 'a' + static_cast<int32_t>(random.below(static_cast<uint64_t>(k), 3))) % 26;
    tokens.push_back(last);
  }
  return tokens;
}

}  // namespace quest::testing
