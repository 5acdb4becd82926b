// Diagnostics of a training run: what its quantizers do to weights, inputs and gradients, measured
// between steps on a fixed batch of the validation file (of the training file if there is none).
//
//   Diagnostics diagnostics(model, validation, config);   // with diagnostics.every above 0
//   if (diagnostics.due(step)) metrics.write(line, diagnostics.measure(step).histograms);
//
// The batch: the first diagnostics.batch_size windows of train.sequence_length tokens of the file
// (as many as it has, one shorter one if it has none; with FP8 backward products of a multiple of
// 16 tokens), without masks of document starts. Sequences are computed one at a time and without
// recomputation, so that memory is that of one sequence; with quantizers off, weights are there in
// the compute type too.
//
// measure() gives the object "diagnostics" of a line of metrics.jsonl:
//   layers           of each quantized layer: {"name", "weight": {..}, "input": {..}}, the two
//                    sides as in side_statistics.h
//   gradient_cosine  {"block", "part", "mean", "std"} for the parts attn and mlp of each block, in
//                    the order of the forward pass. With r the residual stream that comes in at the
//                    part (the input of its norm; a vector per token), g the gradient of the
//                    sequence's mean loss with respect to r, and g' the same of the same weights
//                    and tokens with all quantizers off, forward and backward: mean and standard
//                    deviation over all tokens of cos(g, g'). Tokens where g or g' is zero are left
//                    out. Errors add up from the last block's mlp, where it is nearest to 1,
//                    towards block 0 (QuEST, arXiv 2502.05003, Figure 2). A run without quantizers
//                    has 1 everywhere, and of its layers the kurtosis alone.
//   masks_retained   {"since_step", "retained"}: of the weights of all layers whose gradient was
//                    masked at that earlier diagnostic step, the share that is masked now (Figure
//                    9). Absent without masks, and at the first step.
//
// A run is the same to the bit with and without: nothing of the model, its gradients or random
// numbers changes. Errors: kNumeric naming the tensor where values are not finite (CPU), kData for
// a file that is too short. Thread rules: one thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <nlohmann/json.hpp>

#include "quest/data/token_file.h"
#include "quest/nn/llama_model.h"
#include "quest/train/mask_history.h"
#include "quest/train/metrics.h"
#include "quest/train/side_statistics.h"
#include "quest/train/train_config.h"

namespace quest::train {

class Diagnostics {
 public:
  // The model must live as long.
  Diagnostics(nn::LlamaModel& model, const TokenFile& file, const TrainConfig& config);

  bool due(int64_t step) const { return step % every_ == 0; }

  struct Report {
    nlohmann::ordered_json json;
    std::vector<Histogram> histograms;
  };
  Report measure(int64_t step);

  // The masks of earlier steps, part of a run's checkpoint.
  void save(const std::filesystem::path& checkpoint) const;
  // None if the checkpoint has none. Throws kData if they are another model's.
  void load(const std::filesystem::path& checkpoint);

 private:
  struct Measured {
    std::vector<SideStatistics> weights, inputs;  // of layers_
    std::vector<uint8_t> mask_bits;               // of all weights that have a mask
    int64_t masked_weights = 0;                   // how many these are, without padding
    std::vector<std::vector<double>> cosines;     // by part of the model, of all tokens
  };
  void measure_weights(Measured& measured) const;
  void measure_batch(Measured& measured);
  // Of the loss of one sequence, (1,T,C) at each part of each block. inputs: of the layers, which
  // see what they are given; nullptr: nobody.
  std::vector<at::Tensor> residual_gradients(int64_t sequence, std::vector<SideStatistics>* inputs);

  nn::LlamaModel& model_;
  std::vector<nn::QuantLinear*> layers_;
  int64_t every_;
  at::Tensor tokens_, targets_;  // (B,T) int64
  MaskHistory masks_;
};

// What diagnostics take, for the plan of a run of so many steps. Empty if there are none.
std::string diagnostics_plan(const TrainConfig& config, const LlamaConfig& model, int64_t steps);

}  // namespace quest::train
