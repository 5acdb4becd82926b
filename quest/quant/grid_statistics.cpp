#include "quest/quant/grid_statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "quest/quant/quantizer.h"

namespace quest {
namespace {

// P(x <= b) for x from N(0,1).
double below(double b) { return std::erfc(-b / std::numbers::sqrt2) / 2; }

double mass(double a, double b) { return a < b ? below(b) - below(a) : 0; }

// P(a <= x <= b and x's pair is kept by a 4:8 grid). With G = exp(-r^2/2), the chance that another
// pair is larger than one of squared norm r^2, at most one of three others is larger with chance
// 1 - 3 G^2 + 2 G^3; the mean of that over x's neighbour y, r^2 = x^2 + y^2, is
// 1 - sqrt(3) exp(-x^2) + exp(-3 x^2 / 2), whose products with the density are normal again.
double kept_mass(double a, double b) {
  const double root3 = std::numbers::sqrt3;
  return mass(a, b) - mass(root3 * a, root3 * b) + mass(2 * a, 2 * b) / 2;
}

// Values that a row of RMS 1 is rounded to, ascending: without 4:8's 0, which is for pairs.
std::vector<double> levels(const QuantSpec& spec, double unit) {
  std::vector<double> out;
  for (const double number : numbers_in_order(spec)) {
    if (spec.grid != Grid::kUniform4of8 || number != 0) out.push_back(unit * number);
  }
  return out;
}

// P(|q - x| <= limit), q the level nearest to x or, where a 4:8 grid drops x, 0.
double trusted_mass(const QuantSpec& spec, const RowConstants<double>& constants) {
  const bool sparse = spec.grid == Grid::kUniform4of8;
  const std::vector<double> q = levels(spec, constants.unit);
  const double limit = constants.trust_limit;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  double trusted = sparse ? mass(-limit, limit) - kept_mass(-limit, limit) : 0;
  for (size_t i = 0; i < q.size(); ++i) {
    const double low = i == 0 ? -kInfinity : (q[i - 1] + q[i]) / 2;
    const double high = i + 1 == q.size() ? kInfinity : (q[i] + q[i + 1]) / 2;
    const double a = std::max(low, q[i] - limit), b = std::min(high, q[i] + limit);
    trusted += sparse ? (a < b ? kept_mass(a, b) : 0) : mass(a, b);
  }
  return trusted;
}

}  // namespace

std::vector<int> codes_in_order(const QuantSpec& spec) {
  const CodeFormat format = code_format(spec);
  std::vector<int> codes;
  if (!format.is_integer) {
    for (size_t i = 0; i < format.levels.size(); ++i) codes.push_back(static_cast<int>(i));
  } else if (spec.grid == Grid::kFp4) {
    const LevelTable<float>& table = level_table<float>(spec);
    for (int i = 0; i < table.count; ++i) {
      codes.push_back(static_cast<int>(table.numbers[static_cast<size_t>(i)]));
    }
  } else {
    // Odd numbers; every number with ternary; 4:8 also 0.
    const int step = spec.grid == Grid::kTernary ? 1 : 2;
    for (int number = -format.max_number; number <= format.max_number; number += step) {
      if (spec.grid == Grid::kUniform4of8 && number == 1) codes.push_back(0);
      codes.push_back((number - format.offset) / format.multiplier);
    }
  }
  return codes;
}

std::vector<double> numbers_in_order(const QuantSpec& spec) {
  const CodeFormat format = code_format(spec);
  std::vector<double> numbers;
  for (const int code : codes_in_order(spec)) {
    numbers.push_back(format.is_integer ? format.multiplier * code + format.offset
                                        : double{format.levels[static_cast<size_t>(code)]});
  }
  return numbers;
}

std::optional<double> gaussian_masked_fraction(const QuantSpec& spec) {
  if (spec.grid == Grid::kMask4of8) return 0.5;
  if (!spec.is_quantized() || spec.registered != nullptr ||
      spec.estimator == GradientEstimator::kSte) {
    return std::nullopt;
  }
  const RowConstants<double> constants = row_constants<double>(spec, 1.0);
  if (spec.estimator == GradientEstimator::kClip) {
    return std::erfc(constants.clip_limit / std::numbers::sqrt2);
  }
  return 1 - trusted_mass(spec, constants);
}

}  // namespace quest
