// What a run takes over from the folder that it begins from (run.init, run.parent), besides the
// weights: the model's shape, and the quantization recipe unless one was given.
//
//   TrainConfig config = ...;       // run.init = "runs/w4a4/final", no setting of quant given
//   finish_config(config);
//   adopt_source_model(config);     // config.quant.name == "w4a4", config.model as trained
#pragma once

#include <string>

#include "quest/train/train_config.h"

namespace quest::train {

// The folder of weights that `given` (run.init as a user writes it) means: itself, or the one that
// find_model_folder (quest/model/checkpoint_files.h) takes of a run. Without links (a run's name,
// `latest`), which may point elsewhere tomorrow. What is no folder comes back as it is: it is said
// later, by its name, if it is needed. Throws kIo for a run that has no checkpoint yet.
std::string resolve_source(const std::string& given);

// Without run.init and run.parent, nothing. The shape is always the folder's. A recipe that was
// given (by file or flag) stays; that it is not the folder's is logged. Settings that hold shape
// and recipe already, as a run's config.toml does, do not need the folder any more. quiet: logs
// nothing. Throws kIo and kData naming the folder's config.json.
void adopt_source_model(TrainConfig& config, bool quiet = false);

}  // namespace quest::train
