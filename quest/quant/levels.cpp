// The constants of the grids. levels_test.cpp derives each of them numerically.
#include <limits>

#include "quest/base/error.h"
#include "quest/quant/quantizer.h"

namespace quest {
namespace {

constexpr std::array<double, 8> kOptimalScale = {
    0.7978845587140913, 1.4935346200015913, 2.051068354131873,  2.513930578568423,
    2.9160938834961225, 3.276597282593217,  3.6010497188221655, 3.884938678807525};
constexpr double kOptimalScaleTernary = 1.2240089519030855;

// 20 Lloyd iterations do not converge, and were made in float by sums over a fine grid: their
// result is reproduced as it is, because the published models were trained with it.
constexpr std::array<float, 2> kLevels1 = {-0.797884583f, 0.797884583f};
constexpr std::array<float, 4> kLevels2 = {-1.51045215f, -0.452796757f, 0.452796757f, 1.51045215f};
constexpr std::array<float, 8> kLevels3 = {-2.19854259f, -1.39072692f, -0.790057182f, -0.257506341f,
                                           0.257506341f, 0.790057182f, 1.39072692f,   2.19854259f};
constexpr std::array<float, 16> kLevels4 = {
    -2.96999264f,  -2.33283949f,  -1.88279998f, -1.50169277f, -1.1515404f,  -0.816109836f,
    -0.487656862f, -0.162266552f, 0.162266552f, 0.487656862f, 0.816109836f, 1.1515404f,
    1.50169277f,   1.88279998f,   2.33283949f,  2.96999264f};

constexpr std::array<float, 2> kConverged1 = {-0.797884561f, 0.797884561f};
constexpr std::array<float, 4> kConverged2 = {-1.51041761f, -0.452780035f, 0.452780035f,
                                              1.51041761f};
constexpr std::array<float, 8> kConverged3 = {-2.1519457f,   -1.34390928f, -0.756005281f,
                                              -0.245094179f, 0.245094179f, 0.756005281f,
                                              1.34390928f,   2.1519457f};
constexpr std::array<float, 16> kConverged4 = {
    -2.73258957f,  -2.06901723f, -1.61804639f, -1.2562312f,  -0.942340456f, -0.656759119f,
    -0.388048299f, -0.12839503f, 0.12839503f,  0.388048299f, 0.656759119f,  0.942340456f,
    1.2562312f,    1.61804639f,  2.06901723f,  2.73258957f};

// Twice the E2M1 values, so that they are integers; 0 once.
constexpr std::array<float, 15> kFp4Numbers = {-12, -8, -6, -4, -3, -2, -1, 0,
                                               1,   2,  3,  4,  6,  8,  12};

template <class Real>
LevelTable<Real> make_table(std::span<const float> numbers) {
  LevelTable<Real> table;
  table.count = static_cast<int>(numbers.size());
  table.numbers.fill(std::numeric_limits<Real>::infinity());
  table.midpoints.fill(std::numeric_limits<Real>::infinity());
  for (size_t i = 0; i < numbers.size(); ++i) {
    table.numbers[i] = numbers[i];
    if (i > 0) table.midpoints[i - 1] = Real(0.5) * (table.numbers[i - 1] + table.numbers[i]);
  }
  return table;
}

}  // namespace

double optimal_gaussian_scale(int bits) {
  QUEST_CHECK(bits >= 1 && bits <= 8, ErrorKind::kUsage,
              "there is no uniform grid of {} bits, allowed are 1 to 8", bits);
  return kOptimalScale[static_cast<size_t>(bits - 1)];
}

double optimal_gaussian_scale_ternary() { return kOptimalScaleTernary; }

std::span<const float> gaussian_levels(int bits, bool converged) {
  QUEST_CHECK(bits >= 1 && bits <= 4, ErrorKind::kUsage,
              "there are no Gaussian levels of {} bits, allowed are 1 to 4", bits);
  switch (bits) {
    case 1:
      return converged ? kConverged1 : kLevels1;
    case 2:
      return converged ? kConverged2 : kLevels2;
    case 3:
      return converged ? kConverged3 : kLevels3;
    default:
      return converged ? kConverged4 : kLevels4;
  }
}

template <class Real>
const LevelTable<Real>& level_table(const QuantSpec& spec) {
  using Tables = std::array<LevelTable<Real>, 4>;
  const auto make_gaussian = [](bool converged) {
    Tables tables;
    for (int bits = 1; bits <= 4; ++bits) {
      tables[static_cast<size_t>(bits - 1)] = make_table<Real>(gaussian_levels(bits, converged));
    }
    return tables;
  };
  static const LevelTable<Real> fp4 = make_table<Real>(kFp4Numbers);
  static const Tables authors = make_gaussian(false);
  static const Tables converged = make_gaussian(true);
  if (spec.grid == Grid::kFp4) return fp4;
  QUEST_CHECK(spec.grid == Grid::kGaussian || spec.grid == Grid::kGaussianConverged,
              ErrorKind::kUsage, "grid {} is no table of levels", grid_name(spec.grid));
  return (spec.grid == Grid::kGaussian ? authors : converged)
      .at(static_cast<size_t>(spec.bits - 1));
}

CodeFormat code_format(const QuantSpec& spec) {
  validate(spec);
  CodeFormat format;
  switch (spec.grid) {
    case Grid::kUniform:
    case Grid::kUniform4of8:
      format.max_number = (1 << spec.bits) - 1;
      if (spec.bits == 8) {
        format.multiplier = 2;
        format.offset = 1;
      }
      break;
    case Grid::kTernary:
      format.max_number = 1;
      break;
    case Grid::kFp4:
      format.max_number = static_cast<int>(kFp4Numbers.back());
      break;
    case Grid::kGaussian:
    case Grid::kGaussianConverged:
      format.is_integer = false;
      format.levels = gaussian_levels(spec.bits, spec.grid == Grid::kGaussianConverged);
      break;
    case Grid::kNone:
    case Grid::kMask4of8:
    case Grid::kRegistered:
      QUEST_THROW(ErrorKind::kUsage, "grid {} has no codes", grid_word(spec));
  }
  return format;
}

template const LevelTable<float>& level_table<float>(const QuantSpec&);
template const LevelTable<double>& level_table<double>(const QuantSpec&);

}  // namespace quest
