// Which values of a row lie within rounding of a decision: the tie rule of golden.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "quest/quant/decision.h"
#include "quest/quant/quantizer.h"
#include "quest/quant/sum_of_squares.h"

namespace quest {

// How far xh is moved, as a part of the row's largest |xh|: the error of a dense FP32 transform.
inline constexpr double kTieMove = 4e-7;

//   const TieRow is_tie(spec, x_row);      // x as it is before the transform, of finite rms
//   if (is_tie(i)) ...
class TieRow {
 public:
  TieRow(const QuantSpec& spec, std::span<const float> x)
      : spec_(spec), xh_(x.size()), decide_(spec, constants_of(spec, x, xh_)) {
    for (const float value : xh_) move_ = std::max(move_, std::abs(value));
    move_ = static_cast<float>(move_ * kTieMove);
  }

  // True if moving xh by up to the allowed error changes the value's code, mask bit or kept pair.
  bool operator()(size_t i) const {
    const bool sparse = spec_.grid == Grid::kUniform4of8 || spec_.grid == Grid::kMask4of8;
    const bool kept = !sparse || (kept_pairs(&xh_[i - i % 8]) >> (i % 8 / 2) & 1u) != 0;
    if (sparse && kept_pair_may_change(i)) return true;
    const Decision<float> here = decide_(xh_[i], kept);
    for (const float moved : {xh_[i] - move_, xh_[i] + move_}) {
      const Decision<float> there = decide_(moved, kept);
      if (there.code != here.code || there.trusted != here.trusted) return true;
    }
    return false;
  }

 private:
  static RowConstants<float> constants_of(const QuantSpec& spec, std::span<const float> x,
                                          std::vector<float>& xh) {
    RowOutput<float> out;
    out.transformed = xh;
    quantize_row<float>(spec, x, out);
    const float mean = sum_of_squares<float>(xh) / static_cast<float>(xh.size());
    return row_constants<float>(spec, std::sqrt(mean));
  }

  // Every value of the group may move. The pair is surely kept if at most one other pair can reach
  // its least norm, surely dropped if at least two others stay above its greatest.
  bool kept_pair_may_change(size_t i) const {
    const float* group = &xh_[i - i % 8];
    const size_t own = i % 8 / 2;
    int may_be_ahead = 0, surely_ahead = 0;
    for (size_t j = 0; j < 4; ++j) {
      if (j == own) continue;
      if (norm(group, j, +1) >= norm(group, own, -1)) ++may_be_ahead;
      if (norm(group, j, -1) > norm(group, own, +1)) ++surely_ahead;
    }
    return may_be_ahead >= 2 && surely_ahead < 2;
  }

  // Squared norm of a pair at its greatest (+1) or least (-1) within the move.
  double norm(const float* group, size_t pair, int direction) const {
    double sum = 0;
    for (size_t i = 2 * pair; i < 2 * pair + 2; ++i) {
      const double size = std::max(
          0.0, std::abs(static_cast<double>(group[i])) + direction * static_cast<double>(move_));
      sum += size * size;
    }
    return sum;
  }

  QuantSpec spec_;
  std::vector<float> xh_;
  RowDecision<float> decide_;
  float move_ = 0;
};

}  // namespace quest
