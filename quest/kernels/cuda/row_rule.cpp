#include "quest/kernels/cuda/row_rule.h"

#include <algorithm>
#include <limits>

#include "quest/base/error.h"
#include "quest/quant/hadamard.h"
#include "quest/quant/quantizer.h"

namespace quest::kernels::cuda {
namespace {

// From the factors of both limits to those of the estimator's.
void set_mask(RowRule& rule, const QuantSpec& spec) {
  switch (spec.estimator) {
    case GradientEstimator::kTrust:
    case GradientEstimator::kTrustHalfGap:
      rule.error_of = 1;
      rule.clip_factor = 0;
      break;
    case GradientEstimator::kClip:
      rule.trust_factor = 0;
      break;
    case GradientEstimator::kSte:
      rule.trust_factor = rule.clip_factor = 0;
      rule.ste_limit = std::numeric_limits<float>::infinity();
      break;
  }
}

void set_uniform(RowRule& rule, const QuantSpec& spec) {
  const bool ternary = spec.grid == Grid::kTernary;
  rule.code = spec.grid == Grid::kUniform4of8 ? CodeKind::kSparse : CodeKind::kLinear;
  rule.alpha = static_cast<float>(ternary ? optimal_gaussian_scale_ternary()
                                          : optimal_gaussian_scale(spec.bits));
  rule.half_steps = ternary ? 2.0f : static_cast<float>((1 << spec.bits) - 1);
  rule.epsilon_in_rms = spec.grid == Grid::kUniform4of8 && spec.hadamard;
  rule.whole_steps = ternary;
  rule.trust_factor = spec.trust_scale * (rule.alpha / rule.half_steps);
  rule.clip_factor = spec.clip_scale;
  rule.by_sign = rule.half_steps == 1.0f;
  rule.half_levels = ternary ? 1.0f : rule.half_steps / 2;
  rule.shift = ternary ? 0.0f : 0.5f;
  rule.slope = ternary ? 1.0f : 2.0f;
  rule.intercept = ternary ? 0.0f : 1.0f;
  // The low byte of 1.5 * 2^23's bits is 0, so that of n + 1.5 * 2^23 is n.
  const CodeFormat format = code_format(spec);
  rule.number_shift = format.multiplier == 2 ? 1 : 0;
  rule.number_offset = format.offset;
  rule.code_slope = ternary || format.multiplier == 2 ? 1 : 2;  // n, n - 1 or 2n - 1
  rule.code_offset = ternary ? 0 : -1;
}

void set_table(RowRule& rule, const QuantSpec& spec) {
  rule.code = CodeKind::kTable;
  rule.number_is_code = spec.grid == Grid::kFp4;
  const LevelTable<float>& table = level_table<float>(spec);
  rule.levels = table.count;
  std::copy(table.numbers.begin(), table.numbers.end(), rule.numbers);
  std::copy(table.midpoints.begin(), table.midpoints.end(), rule.midpoints);
  float half_gap = 0, top = 0;
  if (spec.grid == Grid::kFp4) {
    rule.unit_over_r = static_cast<float>(kFp4Scale / 2);
    half_gap = static_cast<float>(
        spec.estimator == GradientEstimator::kTrustHalfGap ? kFp4Scale : kFp4TrustLimit);
    top = static_cast<float>(kFp4Scale * 6);
  } else {
    rule.unit_over_r = 1.0f;
    const auto levels = gaussian_levels(spec.bits, spec.grid == Grid::kGaussianConverged);
    top = levels[levels.size() - 1];
    half_gap = (top - levels[levels.size() - 2]) / 2;
  }
  rule.trust_factor = spec.trust_scale * half_gap;
  rule.clip_factor = spec.clip_scale * top;
}

}  // namespace

RowRule make_row_rule(const QuantSpec& spec, int64_t k) {
  check_row_size(spec, k);
  QUEST_CHECK(k <= kMaxRow, ErrorKind::kUsage,
              "a row of {} values is too long for the GPU kernels, which take up to {}", k,
              kMaxRow);
  RowRule rule;
  if (spec.hadamard) {
    rule.block = static_cast<int>(hadamard_block_size(k));
    rule.norm = hadamard_norm<float>(rule.block);
  }
  rule.epsilon = static_cast<float>(kScaleEpsilon);
  switch (spec.grid) {
    case Grid::kUniform:
    case Grid::kTernary:
    case Grid::kUniform4of8:
      set_uniform(rule, spec);
      set_mask(rule, spec);
      break;
    case Grid::kGaussian:
    case Grid::kGaussianConverged:
    case Grid::kFp4:
      set_table(rule, spec);
      set_mask(rule, spec);
      break;
    case Grid::kMask4of8:
      rule.code = CodeKind::kSparse;
      rule.rounds = false;
      break;
    case Grid::kNone:
      break;
    case Grid::kRegistered:
      QUEST_ASSERT(false, "{} has no rule of its own", to_string(spec));
  }
  return rule;
}

}  // namespace quest::kernels::cuda
