// Names of quantizers that are none of the grids: the baselines, and a user's own.
//
// What such a quantizer computes is registered below the torch line (ops/tensor_quantizer.h), which
// also adds its name here; specs and recipes then know it:
//
//   "lsq4", "lsq4.hadamard"        a QuantSpec: the name, and the bits where it leaves a choice
//   "w4a4_lsq", "w4a4_lsq_hadamard"   a recipe: the quantizer on every side below 16 bits
//
// Programs without torch know none of them: such models are trained and judged, not packed. Errors:
// kUsage. Thread rules: register before other threads read; entries live as long as the program.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace quest {

struct RegisteredQuantizer {
  std::string name;  // lower case and _, no digit at the end: "lsq_plus"
  int min_bits = 1, max_bits = 8;
  bool for_weights = true, for_activations = true;
  std::string help;         // one line for lists of recipes
  double storage_bits = 0;  // of one value; 0: its bits
};

// Adds a name. Throws if it is taken, or is no such name.
const RegisteredQuantizer* register_quantizer_name(RegisteredQuantizer entry);
// nullptr if there is none.
const RegisteredQuantizer* find_registered_quantizer(std::string_view name);
// In the order of registration.
std::vector<const RegisteredQuantizer*> registered_quantizers();

// A name for two sides that belong together: "bitnet" for absmean_ternary and absmax8.
struct RegisteredRecipe {
  std::string name;
  std::string weight, activation;  // texts of specs
  std::string help;
};
// Throws if the name is one already, or is no such name, and what the specs' quantizers do not do.
void register_recipe(RegisteredRecipe recipe);
std::vector<const RegisteredRecipe*> registered_recipes();

}  // namespace quest
