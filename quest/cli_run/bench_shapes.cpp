#include "quest/cli_run/bench_shapes.h"

#include <array>

#include "quest/base/error.h"

namespace quest::cli {
namespace {

struct Shape {
  const char* name;
  int64_t layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary;
  bool tied;
};

// The paper's 30M, 100M, 800M and 1.6B; SmolLM2-135M; a 3B and an 8B as Llama 3's; Llama 2's 7B.
constexpr std::array<Shape, 8> kShapes = {{
    {"30M", 6, 640, 1792, 5, 5, 128, 32000, false},
    {"100M", 8, 1024, 2816, 8, 8, 128, 32000, false},
    {"135M", 30, 576, 1536, 9, 3, 64, 49152, true},
    {"800M", 16, 2048, 5632, 16, 16, 128, 32000, false},
    {"1.6B", 20, 2560, 6912, 20, 20, 128, 32000, false},
    {"3B", 28, 3072, 8192, 24, 8, 128, 128256, true},
    {"7B", 32, 4096, 11008, 32, 32, 128, 32000, false},
    {"8B", 32, 4096, 14336, 32, 8, 128, 128256, false},
}};

}  // namespace

std::string bench_shape_names() {
  std::string names;
  for (const Shape& shape : kShapes) names += (names.empty() ? "" : ", ") + std::string(shape.name);
  return names;
}

LlamaConfig bench_shape(const std::string& name) {
  for (const Shape& s : kShapes) {
    if (name != s.name) continue;
    LlamaConfig config;
    config.num_layers = s.layers;
    config.hidden_size = s.hidden;
    config.intermediate_size = s.intermediate;
    config.num_heads = s.heads;
    config.num_kv_heads = s.kv_heads;
    config.head_dim = s.head_dim;
    config.vocab_size = s.vocabulary;
    config.tie_word_embeddings = s.tied;
    config.max_position_embeddings = 2048;
    return config;
  }
  QUEST_THROW(ErrorKind::kUsage, "there is no shape '{}', there are {}", name, bench_shape_names());
}

}  // namespace quest::cli
