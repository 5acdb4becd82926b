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

// folder: as find_model_folder (quest/model/checkpoint_files.h) takes it. Proves the checksums if
// it has them, reads config.json, weights and tokenizer. tokenizer: a file or folder to use instead
// of the folder's own; empty: its own. Throws kData if the tokenizer has more tokens than the
// model.
LoadedModel load_model(const std::filesystem::path& folder, const std::string& compute_type,
                       const std::string& tokenizer = {});

}  // namespace quest::cli
