#include "quest/quant/grid_statistics.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/base/philox.h"
#include "quest/base/testing.h"
#include "quest/quant/quantizer.h"

namespace quest {
namespace {

constexpr size_t kWidth = 8192;  // of a row: its RMS is 1 within 1 %
constexpr int kRows = 24;

// Of Gaussian rows, by the scalar definition.
double measured_masked_fraction(const QuantSpec& spec) {
  int64_t passes = 0;
  std::vector<float> x(kWidth);
  std::vector<uint8_t> mask(kWidth / 8);
  for (int row = 0; row < kRows; ++row) {
    const Philox random(7, static_cast<uint64_t>(row));
    for (size_t k = 0; k < kWidth; ++k) x[k] = static_cast<float>(random.normal(k));
    RowOutput<float> out;
    out.mask = mask;
    quantize_row<float>(spec, x, out);
    for (const uint8_t byte : mask) passes += std::popcount(byte);
  }
  return 1 - static_cast<double>(passes) / (static_cast<double>(kWidth) * kRows);
}

// Of a row whose values lie everywhere between -4.9 and 4.9 times its RMS.
std::vector<int> codes_of_a_wide_row(const QuantSpec& spec) {
  std::vector<float> x(kWidth);
  for (size_t k = 0; k < kWidth / 8; ++k) x[k] = static_cast<float>(k) / (kWidth / 16) - 1;
  std::vector<int8_t> codes(kWidth);
  RowOutput<float> out;
  out.codes = codes;
  quantize_row<float>(spec, x, out);
  const std::set<int> seen(codes.begin(), codes.end());
  return {seen.begin(), seen.end()};
}

TEST(GridStatistics, MaskedFractionIsThatOfGaussianRows) {
  for (const char* text : {"int1.trust",
                           "int1.clip1.3",
                           "int2.trust",
                           "int3.trust_s0.5",
                           "int4.trust",
                           "int4.trust_s1.5",
                           "int4.hadamard.trust",
                           "int4.clip",
                           "int8.trust",
                           "ternary.trust",
                           "ternary.clip",
                           "gauss2.trust",
                           "gauss4.trust",
                           "gauss4_converged.trust",
                           "gauss3.clip",
                           "fp4.trust",
                           "fp4.hadamard.trust_halfgap",
                           "fp4.clip",
                           "int4_4of8.trust",
                           "int4_4of8.hadamard.trust",
                           "int4_4of8.trust_s4",
                           "int4_4of8.clip",
                           "masked_4of8"}) {
    const QuantSpec spec = spec_from_string(text);
    const double expected = gaussian_masked_fraction(spec).value();
    const double values = static_cast<double>(kWidth) * kRows;
    // Five standard deviations of a count, and what the row's own RMS is worth.
    const double bound = 5 * std::sqrt(expected * (1 - expected) / values) + 2.0 / kWidth;
    EXPECT_NEAR(measured_masked_fraction(spec), expected, bound) << text;
  }
}

TEST(GridStatistics, MaskedFractionOfKnownCases) {
  const auto fraction = [](const char* text) {
    return gaussian_masked_fraction(spec_from_string(text));
  };
  // Beyond the outermost level and half a step: |x| > alpha + alpha / (2^b - 1).
  const double alpha = 2.513930578568423;
  EXPECT_NEAR(*fraction("int4.trust"), std::erfc(alpha * 16 / 15 / std::sqrt(2.0)), 1e-7);
  EXPECT_NEAR(*fraction("int8.trust"), 9.6e-5, 0.1e-5);  // Figure 8 hovers around 1e-4
  EXPECT_EQ(fraction("int4.ste"), std::nullopt);
  EXPECT_EQ(fraction("none"), std::nullopt);
  EXPECT_EQ(fraction("none.hadamard"), std::nullopt);
  EXPECT_EQ(fraction("masked_4of8"), 0.5);
}

TEST(GridStatistics, CodesAreThoseThatRowsGiveInOrder) {
  for (const char* text :
       {"int1.ste", "int2.ste", "int4.ste", "int7.ste", "int8.ste", "ternary.ste", "gauss1.ste",
        "gauss4.ste", "gauss3_converged.ste", "fp4.ste", "int4_4of8.ste"}) {
    const QuantSpec spec = spec_from_string(text);
    const std::vector<int> codes = codes_in_order(spec);
    const std::vector<double> numbers = numbers_in_order(spec);
    EXPECT_EQ(numbers.size(), codes.size()) << text;
    EXPECT_TRUE(std::is_sorted(codes.begin(), codes.end())) << text;
    EXPECT_TRUE(std::is_sorted(numbers.begin(), numbers.end())) << text;
    EXPECT_EQ(numbers.front(), -numbers.back()) << text;
    EXPECT_EQ(codes_of_a_wide_row(spec), codes) << text;
  }
}

TEST(GridStatistics, GridsWithoutCodesAreRefused) {
  EXPECT_QUEST_ERROR(codes_in_order(spec_from_string("none")), ErrorKind::kUsage, "no codes");
  EXPECT_QUEST_ERROR(codes_in_order(spec_from_string("masked_4of8")), ErrorKind::kUsage,
                     "no codes");
}

}  // namespace
}  // namespace quest
