// Prompts of random tokens, for benchmarks and tests: what a model is given where its text does not
// matter.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace quest {

// `count` prompts of `tokens` tokens below `vocabulary` each; the same for the same arguments on
// every machine, and the first ones of more.
std::vector<std::vector<int32_t>> random_prompts(int64_t count, int64_t tokens, int64_t vocabulary,
                                                 uint64_t seed = 1);

// Of texts that live on, as engines take them.
std::vector<std::span<const int32_t>> views_of(const std::vector<std::vector<int32_t>>& texts);

}  // namespace quest
