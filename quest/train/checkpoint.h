// Checkpoints of a run: everything that going on bit for bit needs, published atomically.
//
//   RUN/checkpoints/step-00000100/
//     config.json           shape and quantization (LlamaForCausalLM)
//     model.safetensors     master weights under Hugging Face names: the point to evaluate
//     tokenizer files       as the tokenizer saves itself
//     optimizer.safetensors optimizer and averages, and the training point where it differs
//     masks.safetensors     weight masks of earlier diagnostics, if there are any
//     state.json            TrainState
//     config.toml           the run's configuration
//     checksums.json        of all of them
//   RUN/checkpoints/latest, best   links to two of these folders
//
//   save_checkpoint(run, parts, state);
//   CheckpointScan scan = find_checkpoints(run);     // which are whole, newest first
//   TrainState state = load_checkpoint(scan.valid.front(), parts);
//
// Errors: kIo when writing (older checkpoints stay as they are), kData naming file and reason when
// a checkpoint is damaged or belongs to another model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "quest/base/safetensors.h"
#include "quest/nn/llama_model.h"
#include "quest/text/tokenizer.h"
#include "quest/train/averaging.h"
#include "quest/train/diagnostics.h"
#include "quest/train/optimizer.h"
#include "quest/train/train_state.h"

namespace quest::train {

// What a checkpoint is made of and restored into.
struct CheckpointParts {
  nn::LlamaModel& model;
  Optimizer& optimizer;
  WeightAverages& averages;
  const Tokenizer& tokenizer;
  std::string config_toml;
  Diagnostics* diagnostics = nullptr;  // nullptr: none are made
};

// Writes RUN/checkpoints/step-XXXXXXXX and points `latest` to it. Returns its path.
std::filesystem::path save_checkpoint(const std::filesystem::path& run,
                                      const CheckpointParts& parts, const TrainState& state);

// Reads weights, optimizer and averages. The optimizer's state is only taken if it is of the same
// rule; with `strict` another one is an error, otherwise it is left as it was and that is logged.
// What quantizers of another recipe than the model's have learned, and its history, is left aside
// (then averages begin anew). Diagnostics, too, go on with `strict` only.
TrainState load_checkpoint(const std::filesystem::path& checkpoint, const CheckpointParts& parts,
                           bool strict);
TrainState read_train_state(const std::filesystem::path& checkpoint);

struct CheckpointScan {
  std::vector<std::filesystem::path> valid;  // newest first
  std::vector<std::string> broken;           // "step-00000100: <reason>", newest first
};
// Proves the newest checkpoints until one is whole (all of them with `all`).
CheckpointScan find_checkpoints(const std::filesystem::path& run, bool all = false);

// Points `best` to the checkpoint with the lowest validation loss; then removes all but the newest
// keep_last, and the best one if keep_best.
void prune_checkpoints(const std::filesystem::path& run, int64_t keep_last, bool keep_best);

// A folder to use, not to go on from: config.json, weights, tokenizer, config.toml.
void save_final(const std::filesystem::path& folder, const CheckpointParts& parts, DType dtype);

// Points `link` to `target` (a name beside it) in one step. Throws kIo.
void replace_link(const std::filesystem::path& link, const std::string& target);

}  // namespace quest::train
