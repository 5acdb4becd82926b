#include <algorithm>
#include <optional>

#include "quest/base/error.h"
#include "quest/quant/quant_spec.h"
#include "quest/quant/registered_quantizer.h"

namespace quest {
namespace {

constexpr float kOneBitClipHadamard = 1.30f;
constexpr float kOneBitClipPlain = 1.25f;

[[noreturn]] void throw_unknown_recipe(std::string_view name, std::string_view why) {
  const std::vector<RecipeHelp> names = recipe_names();
  size_t width = 0;
  for (const RecipeHelp& entry : names) width = std::max(width, entry.pattern.size());
  std::string list;
  for (const RecipeHelp& entry : names) {
    list += fmt::format("\n  {:<{}} {}", entry.pattern, width, entry.help);
  }
  QUEST_THROW(ErrorKind::kUsage, "quantization recipe \"{}\" {}. Recipes are:{}", name, why, list);
}

// What the suffixes of a name ask for.
struct Variant {
  bool hadamard = true;
  std::optional<GradientEstimator> estimator;
};

// Takes a suffix off the end of the name.
bool take_suffix(std::string_view& name, std::string_view suffix) {
  if (!name.ends_with(suffix) || name.size() == suffix.size()) return false;
  name.remove_suffix(suffix.size());
  return true;
}

Variant take_variant(std::string_view& name) {
  Variant variant;
  if (take_suffix(name, "_trust")) {
    variant.estimator = GradientEstimator::kTrust;
  } else if (take_suffix(name, "_clip")) {
    variant.estimator = GradientEstimator::kClip;
  } else if (take_suffix(name, "_ste")) {
    variant.estimator = GradientEstimator::kSte;
  } else if (take_suffix(name, "_halfgap")) {
    variant.estimator = GradientEstimator::kTrustHalfGap;
  }
  variant.hadamard = !take_suffix(name, "_nohadamard");
  return variant;
}

// The side of a product that has this grid: the paper's estimator for its width, or the variant's.
QuantSpec side(Grid grid, int bits, const Variant& variant) {
  QuantSpec spec;
  if (grid == Grid::kNone) return spec;
  spec.grid = grid;
  spec.bits = bits;
  spec.hadamard = variant.hadamard;
  const bool one_bit = bits == 1;
  spec.estimator =
      variant.estimator.value_or(one_bit ? GradientEstimator::kClip : GradientEstimator::kTrust);
  if (one_bit && spec.estimator == GradientEstimator::kClip) {
    spec.clip_scale = spec.hadamard ? kOneBitClipHadamard : kOneBitClipPlain;
  }
  return spec;
}

struct Grids {
  Grid weight, activation;
  int weight_bits, activation_bits;
};

// "w4", "a16": the width behind the letter, taken off the front; 1..8 or 16.
std::optional<int> take_width(std::string_view& text, char letter) {
  if (text.size() < 2 || text[0] != letter) return std::nullopt;
  text.remove_prefix(1);
  if (text.starts_with("16")) {
    text.remove_prefix(2);
    return 16;
  }
  const char digit = text[0];
  if (digit < '1' || digit > '8') return std::nullopt;
  text.remove_prefix(1);
  return digit - '0';
}

std::optional<Grids> parse_base(std::string_view base) {
  const Grids none{Grid::kNone, Grid::kNone, 16, 16};
  if (base == "bf16" || base == "none") return none;
  if (base == "ternary") return Grids{Grid::kTernary, Grid::kTernary, 2, 2};
  if (base == "fp4") return Grids{Grid::kFp4, Grid::kFp4, 4, 4};
  if (base == "int4_4of8" || base == "int4_sparse_4_8") {
    return Grids{Grid::kUniform4of8, Grid::kUniform, 4, 4};
  }
  if (base.starts_with("gauss")) {
    const Grid grid = take_suffix(base, "_converged") ? Grid::kGaussianConverged : Grid::kGaussian;
    if (base.size() != 6 || base[5] < '1' || base[5] > '4') return std::nullopt;
    const int bits = base[5] - '0';
    return Grids{grid, grid, bits, bits};
  }
  const std::optional<int> weight = take_width(base, 'w');
  const std::optional<int> activation = weight ? take_width(base, 'a') : std::nullopt;
  if (!activation || !base.empty()) return std::nullopt;
  const auto grid = [](int bits) { return bits == 16 ? Grid::kNone : Grid::kUniform; };
  return Grids{grid(*weight), grid(*activation), *weight, *activation};
}

// "w4a4_lsq", "w4a16_paretoq_hadamard", "bitnet"; nothing if the name ends in no registered
// quantizer and is no registered recipe.
std::optional<QuantRecipe> registered_recipe(std::string_view name) {
  QuantRecipe recipe;
  recipe.name = std::string(name);
  std::string_view base = name;
  const bool hadamard = take_suffix(base, "_hadamard");
  for (const RegisteredRecipe* known : registered_recipes()) {
    if (base != known->name) continue;
    recipe.weight = spec_from_string(known->weight);
    recipe.activation = spec_from_string(known->activation);
    recipe.weight.hadamard = recipe.activation.hadamard = hadamard;
    return recipe;
  }
  const RegisteredQuantizer* quantizer = nullptr;  // of several that fit, the longest name
  for (const RegisteredQuantizer* q : registered_quantizers()) {
    const bool longer = quantizer == nullptr || q->name.size() > quantizer->name.size();
    if (longer && base.ends_with("_" + q->name)) quantizer = q;
  }
  if (quantizer == nullptr) return std::nullopt;
  take_suffix(base, "_" + quantizer->name);
  const std::optional<Grids> grids = parse_base(base);
  const auto side = [&](int bits) {
    QuantSpec spec;
    spec.hadamard = hadamard;
    if (bits == 16) return spec;
    spec.grid = Grid::kRegistered;
    spec.registered = quantizer;
    spec.bits = bits;
    return spec;
  };
  const bool is_width = base.starts_with('w') && grids;
  if (!is_width) throw_unknown_recipe(name, "does not exist");
  recipe.weight = side(grids->weight_bits);
  recipe.activation = side(grids->activation_bits);
  if (!recipe.is_quantized()) {
    throw_unknown_recipe(name, "has a suffix that has no effect: it quantizes nothing");
  }
  return recipe;
}

}  // namespace

QuantRecipe recipe_from_name(std::string_view name) {
  if (const std::optional<QuantRecipe> registered = registered_recipe(name)) {
    validate(*registered);
    return *registered;
  }
  std::string_view base = name;
  const Variant variant = take_variant(base);
  const std::optional<Grids> grids = parse_base(base);
  if (!grids) throw_unknown_recipe(name, "does not exist");

  QuantRecipe recipe;
  recipe.name = std::string(name);
  recipe.weight = side(grids->weight, grids->weight_bits, variant);
  recipe.activation = side(grids->activation, grids->activation_bits, variant);
  const bool is_variant = variant.estimator || !variant.hadamard;
  if (is_variant && !recipe.is_quantized()) {
    throw_unknown_recipe(name, "has a suffix that has no effect: it quantizes nothing");
  }
  if (variant.estimator == GradientEstimator::kTrustHalfGap && grids->weight != Grid::kFp4) {
    throw_unknown_recipe(name, "does not exist: _halfgap is for fp4 only");
  }
  // The product is unchanged only if both operands are rotated.
  const bool rotated = recipe.weight.hadamard || recipe.activation.hadamard;
  recipe.weight.hadamard = rotated;
  recipe.activation.hadamard = rotated;
  validate(recipe);
  return recipe;
}

std::vector<RecipeHelp> recipe_names() {
  std::vector<RecipeHelp> names = {
      {"bf16", "no quantization (also: none, w16a16)"},
      {"w<b>a<c>",
       "b-bit weights, c-bit activations, 1 to 8 each (w4a4, w1a1, w4a8, ...); a side of "
       "1 bit is Hadamard + clip 1.3, any other Hadamard + trust"},
      {"w<b>a16", "b-bit weights, unrounded activations (rotated)"},
      {"w16a<b>", "unrounded weights (rotated), b-bit activations"},
      {"ternary", "levels -1 0 1 on both sides, Hadamard + trust"},
      {"fp4", "E2M1 levels on both sides, Hadamard + trust"},
      {"int4_4of8",
       "weights 4 bits with 4 of 8 values kept in pairs, activations 4 bits (also: "
       "int4_sparse_4_8)"},
      {"gauss<b>",
       "2^b Lloyd-Max levels of N(0,1), b from 1 to 4, as the paper's code computes them"},
      {"gauss<b>_converged", "the same levels iterated to convergence"},
      {"<any>_nohadamard", "without the transform (a 1-bit side then clips at 1.25)"},
      {"<any>_trust",
       "trust estimator on every quantized side (also behind _nohadamard; so the next)"},
      {"<any>_clip", "clip estimator on every quantized side, factor 1 (1 bit: 1.3)"},
      {"<any>_ste", "straight-through estimator on every quantized side"},
      {"fp4_halfgap", "fp4 with the trust limit at half of its own top gap"},
  };
  for (const RegisteredRecipe* recipe : registered_recipes()) {
    names.push_back({recipe->name, recipe->help});
  }
  for (const RegisteredQuantizer* q : registered_quantizers()) {
    const bool has_choice = q->min_bits != q->max_bits;
    const std::string w = has_choice ? "<b>" : std::to_string(q->min_bits);
    const std::string a = has_choice ? "<c>" : w;
    names.push_back({fmt::format("w{}a{}_{}", q->for_weights ? w : "16",
                                 q->for_activations ? a : "16", q->name),
                     q->help});
  }
  if (!registered_quantizers().empty()) {
    names.push_back({"<those>_hadamard", "behind the names above: with the transform"});
  }
  return names;
}

void validate(const QuantRecipe& recipe) {
  const auto check_side = [&](const QuantSpec& spec, std::string_view what) {
    try {
      validate(spec);
    } catch (const Error& error) {
      QUEST_THROW(error.kind(), "{} of recipe {}: {}", what, recipe.name, error.what());
    }
  };
  check_side(recipe.weight, "weight side");
  check_side(recipe.activation, "activation side");
  const auto check_use = [&](const QuantSpec& spec, bool allowed, std::string_view what) {
    QUEST_CHECK(spec.registered == nullptr || allowed, ErrorKind::kUsage,
                "recipe {}: {} does not quantize {}; leave them at 16 bits, or give them another "
                "quantizer (quant.{}.grid)",
                recipe.name, grid_word(spec), what, what == "weights" ? "weight" : "activation");
  };
  const RegisteredQuantizer *w = recipe.weight.registered, *a = recipe.activation.registered;
  check_use(recipe.weight, w != nullptr && w->for_weights, "weights");
  check_use(recipe.activation, a != nullptr && a->for_activations, "activations");
  QUEST_CHECK(
      recipe.weight.hadamard == recipe.activation.hadamard, ErrorKind::kUsage,
      "recipe {}: hadamard is {} for weights and {} for activations; rotate both (the side that "
      "is not quantized passes unrounded) or neither, or the product changes",
      recipe.name, recipe.weight.hadamard, recipe.activation.hadamard);
}

}  // namespace quest
