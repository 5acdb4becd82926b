// QuantSpec: what one side (weight or activation) of a matrix product goes through, as data.
//
// A quantizer is the product of four choices: a grid, a Hadamard transform or none, a gradient
// estimator, and the side it is applied to (QuEST, arXiv 2502.05003, section 3). Everything that
// quantizes in this program takes a QuantSpec; there is one code path.
//
//   QuantRecipe r = recipe_from_name("w4a4");      // throws kUsage and lists what exists
//   r.weight.grid == Grid::kUniform && r.weight.bits == 4 && r.weight.hadamard
//
// One spec has two spellings that name the same fields: a text ("int4.hadamard.trust_s0.5",
// to_string and spec_from_string) and separate settings (grid = "uniform", bits = 4, hadamard =
// true, estimator = "trust", trust_scale = 0.5, through grid_from_name and estimator_from_name). A
// recipe name ("w4a4") is shorthand for two specs. All functions here are pure and may be called
// from any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quest {

enum class Grid {
  kNone,      // passes values through (rotated if hadamard)
  kUniform,   // 2^bits centred levels, no zero level: odd integers times unit; bits 1..8
  kTernary,   // -1 0 1 (bits is 2 in storage; 1.585 in name)
  kGaussian,  // 2^bits Lloyd-Max levels of N(0,1) as the authors' 20 iterations give; bits 1..4
  kGaussianConverged,  // the same, iterated to convergence
  kFp4,                // E2M1
  kUniform4of8,        // 4-bit uniform grid, then 2 of 4 pairs in each 8 kept (int4_4of8)
  kMask4of8,           // only the 4:8 mask: values unrounded where kept, 0 elsewhere
  kRegistered,         // none of these: QuantSpec::registered says which; training only
};

enum class GradientEstimator {
  kTrust,         // mask = |q - xh| <= trust limit
  kTrustHalfGap,  // FP4 only: limit from half of FP4's own top gap (0.487) instead of the authors'
                  // 0.3186
  kClip,          // mask = |xh| <= clip_scale * scale
  kSte,           // mask = 1
};

struct RegisteredQuantizer;

struct QuantSpec {
  Grid grid = Grid::kNone;
  int bits = 16;  // of one code; 16 for kNone, 4 for kFp4 and the 4:8 grids, 2 for kTernary
  bool hadamard = false;
  GradientEstimator estimator = GradientEstimator::kTrust;  // kNone, kMask4of8: no effect, kTrust
  float trust_scale = 1.0f;  // the paper's outer trust factor s; 1 unless the estimator is a trust
  float clip_scale = 1.0f;   // 1 unless the estimator is kClip
  // Of kRegistered, else null (registered_quantizer.h). Its gradient is its own: estimator kTrust.
  const RegisteredQuantizer* registered = nullptr;

  bool operator==(const QuantSpec&) const = default;
  bool is_quantized() const { return grid != Grid::kNone; }
  bool is_one_bit() const { return grid == Grid::kUniform && bits == 1; }  // codes are signs
};

// Throws kUsage with the value and the allowed ones if the combination does not exist. A setting
// that would have no effect (clip_scale with trust, an estimator with kNone) is an error too, so
// that two different specs never mean the same quantizer.
void validate(const QuantSpec& spec);

// The words of the separate settings: "none", "uniform", "ternary", "gaussian",
// "gaussian_converged", "fp4", "uniform_4of8", "mask_4of8"; "trust", "trust_halfgap", "clip",
// "ste". The inverses throw kUsage and list what exists.
std::string_view grid_name(Grid grid);
Grid grid_from_name(std::string_view name);
bool is_grid_name(std::string_view name);
// The same with registered quantizers, whose word is their own name ("lsq"). set_grid changes bits
// only where the grid does not allow them.
std::string grid_word(const QuantSpec& spec);
void set_grid(QuantSpec& spec, std::string_view word);
std::string_view estimator_name(GradientEstimator estimator);
GradientEstimator estimator_from_name(std::string_view name);
// All names, registered quantizers included, separated by ", ": for help texts and errors.
std::string grid_names();
std::string estimator_names();
// The bits of a grid that leaves no choice (kNone 16, kTernary 2, kFp4 and the 4:8 grids 4).
std::optional<int> fixed_bits(Grid grid);

// <format>[.hadamard].<estimator>[parameter]: "int4.hadamard.trust", "int4.hadamard.trust_s0.5",
// "int1.hadamard.clip1.3", "gauss3.ste", "gauss3_converged.trust", "fp4.hadamard.trust_halfgap",
// "ternary.clip", "int4_4of8.trust"; without estimator: "none", "none.hadamard", "masked_4of8",
// "masked_4of8.hadamard", and registered quantizers ("lsq4", "lsq4.hadamard"). The same words as
// the cases of the golden files.
std::string to_string(const QuantSpec& spec);
// Inverse of to_string (also reads int4_sparse_4_8 for int4_4of8). Throws kUsage, listing what
// exists.
QuantSpec spec_from_string(std::string_view text);

struct QuantRecipe {
  std::string name;  // "w4a4"; "custom" if spelled out
  QuantSpec weight;
  QuantSpec activation;

  // True if at least one side is quantized.
  bool is_quantized() const { return weight.is_quantized() || activation.is_quantized(); }
};

// bf16 (aliases none, w16a16), w<b>a<b'> with b, b' in 1..8 or 16, ternary, fp4, int4_4of8,
// gauss<b>, gauss<b>_converged, and behind any of them the suffixes "_nohadamard" and one of
// "_trust", "_clip", "_ste" (fp4 also "_halfgap"); w<b>a<b'> with the name of a registered
// quantizer behind it ("w4a4_lsq"), and then "_hadamard": recipe_names() lists all with a line of
// help. Each side follows its own width: a 1-bit side is Hadamard + clip 1.3 (1.25 without
// Hadamard), any other Hadamard + trust. If one side is quantized with the transform, the other has
// hadamard = true as well (unrounded). Throws kUsage and lists what exists.
QuantRecipe recipe_from_name(std::string_view name);
struct RecipeHelp {
  std::string pattern;
  std::string help;
};
std::vector<RecipeHelp> recipe_names();
// Throws kUsage: both sides valid, and both or neither rotated.
void validate(const QuantRecipe& recipe);

// Bits that one weight or activation value takes in storage, row scales aside, for tables: bits;
// log2(3) = 1.585 for ternary; 2.5 for int4_4of8 (of 8 values 4 codes of 4 bits and 2 pair indices
// of 2 bits); 8.5 for masked_4of8 (the same with 16-bit values); 16 for none; of a registered
// quantizer what it says.
double storage_bits(const QuantSpec& spec);

}  // namespace quest
