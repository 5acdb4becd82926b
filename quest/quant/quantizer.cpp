#include "quest/quant/quantizer.h"

#include <cmath>
#include <limits>
#include <vector>

#include "quest/base/error.h"
#include "quest/quant/decision.h"
#include "quest/quant/hadamard.h"
#include "quest/quant/sum_of_squares.h"

namespace quest {
namespace {

constexpr int64_t kGroup = 8;  // of the 4:8 grids

bool is_4of8(Grid grid) { return grid == Grid::kUniform4of8 || grid == Grid::kMask4of8; }

void set_bit(std::span<uint8_t> mask, size_t k, bool bit) {
  if (bit) mask[k / 8] = static_cast<uint8_t>(mask[k / 8] | (1u << (k % 8)));
}

// Limits and unit of the uniform grids and ternary; `half_steps` is the number of half steps
// between 0 and the clipping point.
template <class Real>
RowConstants<Real> uniform_constants(const QuantSpec& spec, Real rms, double alpha, int half_steps,
                                     bool epsilon_in_rms) {
  const Real a = static_cast<Real>(alpha);
  const Real epsilon = static_cast<Real>(kScaleEpsilon);
  if (epsilon_in_rms) rms += epsilon;
  const Real scale = epsilon_in_rms ? a * rms : a * rms + epsilon;
  const Real step = 2 * scale / static_cast<Real>(half_steps);
  RowConstants<Real> c;
  // The number of ternary levels is whole steps, of the others half steps (2^b - 1 is odd).
  c.unit = spec.grid == Grid::kTernary ? step : step / 2;
  c.inverse_step = half_steps == 1 ? kSignStep<Real> : 1 / step;
  c.trust_limit = static_cast<Real>(spec.trust_scale) * (a / static_cast<Real>(half_steps)) * rms;
  c.clip_limit = static_cast<Real>(spec.clip_scale) * scale;
  return c;
}

// For the tables: everything is proportional to r = rms + 1e-8.
template <class Real>
RowConstants<Real> table_constants(const QuantSpec& spec, Real rms, Real unit_over_r, Real half_gap,
                                   Real top) {
  const Real r = rms + static_cast<Real>(kScaleEpsilon);
  RowConstants<Real> c;
  c.unit = r * unit_over_r;
  c.inverse_step = 1 / c.unit;
  c.trust_limit = static_cast<Real>(spec.trust_scale) * half_gap * r;
  c.clip_limit = static_cast<Real>(spec.clip_scale) * top * r;
  return c;
}

}  // namespace

template <class Real>
RowConstants<Real> row_constants(const QuantSpec& spec, Real rms) {
  switch (spec.grid) {
    case Grid::kUniform:
    case Grid::kUniform4of8:
      return uniform_constants(spec, rms, optimal_gaussian_scale(spec.bits), (1 << spec.bits) - 1,
                               spec.grid == Grid::kUniform4of8 && spec.hadamard);
    case Grid::kTernary:
      return uniform_constants(spec, rms, optimal_gaussian_scale_ternary(), 2, false);
    case Grid::kGaussian:
    case Grid::kGaussianConverged: {
      const std::span<const float> levels =
          gaussian_levels(spec.bits, spec.grid == Grid::kGaussianConverged);
      const Real top = levels[levels.size() - 1];
      const Real half_gap = (top - static_cast<Real>(levels[levels.size() - 2])) / 2;
      return table_constants(spec, rms, Real(1), half_gap, top);
    }
    case Grid::kFp4: {
      const double half_gap =
          spec.estimator == GradientEstimator::kTrustHalfGap ? kFp4Scale : kFp4TrustLimit;
      return table_constants(spec, rms, static_cast<Real>(kFp4Scale / 2),
                             static_cast<Real>(half_gap), static_cast<Real>(kFp4Scale * 6));
    }
    case Grid::kNone:
    case Grid::kMask4of8:
      break;
    case Grid::kRegistered:
      QUEST_ASSERT(false, "{} has no rows of its own", to_string(spec));
  }
  return {1, 1, 0, 0};
}

template <class Real>
unsigned kept_pairs(const Real* group) {
  std::array<Real, 4> norm;
  for (size_t j = 0; j < 4; ++j) {
    norm[j] = group[2 * j] * group[2 * j] + group[2 * j + 1] * group[2 * j + 1];
  }
  unsigned kept = 0;
  for (size_t j = 0; j < 4; ++j) {
    int ahead = 0;
    for (size_t i = 0; i < 4; ++i) {
      if (norm[i] > norm[j] || (norm[i] == norm[j] && i < j)) ++ahead;
    }
    if (ahead < 2) kept |= 1u << j;
  }
  return kept;
}

void check_row_size(const QuantSpec& spec, int64_t k) {
  QUEST_CHECK(k >= 1, ErrorKind::kUsage, "a row of {} values cannot be quantized", k);
  if (spec.hadamard) hadamard_block_size(k);
  QUEST_CHECK(!is_4of8(spec.grid) || k % kGroup == 0, ErrorKind::kUsage,
              "a row of {} values has no 4:8 grid: its length must be a multiple of 8", k);
}

template <class Real>
Real quantize_row(const QuantSpec& spec, std::span<const Real> x, const RowOutput<Real>& out) {
  check_row_size(spec, static_cast<int64_t>(x.size()));
  thread_local std::vector<Real> xh;
  xh.assign(x.begin(), x.end());
  if (spec.hadamard) hadamard_transform<Real>(xh);

  const Real rms = std::sqrt(sum_of_squares<Real>(xh) / static_cast<Real>(xh.size()));
  if (spec.grid != Grid::kNone && !std::isfinite(rms))
    return std::numeric_limits<Real>::quiet_NaN();
  const RowConstants<Real> constants = row_constants(spec, rms);
  const RowDecision<Real> decide(spec, constants);
  const bool has_codes = spec.grid != Grid::kNone && spec.grid != Grid::kMask4of8;

  std::fill(out.mask.begin(), out.mask.end(), uint8_t{0});
  unsigned kept = ~0u;
  for (size_t k = 0; k < xh.size(); ++k) {
    if (is_4of8(spec.grid) && k % kGroup == 0) kept = kept_pairs(&xh[k]);
    const Decision<Real> d = decide(xh[k], (kept >> (k % kGroup / 2) & 1u) != 0);
    if (has_codes && !out.codes.empty()) out.codes[k] = d.code;
    if (!out.mask.empty()) set_bit(out.mask, k, d.trusted);
    if (!out.values.empty()) out.values[k] = d.value;
    if (!out.transformed.empty()) out.transformed[k] = xh[k];
  }
  return constants.unit;
}

template <class Real>
void quantize_row_backward(const QuantSpec& spec, std::span<const uint8_t> mask,
                           std::span<const Real> grad_values, std::span<Real> grad_x) {
  QUEST_CHECK(grad_x.size() == grad_values.size(), ErrorKind::kUsage,
              "gradient row has {} values, expected {}", grad_x.size(), grad_values.size());
  check_row_size(spec, static_cast<int64_t>(grad_x.size()));
  for (size_t k = 0; k < grad_x.size(); ++k) {
    const bool passes = mask.empty() || (mask[k / 8] >> (k % 8) & 1u) != 0;
    grad_x[k] = passes ? grad_values[k] : Real(0);
  }
  if (spec.hadamard) hadamard_transform<Real>(grad_x);
}

template RowConstants<float> row_constants<float>(const QuantSpec&, float);
template RowConstants<double> row_constants<double>(const QuantSpec&, double);
template unsigned kept_pairs<float>(const float*);
template unsigned kept_pairs<double>(const double*);
template float quantize_row<float>(const QuantSpec&, std::span<const float>,
                                   const RowOutput<float>&);
template double quantize_row<double>(const QuantSpec&, std::span<const double>,
                                     const RowOutput<double>&);
template void quantize_row_backward<float>(const QuantSpec&, std::span<const uint8_t>,
                                           std::span<const float>, std::span<float>);
template void quantize_row_backward<double>(const QuantSpec&, std::span<const uint8_t>,
                                            std::span<const double>, std::span<double>);

}  // namespace quest
