// A trained model from a folder, for the commands that use one.
//
//   LoadedModel m = load_model("runs/demo-1a2b3c4d", {.compute_type = "bf16"});
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
  QuantRecipe trained;  // what config.json says
};

struct LoadOptions {
  std::string compute_type = "bf16";
  std::string tokenizer = {};  // file or folder instead of the model's own; empty: its own
  std::string device = "cpu";  // as --device takes it (device_option.h)
  // Recipe to compute with instead of the model's own: post-training rounding to nearest, of
  // weights and of activations as they come. Empty: its own.
  std::string recipe = {};
};

// folder: as find_model_folder (quest/model/checkpoint_files.h) takes it. Proves the checksums if
// it has them, reads config.json, weights and tokenizer. Throws kData if the tokenizer has more
// tokens than the model, kEnvironment for a device that this build or machine does not have, kUsage
// for a recipe that does not exist or would have to learn first.
LoadedModel load_model(const std::filesystem::path& folder, const LoadOptions& options);

}  // namespace quest::cli
