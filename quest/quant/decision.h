// The decision on one value: code, number and mask bit, given the row's constants.
//
// The readable form of what every kernel does 16 values at a time. Inlined into quantizer.cpp and
// the golden comparison, which asks what would have happened to a value moved by a rounding error.
//
//   const RowDecision<float> decide(spec, row_constants<float>(spec, rms));
//   const Decision<float> d = decide(xh, /*kept=*/true);   // d.code, d.value, mask bit d.trusted
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "quest/quant/quantizer.h"

namespace quest {

template <class Real>
struct Decision {
  int8_t code = 0;
  Real value = 0;  // unit * number, or xh itself for grids without codes
  bool trusted = true;
};

// Holds references to nothing but static tables; cheap to make once a row.
template <class Real>
class RowDecision {
 public:
  RowDecision(const QuantSpec& spec, const RowConstants<Real>& constants)
      : spec_(spec), constants_(constants) {
    if (spec.grid == Grid::kUniform || spec.grid == Grid::kUniform4of8) {
      half_levels_ = static_cast<Real>((1 << spec.bits) - 1) / 2;
    } else if (is_table()) {
      table_ = &level_table<Real>(spec);
    }
  }

  // kept: false where a 4:8 grid drops the value's pair; true for all other grids.
  Decision<Real> operator()(Real xh, bool kept) const {
    Decision<Real> d;
    if (spec_.grid == Grid::kNone || spec_.grid == Grid::kMask4of8) {
      d.value = kept ? xh : Real(0);
      d.trusted = kept;
      return d;
    }
    Real number = 0;
    if (kept) decide(xh * constants_.inverse_step, d.code, number);
    d.value = number * constants_.unit;
    d.trusted = trusted(d.value, xh);
    return d;
  }

 private:
  bool is_table() const {
    return spec_.grid == Grid::kGaussian || spec_.grid == Grid::kGaussianConverged ||
           spec_.grid == Grid::kFp4;
  }

  void decide(Real z, int8_t& code, Real& number) const {
    if (is_table()) {
      const auto begin = table_->midpoints.begin();
      const auto index = std::lower_bound(begin, begin + table_->count - 1, z) - begin;
      number = table_->numbers[static_cast<size_t>(index)];
      code = static_cast<int8_t>(spec_.grid == Grid::kFp4 ? static_cast<int>(number)
                                                          : static_cast<int>(index));
    } else if (spec_.grid == Grid::kTernary) {
      code = static_cast<int8_t>(round_half_even(std::clamp(z, Real(-1), Real(1))));
      number = code;  // never -0, which a code cannot say
    } else {
      const Real n = round_half_even(std::clamp(z, -half_levels_, half_levels_) + Real(0.5));
      number = 2 * n - 1;
      // 8-bit numbers -255 .. 255 do not fit a code: u = n - 1 with number = 2u + 1 is stored.
      code = static_cast<int8_t>(spec_.bits == 8 ? n - 1 : number);
    }
  }

  // In the rounding mode that a C++ program has unless it asks for another.
  static Real round_half_even(Real value) { return std::nearbyint(value); }

  bool trusted(Real value, Real xh) const {
    switch (spec_.estimator) {
      case GradientEstimator::kTrust:
      case GradientEstimator::kTrustHalfGap:
        return std::abs(value - xh) <= constants_.trust_limit;
      case GradientEstimator::kClip:
        return std::abs(xh) <= constants_.clip_limit;
      case GradientEstimator::kSte:
        break;
    }
    return true;
  }

  QuantSpec spec_;
  RowConstants<Real> constants_;
  Real half_levels_ = 0;
  const LevelTable<Real>* table_ = nullptr;
};

}  // namespace quest
