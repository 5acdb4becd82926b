// The part of `quest verify` that compares perplexities, and says where a difference comes from:
//
//   engine   the packed model against the training forward in FP32 that is given the packed tables
//            (embedding and head): the same numbers in another order of rounding
//   tables   the training forward in FP32 with the packed tables against the one with the tables
//            as training saw them, which are BF16 if it computed in BF16
//   total    both: the packed model against the trained one in FP32. Judged, as is `engine`
//   training the packed model against the training forward in its own compute type, as `quest eval`
//            gives it: with what BF16 activations cost. Stated, not judged
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "quest/packed/packed_layout.h"

namespace quest::cli {

inline constexpr double kEngineTolerance = 0.001;

struct PerplexityArguments {
  std::filesystem::path packed, checkpoint;  // folders; the checkpoint's as find_model_folder finds
  std::string compute;                       // type of training; empty: trained_compute_type
  std::optional<double> tolerance;           // of the total; none: default_tolerance
};

// train.compute_type of the config.toml in a checkpoint's folder; "bf16" without one (Hugging
// Face).
std::string trained_compute_type(const std::filesystem::path& folder);

// Of the relative difference of perplexity (docs/packed_format.md has the measurements): 0.001 for
// tables that are training's own or an int8 head beside them, 0.01 for an int8 embedding or for
// BF16 of an FP32 one, 0.02 with an int4 table.
double default_tolerance(TableFormats formats, const std::string& compute);

struct PerplexityReport {
  nlohmann::ordered_json json;           // for verify.json
  std::vector<std::string> differences;  // beyond what is allowed
  std::vector<std::string> warnings;     // the text is too short to tell
};
// tokens: at least 2. Prints. Runs the model three or four times over the tokens.
PerplexityReport verify_perplexity(const PerplexityArguments& arguments,
                                   std::span<const int32_t> tokens);

}  // namespace quest::cli
