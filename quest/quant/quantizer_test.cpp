#include "quest/quant/quantizer.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/philox.h"
#include "quest/base/testing.h"
#include "quest/quant/decision.h"
#include "quest/quant/hadamard.h"
#include "quest/quant/sum_of_squares.h"

namespace quest {
namespace {

template <class Real>
std::vector<Real> gaussian_row(size_t k, uint64_t seed, double scale = 1) {
  const Philox random(seed);
  std::vector<Real> x(k);
  for (size_t i = 0; i < k; ++i) x[i] = static_cast<Real>(scale * random.normal(i));
  return x;
}

template <class Real>
struct Row {
  std::vector<int8_t> codes;
  std::vector<uint8_t> mask;
  std::vector<Real> values, transformed;
  Real unit;
  bool trusted(size_t i) const { return (mask[i / 8] >> (i % 8) & 1) != 0; }
};

template <class Real>
Row<Real> quantize(const char* text, const std::vector<Real>& x) {
  Row<Real> r;
  r.codes.assign(x.size(), 77);
  r.mask.assign((x.size() + 7) / 8, 0xff);
  r.values.resize(x.size());
  r.transformed.resize(x.size());
  r.unit = quantize_row<Real>(
      spec_from_string(text), x,
      {.codes = r.codes, .mask = r.mask, .values = r.values, .transformed = r.transformed});
  return r;
}

TEST(Hadamard, EqualsTheSylvesterMatrix) {
  for (const size_t k : {16u, 48u, 96u, 192u, 256u, 384u}) {
    const size_t block = static_cast<size_t>(hadamard_block_size(static_cast<int64_t>(k)));
    const std::vector<double> x = gaussian_row<double>(k, k);
    std::vector<double> y = x;
    hadamard_transform<double>(y);
    for (size_t i = 0; i < k; ++i) {
      const size_t start = i / block * block;
      double sum = 0;
      for (size_t j = 0; j < block; ++j) {
        const bool negative = std::popcount((i - start) & j) % 2 == 1;
        sum += negative ? -x[start + j] : x[start + j];
      }
      EXPECT_NEAR(y[i], sum / std::sqrt(static_cast<double>(block)), 1e-12) << k << " " << i;
    }
    hadamard_transform<double>(y);
    for (size_t i = 0; i < k; ++i) EXPECT_NEAR(y[i], x[i], 1e-13);
  }
}

TEST(Hadamard, BlockSizes) {
  EXPECT_EQ(hadamard_block_size(128), 128);
  EXPECT_EQ(hadamard_block_size(11008), 128);
  EXPECT_EQ(hadamard_block_size(192), 64);
  EXPECT_EQ(hadamard_block_size(96), 32);
  EXPECT_EQ(hadamard_block_size(48), 16);
  for (const int64_t k : {-128, 0, 1, 8, 24, 100, 130}) {
    EXPECT_QUEST_ERROR(hadamard_block_size(k), ErrorKind::kUsage, std::to_string(k));
  }
}

// The tree written out the slow way: a recursion over the padded row.
float tree_sum(const std::vector<float>& s, size_t first, size_t count) {
  if (count == 1) return s[first];
  return tree_sum(s, first, count / 2) + tree_sum(s, first + count / 2, count / 2);
}

TEST(SumOfSquares, IsTheStatedTree) {
  for (const size_t k : {1u, 7u, 127u, 128u, 129u, 640u, 1792u, 11008u}) {
    const std::vector<float> x = gaussian_row<float>(k, k, 3.0);
    std::vector<float> chunks;
    for (size_t start = 0; start < k; start += kSumChunk) {
      std::vector<float> squares(kSumChunk, 0.0f);
      for (size_t i = start; i < std::min(k, start + kSumChunk); ++i)
        squares[i - start] = x[i] * x[i];
      chunks.push_back(tree_sum(squares, 0, kSumChunk));
    }
    chunks.resize(std::bit_ceil(chunks.size()), 0.0f);
    for (size_t half = chunks.size() / 2; half >= 1; half /= 2) {
      for (size_t i = 0; i < half; ++i) chunks[i] += chunks[i + half];
    }
    EXPECT_EQ(sum_of_squares<float>(x), chunks[0]) << k;
  }
  EXPECT_EQ(sum_of_squares<float>(std::vector<float>{}), 0.0f);
}

TEST(Quantizer, UniformIsTheStatedFormula) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (const char* transform : {"", ".hadamard"}) {
      const std::string text = "int" + std::to_string(bits) + transform + ".trust";
      const Row<double> row = quantize(text.c_str(), gaussian_row<double>(256, 5, 2.5));
      double sum = 0;
      for (const double v : row.transformed) sum += v * v;
      const double rms = std::sqrt(sum / 256), alpha = optimal_gaussian_scale(bits);
      const double scale = alpha * rms + 1e-8, step = 2 * scale / ((1 << bits) - 1);
      EXPECT_NEAR(row.unit, step / 2, 1e-14);
      const CodeFormat format = code_format(spec_from_string(text));
      for (size_t i = 0; i < 256; ++i) {
        const double xh = row.transformed[i];
        const double q =
            std::nearbyint(std::clamp(xh, -scale, scale) / step + 0.5) * step - step / 2;
        EXPECT_NEAR(row.values[i], q, 1e-12) << text << " " << i;
        const int number = format.multiplier * row.codes[i] + format.offset;
        EXPECT_EQ(std::abs(number) % 2, 1);
        EXPECT_LE(std::abs(number), format.max_number);
        EXPECT_DOUBLE_EQ(row.values[i], row.unit * number);
        EXPECT_EQ(row.trusted(i), std::abs(q - xh) <= alpha / ((1 << bits) - 1) * rms);
      }
    }
  }
}

TEST(Quantizer, TernaryTablesAndFp4TakeTheNearestLevel) {
  for (const char* text : {"ternary.clip", "gauss1.clip", "gauss2.clip", "gauss3.clip",
                           "gauss4.clip", "gauss4_converged.clip", "fp4.clip"}) {
    const QuantSpec spec = spec_from_string(text);
    const Row<double> row = quantize(text, gaussian_row<double>(512, 9, 0.7));
    std::vector<double> levels = {-1, 0, 1};
    if (spec.grid != Grid::kTernary) {
      const LevelTable<double>& table = level_table<double>(spec);
      levels.assign(table.numbers.begin(), table.numbers.begin() + table.count);
    }
    const double rms = std::sqrt(sum_of_squares<double>(row.transformed) / 512) + 1e-8;
    const double top = spec.grid == Grid::kFp4       ? kFp4Scale * 6 * rms
                       : spec.grid == Grid::kTernary ? row.unit
                                                     : levels.back() * rms;
    for (size_t i = 0; i < 512; ++i) {
      double nearest = levels[0];
      for (const double level : levels) {
        if (std::abs(level * row.unit - row.transformed[i]) <
            std::abs(nearest * row.unit - row.transformed[i])) {
          nearest = level;
        }
      }
      EXPECT_NEAR(row.values[i], nearest * row.unit, 1e-12) << text;
      EXPECT_EQ(row.trusted(i), std::abs(row.transformed[i]) <= top) << text;
    }
    EXPECT_NEAR(levels.back() * row.unit, top, 1e-12) << text;
  }
}

TEST(Quantizer, TiesOfTablesGoToTheLowerLevelOthersToEven) {
  const RowConstants<float> in_steps = {1, 1, 1, 1};
  for (const char* text : {"fp4.trust", "gauss1.trust", "gauss4.trust", "gauss3_converged.trust"}) {
    const QuantSpec spec = spec_from_string(text);
    const LevelTable<float>& table = level_table<float>(spec);
    const RowDecision<float> decide(spec, in_steps);
    for (size_t i = 0; i + 1 < static_cast<size_t>(table.count); ++i) {
      const float tie = table.midpoints[i];
      EXPECT_EQ(decide(tie, true).value, table.numbers[i]) << text;
      EXPECT_EQ(decide(std::nextafter(tie, 99.0f), true).value, table.numbers[i + 1]) << text;
    }
  }
  const RowDecision<float> uniform(spec_from_string("int3.trust"), in_steps);
  // z + 1/2 halfway between n and n + 1: the even one; number 2n - 1.
  const std::vector<std::pair<float, int>> ties = {{-3, -5}, {-2, -5}, {-1, -1},
                                                   {0, -1},  {1, 3},   {2, 3}};
  for (const auto& [z, number] : ties) EXPECT_EQ(uniform(z, true).code, number) << z;
  const RowDecision<float> ternary(spec_from_string("ternary.trust"), in_steps);
  EXPECT_EQ(ternary(0.5f, true).code, 0);
  EXPECT_EQ(ternary(-0.5f, true).code, 0);
  EXPECT_EQ(ternary(0.50001f, true).code, 1);
}

// 1, 2 or more equal pairs: the earlier are kept.
TEST(Quantizer, KeptPairs) {
  const auto kept = [](std::vector<double> x) { return kept_pairs(x.data()); };
  EXPECT_EQ(kept({1, 0, 2, 0, 3, 0, 4, 0}), 0b1100u);
  EXPECT_EQ(kept({4, 0, 3, 0, 2, 0, 1, 0}), 0b0011u);
  EXPECT_EQ(kept({0, 0, 0, 0, 0, 0, 0, 0}), 0b0011u);
  EXPECT_EQ(kept({1, 0, 2, 0, 0, -1, 1, 0}), 0b0011u);
  EXPECT_EQ(kept({0, 0, 2, 2, 2, 2, -2, 2}), 0b0110u);
  EXPECT_EQ(kept({3, 3, 5, 0, 0, 0, 4.2, 0}), 0b0011u);  // 18, 25, 0, 17.64
}

TEST(Quantizer, SparseKeepsTwoPairsOfFour) {
  const std::vector<double> x = gaussian_row<double>(256, 21);
  const Row<double> sparse = quantize("int4_4of8.trust", x), dense = quantize("int4.trust", x);
  const Row<double> masked = quantize("masked_4of8", x);
  for (size_t g = 0; g < 256; g += 8) {
    int kept = 0;
    for (size_t i = g; i < g + 8; ++i) {
      kept += sparse.codes[i] != 0;
      EXPECT_EQ(sparse.codes[i] != 0, masked.trusted(i));
      EXPECT_EQ(masked.values[i], masked.trusted(i) ? x[i] : 0.0);
      EXPECT_EQ(sparse.values[i], sparse.codes[i] != 0 ? dense.values[i] : 0.0);
      // A dropped value is trusted if it was near 0.
      if (sparse.codes[i] == 0) {
        const double limit = row_constants(spec_from_string("int4.trust"),
                                           std::sqrt(sum_of_squares<double>(x) / 256))
                                 .trust_limit;
        EXPECT_EQ(sparse.trusted(i), std::abs(x[i]) <= limit);
      }
    }
    EXPECT_EQ(kept, 4);
  }
  EXPECT_EQ(masked.unit, 1.0);
  EXPECT_EQ(masked.codes[0], 77);
}

TEST(Quantizer, RowConstantsOfTheSparseFormWithTheTransform) {
  const double rms = 1e-8, alpha = optimal_gaussian_scale(4);
  const RowConstants<double> plain = row_constants(spec_from_string("int4_4of8.trust"), rms);
  const RowConstants<double> rotated =
      row_constants(spec_from_string("int4_4of8.hadamard.trust"), rms);
  EXPECT_NEAR(plain.unit, (alpha * rms + 1e-8) / 15, 1e-20);
  EXPECT_NEAR(rotated.unit, alpha * 2e-8 / 15, 1e-20);
  EXPECT_NEAR(plain.trust_limit, alpha / 15 * 1e-8, 1e-20);
  EXPECT_NEAR(rotated.trust_limit, alpha / 15 * 2e-8, 1e-20);
}

TEST(Quantizer, TrustAndClipFactorsScaleTheLimits) {
  const auto limits = [](const char* text) {
    return row_constants<double>(spec_from_string(text), 2.0);
  };
  for (const char* format : {"int4", "ternary", "gauss3", "fp4"}) {
    const std::string f = format;
    EXPECT_DOUBLE_EQ(limits((f + ".trust_s0.5").c_str()).trust_limit,
                     limits((f + ".trust").c_str()).trust_limit / 2);
    EXPECT_NEAR(limits((f + ".clip1.5").c_str()).clip_limit,
                limits((f + ".clip").c_str()).clip_limit * 1.5, 1e-12);
  }
  EXPECT_NEAR(limits("fp4.trust").trust_limit, 0.3185765743 * 2, 1e-8);
  EXPECT_NEAR(limits("fp4.trust_halfgap").trust_limit, 0.48707976 * 2, 1e-8);
  EXPECT_NEAR(limits("ternary.trust").trust_limit, optimal_gaussian_scale_ternary(), 1e-12);
}

TEST(Quantizer, ZerosAreHalfAStepBelow) {
  for (const char* text : {"int1.trust", "int4.trust", "int8.trust", "int4.hadamard.trust"}) {
    const Row<float> row = quantize(text, std::vector<float>(32, 0.0f));
    for (size_t i = 0; i < 32; ++i) {
      EXPECT_EQ(row.values[i], -row.unit) << text;
      EXPECT_FALSE(row.trusted(i)) << text;
    }
    EXPECT_GT(row.unit, 0.0f);
  }
}

TEST(Quantizer, NonFiniteRowsGiveNan) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const char* text : {"int4.trust", "int4.hadamard.trust", "fp4.ste", "gauss4.clip",
                           "ternary.trust", "int4_4of8.trust", "masked_4of8"}) {
    for (const float poison : {std::nanf(""), infinity, -infinity, 1e30f}) {
      std::vector<float> x = gaussian_row<float>(32, 1);
      x[17] = poison;
      EXPECT_TRUE(std::isnan(quantize(text, x).unit)) << text << " " << poison;
    }
  }
}

TEST(Quantizer, NonePassesThroughAndRotates) {
  std::vector<float> x = gaussian_row<float>(96, 4);
  x[5] = 1e30f;
  const Row<float> plain = quantize("none", x);
  EXPECT_EQ(plain.values, x);
  EXPECT_EQ(plain.unit, 1.0f);
  EXPECT_EQ(plain.mask, std::vector<uint8_t>(12, 0xff));
  const Row<float> rotated = quantize("none.hadamard", x);
  hadamard_transform<float>(x);
  EXPECT_EQ(rotated.values, x);
}

TEST(Quantizer, MaskBitsPastTheRowAreZeroAndOutputsMayBeTheInput) {
  std::vector<float> x = gaussian_row<float>(13, 8);
  const Row<float> row = quantize("int4.ste", x);
  EXPECT_EQ(row.mask, (std::vector<uint8_t>{0xff, 0x1f}));
  std::vector<float> y = x;
  quantize_row<float>(spec_from_string("int4.ste"), y, {.values = y});
  EXPECT_EQ(y, row.values);
}

TEST(Quantizer, RowSizes) {
  EXPECT_NO_THROW(check_row_size(spec_from_string("int4.trust"), 1));
  EXPECT_NO_THROW(check_row_size(spec_from_string("int4_4of8.hadamard.trust"), 16));
  EXPECT_QUEST_ERROR(check_row_size(spec_from_string("int4.trust"), 0), ErrorKind::kUsage,
                     "0 values");
  EXPECT_QUEST_ERROR(check_row_size(spec_from_string("int4.hadamard.trust"), 8), ErrorKind::kUsage,
                     "16");
  EXPECT_QUEST_ERROR(check_row_size(spec_from_string("masked_4of8"), 12), ErrorKind::kUsage, "8");
}

// <mask * g, H x> = <H (mask * g), x>: the backward pass is the transpose of the forward's linear
// part.
TEST(Quantizer, BackwardIsTheTransposeOfTransformAndMask) {
  for (const char* text : {"int2.hadamard.trust", "int2.trust", "none.hadamard"}) {
    const QuantSpec spec = spec_from_string(text);
    const std::vector<double> x = gaussian_row<double>(96, 1), g = gaussian_row<double>(96, 2);
    const Row<double> row = quantize(text, x);
    std::vector<double> grad_x(96);
    quantize_row_backward<double>(spec, row.mask, g, grad_x);
    double left = 0, right = 0;
    for (size_t i = 0; i < 96; ++i) {
      left += row.trusted(i) ? g[i] * row.transformed[i] : 0;
      right += grad_x[i] * x[i];
    }
    EXPECT_NEAR(left, right, 1e-12) << text;
    std::vector<double> all(96), wanted = g;
    quantize_row_backward<double>(spec, {}, g, all);
    if (spec.hadamard) hadamard_transform<double>(wanted);
    EXPECT_EQ(all, wanted) << text;
  }
}

}  // namespace
}  // namespace quest
