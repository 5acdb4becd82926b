#include "quest/quant/quant_spec.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "quest/base/error.h"
#include "quest/quant/registered_quantizer.h"

namespace quest {
namespace {

// One row per grid: the word of the settings, the word of the texts (a number of bits follows "int"
// and "gauss"), and the bits it allows.
struct GridEntry {
  Grid grid;
  std::string_view name;
  std::string_view format;
  int min_bits, max_bits;
};
constexpr std::array kGrids = {
    GridEntry{Grid::kNone, "none", "none", 16, 16},
    GridEntry{Grid::kUniform, "uniform", "int", 1, 8},
    GridEntry{Grid::kTernary, "ternary", "ternary", 2, 2},
    GridEntry{Grid::kGaussian, "gaussian", "gauss", 1, 4},
    GridEntry{Grid::kGaussianConverged, "gaussian_converged", "gauss", 1, 4},
    GridEntry{Grid::kFp4, "fp4", "fp4", 4, 4},
    GridEntry{Grid::kUniform4of8, "uniform_4of8", "int4_4of8", 4, 4},
    GridEntry{Grid::kMask4of8, "mask_4of8", "masked_4of8", 4, 4},
};

struct EstimatorEntry {
  GradientEstimator estimator;
  std::string_view name;
};
// Longer words before those they begin with: spec_from_string takes the first that fits.
constexpr std::array kEstimators = {
    EstimatorEntry{GradientEstimator::kTrustHalfGap, "trust_halfgap"},
    EstimatorEntry{GradientEstimator::kTrust, "trust"},
    EstimatorEntry{GradientEstimator::kClip, "clip"},
    EstimatorEntry{GradientEstimator::kSte, "ste"},
};

constexpr std::string_view kConvergedSuffix = "_converged";
constexpr std::string_view kTrustScalePrefix = "_s";
constexpr std::string_view kSpecHelp =
    "a spec is <format>[.hadamard].<estimator>, format one of int1..int8, ternary, gauss1..gauss4, "
    "gauss1_converged..gauss4_converged, fp4, int4_4of8; estimator one of trust, trust_s<factor>, "
    "trust_halfgap (fp4 only), clip, clip<factor>, ste; or none[.hadamard], "
    "masked_4of8[.hadamard]; "
    "or a registered quantizer with its bits, lsq4[.hadamard]";

constexpr GridEntry kRegisteredEntry{Grid::kRegistered, "registered", "", 1, 8};

const GridEntry& grid_entry(Grid grid) {
  if (grid == Grid::kRegistered) return kRegisteredEntry;
  for (const GridEntry& entry : kGrids) {
    if (entry.grid == grid) return entry;
  }
  QUEST_THROW(ErrorKind::kUsage, "grid has the value {}, which is none of {}",
              static_cast<int>(grid), grid_names());
}

bool is_trust(GradientEstimator estimator) {
  return estimator == GradientEstimator::kTrust || estimator == GradientEstimator::kTrustHalfGap;
}

// Grids whose gradient mask does not depend on an estimator.
bool has_estimator(Grid grid) {
  return grid != Grid::kNone && grid != Grid::kMask4of8 && grid != Grid::kRegistered;
}

template <class Entries>
std::string join_names(const Entries& entries) {
  std::string names;
  for (const auto& entry : entries) {
    if (!names.empty()) names += ", ";
    names += entry.name;
  }
  return names;
}

void check_scale(std::string_view what, float value, bool has_effect, std::string_view needs,
                 const QuantSpec& spec) {
  QUEST_CHECK(std::isfinite(value) && value > 0.0f, ErrorKind::kUsage,
              "{} is {}: it must be finite and above 0", what, value);
  QUEST_CHECK(
      has_effect || value == 1.0f, ErrorKind::kUsage,
      "{} is {}, but with grid {} and estimator {} it has no effect: leave it at 1, or use {}",
      what, value, grid_name(spec.grid), estimator_name(spec.estimator), needs);
}

[[noreturn]] void throw_unknown_spec(std::string_view text, std::string_view why) {
  QUEST_THROW(ErrorKind::kUsage, "quantizer \"{}\": {}; {}", text, why, kSpecHelp);
}

// A whole text as a positive number; the shortest text of a float (fmt's) comes back as that float.
std::optional<float> parse_factor(std::string_view text) {
  float value = 0;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (status != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// "lsq4", "absmean_ternary": the name, and a digit where it leaves a choice.
bool parse_registered(std::string_view word, QuantSpec& spec) {
  const bool has_digit = !word.empty() && word.back() >= '1' && word.back() <= '8';
  const RegisteredQuantizer* found = find_registered_quantizer(word);
  if (found != nullptr && found->min_bits == found->max_bits) {
    spec.bits = found->min_bits;
  } else if (has_digit) {
    found = find_registered_quantizer(word.substr(0, word.size() - 1));
    spec.bits = word.back() - '0';
    if (found != nullptr && (spec.bits < found->min_bits || spec.bits > found->max_bits)) {
      return false;
    }
  } else {
    return false;
  }
  if (found == nullptr) return false;
  spec.grid = Grid::kRegistered;
  spec.registered = found;
  return true;
}

// "int4", "gauss3_converged", "fp4", ... into grid and bits; false if there is no such format.
bool parse_format(std::string_view word, QuantSpec& spec) {
  if (word == "int4_sparse_4_8") word = "int4_4of8";
  for (const GridEntry& entry : kGrids) {
    if (entry.min_bits == entry.max_bits) {
      if (word != entry.format) continue;
      spec.grid = entry.grid;
      spec.bits = entry.min_bits;
      return true;
    }
    std::string_view rest = word;
    if (!rest.starts_with(entry.format)) continue;
    rest.remove_prefix(entry.format.size());
    if (entry.grid == Grid::kGaussianConverged) {
      if (!rest.ends_with(kConvergedSuffix)) continue;
      rest.remove_suffix(kConvergedSuffix.size());
    }
    if (rest.size() != 1 || rest[0] < '0' + entry.min_bits || rest[0] > '0' + entry.max_bits)
      continue;
    spec.grid = entry.grid;
    spec.bits = rest[0] - '0';
    return true;
  }
  return parse_registered(word, spec);
}

// "trust_s0.5", "clip1.3", "ste", ... ; false if there is no such estimator.
bool parse_estimator(std::string_view word, QuantSpec& spec) {
  for (const EstimatorEntry& entry : kEstimators) {
    if (!word.starts_with(entry.name)) continue;
    spec.estimator = entry.estimator;
    std::string_view rest = word.substr(entry.name.size());
    if (rest.empty()) return true;
    if (entry.estimator == GradientEstimator::kSte) return false;
    if (is_trust(entry.estimator)) {
      if (!rest.starts_with(kTrustScalePrefix)) return false;
      rest.remove_prefix(kTrustScalePrefix.size());
    }
    const std::optional<float> factor = parse_factor(rest);
    if (!factor) return false;
    (is_trust(entry.estimator) ? spec.trust_scale : spec.clip_scale) = *factor;
    return true;
  }
  return false;
}

}  // namespace

std::string_view grid_name(Grid grid) { return grid_entry(grid).name; }

Grid grid_from_name(std::string_view name) {
  for (const GridEntry& entry : kGrids) {
    if (entry.name == name) return entry.grid;
  }
  QUEST_THROW(ErrorKind::kUsage, "grid \"{}\" does not exist: use one of {}", name, grid_names());
}

bool is_grid_name(std::string_view name) {
  return std::any_of(kGrids.begin(), kGrids.end(),
                     [&](const GridEntry& entry) { return entry.name == name; });
}

std::string grid_word(const QuantSpec& spec) {
  return spec.registered != nullptr ? spec.registered->name : std::string(grid_name(spec.grid));
}

void set_grid(QuantSpec& spec, std::string_view word) {
  spec.registered = find_registered_quantizer(word);
  spec.grid = spec.registered != nullptr ? Grid::kRegistered : grid_from_name(word);
  const GridEntry& entry = grid_entry(spec.grid);
  const int low = spec.registered != nullptr ? spec.registered->min_bits : entry.min_bits;
  const int high = spec.registered != nullptr ? spec.registered->max_bits : entry.max_bits;
  if (low == high) {
    spec.bits = low;
  } else if (spec.bits > high) {
    spec.bits = std::min(4, high);
  } else {
    spec.bits = std::max(spec.bits, low);
  }
}

std::string_view estimator_name(GradientEstimator estimator) {
  for (const EstimatorEntry& entry : kEstimators) {
    if (entry.estimator == estimator) return entry.name;
  }
  QUEST_THROW(ErrorKind::kUsage, "estimator has the value {}, which is none of {}",
              static_cast<int>(estimator), estimator_names());
}

GradientEstimator estimator_from_name(std::string_view name) {
  for (const EstimatorEntry& entry : kEstimators) {
    if (entry.name == name) return entry.estimator;
  }
  QUEST_THROW(ErrorKind::kUsage, "gradient estimator \"{}\" does not exist: use one of {}", name,
              estimator_names());
}

std::string grid_names() {
  std::string names = join_names(kGrids);
  for (const RegisteredQuantizer* q : registered_quantizers()) names += ", " + q->name;
  return names;
}
std::string estimator_names() { return join_names(kEstimators); }

std::optional<int> fixed_bits(Grid grid) {
  const GridEntry& entry = grid_entry(grid);
  if (entry.min_bits != entry.max_bits) return std::nullopt;
  return entry.min_bits;
}

void validate(const QuantSpec& spec) {
  const GridEntry& entry = grid_entry(spec.grid);
  QUEST_CHECK((spec.grid == Grid::kRegistered) == (spec.registered != nullptr), ErrorKind::kUsage,
              "grid is {} with {} registered quantizer", entry.name,
              spec.registered == nullptr ? "no" : "a");
  if (spec.registered != nullptr) {
    const RegisteredQuantizer& q = *spec.registered;
    QUEST_CHECK(spec.bits >= q.min_bits && spec.bits <= q.max_bits, ErrorKind::kUsage,
                "bits is {}, allowed for {} are {} to {}", spec.bits, q.name, q.min_bits,
                q.max_bits);
  }
  QUEST_CHECK(entry.min_bits != entry.max_bits || spec.bits == entry.min_bits, ErrorKind::kUsage,
              "bits is {}, but grid {} always has {}", spec.bits, entry.name, entry.min_bits);
  QUEST_CHECK(spec.bits >= entry.min_bits && spec.bits <= entry.max_bits, ErrorKind::kUsage,
              "bits is {}, allowed for grid {} are {} to {}", spec.bits, entry.name, entry.min_bits,
              entry.max_bits);
  const std::string_view estimator = estimator_name(spec.estimator);
  QUEST_CHECK(has_estimator(spec.grid) || spec.estimator == GradientEstimator::kTrust,
              ErrorKind::kUsage,
              "estimator is {}, but with grid {} an estimator has no effect: leave it at trust",
              estimator, entry.name);
  QUEST_CHECK(spec.estimator != GradientEstimator::kTrustHalfGap || spec.grid == Grid::kFp4,
              ErrorKind::kUsage,
              "estimator trust_halfgap exists for grid fp4 only, not for {}: use trust",
              entry.name);
  check_scale("trust_scale", spec.trust_scale, has_estimator(spec.grid) && is_trust(spec.estimator),
              "estimator trust", spec);
  check_scale("clip_scale", spec.clip_scale, spec.estimator == GradientEstimator::kClip,
              "estimator clip", spec);
}

std::string to_string(const QuantSpec& spec) {
  validate(spec);
  const GridEntry& entry = grid_entry(spec.grid);
  const RegisteredQuantizer* q = spec.registered;
  std::string text(q != nullptr ? q->name : entry.format);
  const bool has_choice =
      q != nullptr ? q->min_bits != q->max_bits : entry.min_bits != entry.max_bits;
  if (has_choice) text += std::to_string(spec.bits);
  if (spec.grid == Grid::kGaussianConverged) text += kConvergedSuffix;
  if (spec.hadamard) text += ".hadamard";
  if (!has_estimator(spec.grid)) return text;
  text += '.';
  text += estimator_name(spec.estimator);
  if (spec.trust_scale != 1.0f) text += fmt::format("{}{}", kTrustScalePrefix, spec.trust_scale);
  if (spec.clip_scale != 1.0f) text += fmt::format("{}", spec.clip_scale);
  return text;
}

QuantSpec spec_from_string(std::string_view text) {
  constexpr std::string_view kHadamardWord = "hadamard";
  QuantSpec spec;
  const size_t format_end = text.find('.');
  if (!parse_format(text.substr(0, format_end), spec)) {
    throw_unknown_spec(text,
                       fmt::format("format \"{}\" does not exist", text.substr(0, format_end)));
  }
  // The rest may hold a decimal point (clip1.3), so it is not simply split at dots.
  std::optional<std::string_view> rest;
  if (format_end != std::string_view::npos) rest = text.substr(format_end + 1);
  if (rest && (*rest == kHadamardWord || rest->starts_with("hadamard."))) {
    spec.hadamard = true;
    if (rest->size() == kHadamardWord.size()) {
      rest.reset();
    } else {
      rest->remove_prefix(kHadamardWord.size() + 1);
    }
  }
  if (!has_estimator(spec.grid)) {
    if (rest) throw_unknown_spec(text, fmt::format("this format has no estimator \"{}\"", *rest));
    return spec;
  }
  if (!rest) throw_unknown_spec(text, "the estimator is missing");
  if (!parse_estimator(*rest, spec)) {
    throw_unknown_spec(text, fmt::format("estimator \"{}\" does not exist", *rest));
  }
  validate(spec);
  return spec;
}

double storage_bits(const QuantSpec& spec) {
  validate(spec);
  switch (spec.grid) {
    case Grid::kTernary:
      return std::log2(3.0);
    case Grid::kUniform4of8:
      return (4 * 4 + 2 * 2) / 8.0;
    case Grid::kMask4of8:
      return (4 * 16 + 2 * 2) / 8.0;
    case Grid::kRegistered:
      return spec.registered->storage_bits > 0 ? spec.registered->storage_bits : spec.bits;
    default:
      return spec.bits;
  }
}

}  // namespace quest
