// QuantSpec: what one side (weight or activation) of a matrix product goes through, as data.
//
// A quantizer is the product of four choices: a grid, a Hadamard transform or none, a gradient
// estimator, and the side it is applied to (QuEST, arXiv 2502.05003, section 3). Everything that
// quantizes in this program takes a QuantSpec; there is one code path.
//
//   QuantRecipe r = recipe_from_name("w4a4");      // throws kUsage and lists what exists
//   r.weight.grid == Grid::kUniform && r.weight.bits == 4 && r.weight.hadamard
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quest {

enum class Grid {
  kNone,               // passes values through (rotated if hadamard)
  kUniform,            // 2^bits centred levels, no zero level: odd integers times unit; bits 1..8
  kTernary,            // -1 0 1 (bits is 2 in storage; 1.585 in name)
  kGaussian,           // 2^bits Lloyd-Max levels of N(0,1) as the authors' 20 iterations give; bits 1..4
  kGaussianConverged,  // the same, iterated to convergence
  kFp4,                // E2M1
  kUniform4of8,        // 4-bit uniform grid, then 2 of 4 pairs in each 8 kept (int4_4of8)
  kMask4of8,           // only the 4:8 mask: values unrounded where kept, 0 elsewhere
};

enum class GradientEstimator {
  kTrust,         // mask = |q - xh| <= trust limit
  kTrustHalfGap,  // FP4 only: limit from half of FP4's own top gap (0.487) instead of the authors' 0.3186
  kClip,          // mask = |xh| <= clip_scale * scale
  kSte,           // mask = 1
};

struct QuantSpec {
  Grid grid = Grid::kNone;
  int bits = 16;  // of one code; 16 for kNone, 4 for kFp4 and the 4:8 grids, 2 for kTernary
  bool hadamard = false;
  GradientEstimator estimator = GradientEstimator::kTrust;
  float trust_scale = 1.0f;  // the paper's outer trust factor s
  float clip_scale = 1.0f;

  bool operator==(const QuantSpec&) const = default;
  bool is_quantized() const { return grid != Grid::kNone; }
};

// Throws kUsage with the value and the allowed ones if the combination does not exist.
void validate(const QuantSpec& spec);

// "int4.hadamard.trust", "int1.hadamard.clip1.3", "fp4", "none": the same words as the golden files.
std::string to_string(const QuantSpec& spec);
// Inverse of to_string. Throws kUsage.
QuantSpec spec_from_string(std::string_view text);

struct QuantRecipe {
  std::string name;  // "w4a4"; "custom" if spelled out
  QuantSpec weight;
  QuantSpec activation;

  // True if at least one side is quantized.
  bool is_quantized() const { return weight.is_quantized() || activation.is_quantized(); }
};

// bf16 (alias none), w<b>a<b'> with b, b' in 1..8 or 16, ternary, fp4, int4_4of8, gauss<b>,
// and suffixes such as "_nohadamard", "_ste": recipe_names() lists all with one line of help each.
// Each side follows its own width: a 1-bit side is Hadamard + clip 1.3, any other Hadamard + trust.
// If one side is quantized with the transform, the other has hadamard = true as well (unrounded).
QuantRecipe recipe_from_name(std::string_view name);
struct RecipeHelp {
  std::string pattern;
  std::string help;
};
const std::vector<RecipeHelp>& recipe_names();
// Throws kUsage: both sides valid, and both or neither rotated.
void validate(const QuantRecipe& recipe);

// Bits that one weight or activation value takes in storage ("1.585" for ternary, "3" for 4:8 with
// its indices: 2 bits of index for each pair of 4-bit codes kept in 4 values...); for tables.
double storage_bits(const QuantSpec& spec);

}  // namespace quest
