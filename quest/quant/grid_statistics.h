// What a grid's codes are and how much its gradient mask hides of Gaussian data: what is measured
// on a model (train/diagnostics.h) is read beside it.
//
//   const QuantSpec spec = recipe_from_name("w8a8").weight;
//   codes_in_order(spec).size() == 256;
//   gaussian_masked_fraction(spec);   // 9.6e-5: QuEST (arXiv 2502.05003), Figure 8
//
// Thread rules: everything here is pure.
#pragma once

#include <optional>
#include <vector>

#include "quest/quant/quant_spec.h"

namespace quest {

// The int8 codes that quantize_row can write, by ascending value; 4:8 has a 0 among them, for what
// it drops. Throws kUsage for grids without codes (kNone, kMask4of8).
std::vector<int> codes_in_order(const QuantSpec& spec);
// Their numbers (value = unit * number), ascending.
std::vector<double> numbers_in_order(const QuantSpec& spec);

// The share of values of a row from N(0,1) that pass no gradient, for rows so long that their RMS
// is 1 (a row of K values differs by O(1/K)). Exact, from the normal distribution function.
// nullopt where nothing is masked by definition: kNone, and kSte.
std::optional<double> gaussian_masked_fraction(const QuantSpec& spec);

}  // namespace quest
