// What a packed model is made of, to the byte, as text: `quest inspect` and `quest-run inspect`.
#pragma once

#include <string>

#include "quest/packed/packed_model.h"

namespace quest {

struct PackedTotals {
  int64_t parameters = 0;
  int64_t model_bytes = 0;              // model.safetensors
  int64_t folder_bytes = 0;             // every file of the folder
  double bits_per_parameter = 0;        // 8 * model_bytes / parameters: everything counted
  double block_bits_per_parameter = 0;  // of the blocks alone: codes, units, sums, norms
};
PackedTotals packed_totals(const PackedModel& model);

// What verify.json in the model's folder says of it: "passed" or "failed"; otherwise why it says
// nothing: there is none, it is of another file, or it cannot be read. Never throws for its
// content.
std::string verify_text(const PackedModel& model);

// Shape, recipe, formats, sizes by part and in all, bits per parameter, checksum, and what
// verify.json says. all_tensors: also a line for each tensor of the file.
std::string packed_report(const PackedModel& model, bool all_tensors = false);

}  // namespace quest
