// Help for tests: checkpoints without a training run. Tests only; header only.
//
//   const auto folder = testing::write_checkpoint(temporary / "c", config,
//   recipe_from_name("w4a4"));
#pragma once

#include <cmath>
#include <filesystem>
#include <vector>

#include "quest/base/atomic_folder.h"
#include "quest/base/philox.h"
#include "quest/model/checkpoint_files.h"
#include "quest/text/tokenizer.h"

namespace quest::testing {

// A checkpoint of random masters under Hugging Face names.
inline std::filesystem::path write_checkpoint(const std::filesystem::path& folder,
                                              const LlamaConfig& config, const QuantRecipe& recipe,
                                              uint64_t seed = 1) {
  std::filesystem::create_directories(folder);
  SafetensorsWriter writer(folder / "model.safetensors");
  std::vector<std::vector<float>> tensors;
  for (const NamedShape& tensor : llama_tensors(config)) {
    const Philox random(seed, tensors.size());
    const bool is_norm = tensor.shape.size() == 1;
    size_t count = 1;
    for (const int64_t size : tensor.shape) count *= static_cast<size_t>(size);
    std::vector<float> values(count);
    const double scale = is_norm ? 0.1 : 1 / std::sqrt(static_cast<double>(tensor.shape.back()));
    for (size_t i = 0; i < count; ++i) {
      values[i] = static_cast<float>(random.normal(i) * scale + (is_norm ? 1 : 0));
    }
    tensors.push_back(std::move(values));
  }
  size_t i = 0;
  for (const NamedShape& tensor : llama_tensors(config)) {
    writer.add<float>(tensor.name, tensor.shape, tensors[i++]);
  }
  writer.finish();
  write_file_atomically(folder / "config.json", llama_config_json(config, recipe, "float32"));
  make_byte_tokenizer()->save(folder);
  return folder;
}

}  // namespace quest::testing
