// A trained model from a folder, for the commands that use one.
//
//   LoadedModel m = load_model("runs/demo-1a2b3c4d", "bf16");
//   m.model->logits(tokens);
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "quest/nn/llama_model.h"
#include "quest/text/tokenizer.h"

namespace quest::cli {

struct LoadedModel {
  std::filesystem::path folder;  // the one that was read
  std::unique_ptr<nn::LlamaModel> model;
  std::unique_ptr<Tokenizer> tokenizer;
};

// A folder with config.json is taken as it is; of a run's folder, what it finished with (final),
// else its best, else its newest checkpoint. Throws kIo naming what was looked for.
std::filesystem::path find_model_folder(const std::filesystem::path& folder);

// Proves the checksums if the folder has them, reads config.json, weights and tokenizer.
// tokenizer: a file or folder to use instead of the folder's own; empty: its own.
// Throws kData if the tokenizer has more tokens than the model.
LoadedModel load_model(const std::filesystem::path& folder, const std::string& compute_type,
                       const std::string& tokenizer = {});

}  // namespace quest::cli
