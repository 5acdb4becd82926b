// Is a packed model the trained model? What `quest verify` proves:
//
//   verify_codes  every code, unit, norm and table row equals a fresh quantization of the
//   checkpoint verify_run    on given tokens, the engine's integer sums equal the scalar
//   definition's, layer by
//                 layer, at every instruction-set level of this CPU; its logits equal, bit for bit,
//                 those of the checkpoint in deploy numerics through the scalar definition
//                 (deploy_reference.h); and so do the tokens that it writes greedily
//
// What differs is named in VerifyResult::differences; nothing is thrown for it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "quest/convert/checkpoint_layers.h"
#include "quest/packed/packed_model.h"

namespace quest::convert {

struct VerifyResult {
  std::vector<std::string> differences;  // the first of each kind; empty: all is equal
  int64_t tensors = 0;                   // compared by verify_codes
  int64_t accumulators = 0;              // int32 sums compared by verify_run
  std::vector<std::string> plans;        // that gave them: "dot, avx2"
  int64_t logits = 0;                    // compared
  float largest_logit_difference = 0;
  int64_t greedy_tokens = 0;  // compared

  bool passed() const { return differences.empty(); }
};

// Shape and recipe must be the same: kUsage otherwise, the models are not each other's.
void check_same_model(const PackedModel& packed, const CheckpointLayers& checkpoint);

void verify_codes(const PackedModel& packed, const CheckpointLayers& checkpoint,
                  VerifyResult& result);

// prompt: at least one token. `greedy` tokens are written behind it, and compared as well. The
// reference computes every product with plain loops: seconds for millions of weights and some tens
// of tokens.
void verify_run(const std::filesystem::path& packed_folder, const CheckpointLayers& checkpoint,
                std::span<const int32_t> prompt, int64_t greedy, VerifyResult& result);

}  // namespace quest::convert
