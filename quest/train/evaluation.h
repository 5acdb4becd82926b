// The validation loss of a model on a token file.
#pragma once

#include <cstdint>
#include <optional>

#include "quest/data/token_file.h"
#include "quest/nn/llama_model.h"
#include "quest/train/process_group.h"

namespace quest::train {

struct EvaluationOptions {
  int64_t tokens = 0;  // from the file's start; 0: all
  int64_t sequence_length = 512;
  int64_t batch = 8;
};

struct Evaluation {
  int64_t tokens = 0;  // targets scored
  double loss = 0;     // nats per token
  double perplexity = 0;
  std::optional<double> bits_per_byte;  // of the whole file only
};

// Windows of sequence_length one after another, each token but the file's first scored once; shared
// out among the ranks, all of which get the result. Throws kData if the file has fewer than 2
// tokens and what the model throws.
Evaluation evaluate(nn::LlamaModel& model, const TokenFile& file, const EvaluationOptions& options,
                    ProcessGroup& group);

}  // namespace quest::train
