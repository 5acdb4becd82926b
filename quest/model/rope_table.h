// Cosines and sines of rotary embeddings, with scaling for long contexts.
#pragma once

#include <vector>

#include "quest/model/llama_config.h"

namespace quest {

// (positions, D/2) each, row-major f32. Angles, position * frequency, cosines and sines are
// computed in double by quest/base/portable_math.h and rounded once: the same bits on every
// machine, within 0.5001 units in the last place of the true cosine and sine of the angle. The
// trainer, the engine and quest verify use this one table. config is a valid one (llama_config.h).
struct RopeTable {
  std::vector<float> cos;
  std::vector<float> sin;
};
RopeTable make_rope_table(const LlamaConfig& config, int64_t positions);

}  // namespace quest
