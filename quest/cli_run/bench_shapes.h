// Shapes of models by name, for benchmarks on random weights.
#pragma once

#include <string>

#include "quest/model/llama_config.h"

namespace quest::cli {

// Throws kUsage and lists what exists.
LlamaConfig bench_shape(const std::string& name);
std::string bench_shape_names();  // "30M, 135M, ..."

}  // namespace quest::cli
