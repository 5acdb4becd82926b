// A packed model of random weights in any shape, for tests and benchmarks: speed and memory do not
// depend on what was learned.
//
//   write_random_packed_model(folder, config, recipe_from_name("w4a4"),
//                             {.formats = {TableFormat::kInt8, TableFormat::kInt8}, .seed = 7});
//   PackedModel model(folder);
//
// Below a second for 100 MB. The same arguments give the same bytes on every machine.
#pragma once

#include <cstdint>
#include <filesystem>

#include "quest/packed/packed_layout.h"

namespace quest {

struct RandomModelOptions {
  TableFormats formats = {};
  uint64_t seed = 1;
  std::filesystem::path tokenizer = {};  // folder or file; empty: the bytes tokenizer
};

// Codes are evenly distributed over the grid; units are such that every layer keeps its input's
// size, and logits differ by a few units. The tokenizer may have fewer tokens than the model, but
// not more (kUsage). Throws what PackedWriter throws, and StoppedBySignal.
void write_random_packed_model(const std::filesystem::path& folder, const LlamaConfig& config,
                               const QuantRecipe& recipe, const RandomModelOptions& options = {});

}  // namespace quest
