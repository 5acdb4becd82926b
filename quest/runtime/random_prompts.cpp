#include "quest/runtime/random_prompts.h"

#include "quest/base/philox.h"

namespace quest {

std::vector<std::vector<int32_t>> random_prompts(int64_t count, int64_t tokens, int64_t vocabulary,
                                                 uint64_t seed) {
  const Philox random(seed);
  std::vector<std::vector<int32_t>> prompts(static_cast<size_t>(count));
  uint64_t drawn = 0;
  for (std::vector<int32_t>& prompt : prompts) {
    prompt.resize(static_cast<size_t>(tokens));
    for (int32_t& token : prompt) {
      token = static_cast<int32_t>(random.below(drawn++, static_cast<uint64_t>(vocabulary)));
    }
  }
  return prompts;
}

std::vector<std::span<const int32_t>> views_of(const std::vector<std::vector<int32_t>>& texts) {
  return {texts.begin(), texts.end()};
}

}  // namespace quest
