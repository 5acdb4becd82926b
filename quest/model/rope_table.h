// Cosines and sines of rotary embeddings, with scaling for long contexts.
#pragma once

#include <vector>

#include "quest/model/llama_config.h"

namespace quest {

// (positions, D/2) each, row-major f32, computed in double.
struct RopeTable {
  std::vector<float> cos;
  std::vector<float> sin;
};
RopeTable make_rope_table(const LlamaConfig& config, int64_t positions);

}  // namespace quest
