#include "quest/train/side_statistics.h"

#include <cmath>
#include <limits>
#include <map>

#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quest/base/six_digits.h"
#include "quest/ops/tensor_quantizer.h"
#include "quest/ops/testing_tensors.h"
#include "quest/quant/grid_statistics.h"
#include "quest/quant/hadamard.h"
#include "quest/quant/quantizer.h"

namespace quest::train {
namespace {

using ::testing::ElementsAre;

std::vector<std::string> keys(const nlohmann::ordered_json& object) {
  std::vector<std::string> out;
  for (const auto& [key, value] : object.items()) out.push_back(key);
  return out;
}

double kurtosis(std::span<const float> x) {
  double m2 = 0, m4 = 0;
  for (const double v : x) {
    m2 += v * v;
    m4 += v * v * v * v;
  }
  return m4 * static_cast<double>(x.size()) / (m2 * m2);
}

// The same numbers row by row, by the scalar definition.
struct Plain {
  int64_t masked = 0, values = 0;
  double error = 0, power = 0, kurtosis = 0, kurtosis_rotated = 0;
  std::map<int, int64_t> codes;
  std::vector<uint8_t> mask;
};

Plain by_definition(const QuantSpec& spec, const at::Tensor& x) {
  Plain out;
  const int64_t m = x.size(0);
  const auto k = static_cast<size_t>(x.size(1));
  std::vector<float> values(k), xh(k);
  std::vector<int8_t> codes(k);
  std::vector<uint8_t> mask((k + 7) / 8);
  for (int64_t row = 0; row < m; ++row) {
    const std::span<const float> in(x.const_data_ptr<float>() + row * x.size(1), k);
    quantize_row<float>(spec, in,
                        {.codes = codes, .mask = mask, .values = values, .transformed = xh});
    for (size_t i = 0; i < k; ++i) {
      out.masked += (mask[i / 8] >> (i % 8) & 1) == 0;
      out.error += std::pow(double{values[i]} - double{xh[i]}, 2);
      out.power += std::pow(double{xh[i]}, 2);
      ++out.codes[codes[i]];
    }
    out.values += x.size(1);
    out.mask.insert(out.mask.end(), mask.begin(), mask.end());
    std::vector<float> rotated(in.begin(), in.end());
    hadamard_transform<float>(rotated);
    out.kurtosis += kurtosis(in) / static_cast<double>(m);
    out.kurtosis_rotated += kurtosis(rotated) / static_cast<double>(m);
  }
  return out;
}

// Rows of very different sizes, with outliers.
at::Tensor rough_rows(int64_t m, int64_t k) {
  at::Tensor x = testing::normal({m, k}, 5, at::kFloat);
  x *= testing::normal({m, 1}, 6, at::kFloat).square() + 0.01;
  x.select(1, 3).mul_(20);
  return x;
}

TEST(SideStatistics, EqualsThePlainComputation) {
  const at::Tensor x = rough_rows(37, 80);  // blocks of 16, ten bytes of mask
  for (const char* text : {"int4.hadamard.trust", "int1.hadamard.clip1.3", "int8.trust",
                           "int2.clip", "ternary.hadamard.trust", "gauss3.trust",
                           "fp4.hadamard.trust", "int4_4of8.hadamard.trust"}) {
    SCOPED_TRACE(text);
    const QuantSpec spec = spec_from_string(text);
    const Plain plain = by_definition(spec, x);
    SideStatistics side(spec, "x");
    std::vector<uint8_t> mask;
    side.add(x.narrow(0, 0, 20).view({2, 10, 80}), &mask);
    side.add(x.narrow(0, 20, 17), &mask);
    const nlohmann::ordered_json json = side.json();
    EXPECT_THAT(keys(json), ElementsAre("masked", "masked_gaussian", "relative_error", "kurtosis",
                                        "kurtosis_rotated", "dead_codes", "code_use"));
    const double all = static_cast<double>(plain.values);
    EXPECT_EQ(json["masked"], six_digits(static_cast<double>(plain.masked) / all));
    EXPECT_EQ(json["masked_gaussian"], six_digits(*gaussian_masked_fraction(spec)));
    EXPECT_NEAR(json["relative_error"].get<double>(), plain.error / plain.power, 2e-6);
    EXPECT_NEAR(json["kurtosis"].get<double>(), plain.kurtosis, 1e-4);
    EXPECT_NEAR(json["kurtosis_rotated"].get<double>(), plain.kurtosis_rotated, 1e-4);
    EXPECT_EQ(mask, plain.mask);
    std::vector<double> use;
    int64_t dead = 0;
    for (const int code : codes_in_order(spec)) {
      const auto found = plain.codes.find(code);
      dead += found == plain.codes.end();
      use.push_back(
          found == plain.codes.end() ? 0 : six_digits(static_cast<double>(found->second) / all));
    }
    EXPECT_EQ(json["code_use"].get<std::vector<double>>(), use);
    EXPECT_EQ(json["dead_codes"], dead);
  }
}

// More values than are taken at once.
TEST(SideStatistics, LargeTensorsGoInPieces) {
  const at::Tensor x = rough_rows(1100, 1024);
  const QuantSpec spec = spec_from_string("int3.hadamard.trust");
  const Plain plain = by_definition(spec, x);
  SideStatistics side(spec, "x");
  std::vector<uint8_t> mask;
  side.add(x, &mask);
  EXPECT_EQ(mask, plain.mask);
  EXPECT_NEAR(side.json()["relative_error"].get<double>(), plain.error / plain.power, 2e-6);
}

TEST(SideStatistics, WhatMakesNoSenseIsAbsent) {
  const at::Tensor x = rough_rows(4, 24);  // 24: 8 x 3, which has no transform
  const auto json_of = [&](const char* text) {
    SideStatistics side(spec_from_string(text), "x");
    std::vector<uint8_t> mask;
    side.add(x, &mask);
    EXPECT_EQ(mask.empty(), !side.json().contains("masked")) << text;
    return side.json();
  };
  EXPECT_THAT(keys(json_of("none")), ElementsAre("kurtosis"));
  EXPECT_THAT(keys(json_of("int4.ste")),
              ElementsAre("relative_error", "kurtosis", "dead_codes", "code_use"));
  const auto sparse = json_of("masked_4of8");
  EXPECT_THAT(keys(sparse), ElementsAre("masked", "masked_gaussian", "relative_error", "kurtosis"));
  EXPECT_EQ(sparse["masked"], 0.5);
  EXPECT_TRUE(SideStatistics(spec_from_string("int4.trust"), "x").json().empty());
}

// Of a registered quantizer the values are what it makes of the whole tensor.
TEST(SideStatistics, RegisteredQuantizersHaveAnErrorAMaskedShareAndNoCodes) {
  const at::Tensor x = rough_rows(1100, 1024);
  int calls = 0;
  SideStatistics side(spec_from_string("lsq4"), "x", [&](const at::Tensor& rows) {
    ++calls;
    EXPECT_EQ(rows.sizes(), x.sizes());
    return rows * 0.5;
  });
  std::vector<uint8_t> mask;
  side.add(x, &mask);
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(mask.empty());
  EXPECT_THAT(keys(side.json()),
              ElementsAre("masked", "relative_error", "kurtosis", "kurtosis_rotated"));
  EXPECT_EQ(side.json()["masked"], 0.0);
  EXPECT_EQ(side.json()["relative_error"], 0.25);
}

// Codes of a tensor worked out by hand: LSQ's two bits with a step of 2 have the levels -3 -1 1 3.
TEST(SideStatistics, CodesOfRegisteredQuantizersAreCounted) {
  const QuantSpec spec = spec_from_string("lsq2");
  ops::RegisteredSide lsq(spec, {.bits = 2, .n = 2, .k = 4, .master = at::kFloat}, "q");
  lsq.learned().front().value.detach().fill_(2);
  const auto values = [&](const at::Tensor& x) { return lsq.values(x, at::kFloat, false); };
  const auto codes = [&](const at::Tensor& x) { return lsq.codes(x); };
  const auto rows = [](std::vector<float> x) { return at::tensor(x).view({-1, 4}); };
  SideStatistics side(spec, "x", values, codes);
  side.add(rows({-9, -1.9, -0.1, 0.1, 1.9, -0.5, 0.5, -1.2}));  // -3 -1 -1 1 1 -1 1 -1
  EXPECT_EQ(side.json()["dead_codes"], 1);
  EXPECT_THAT(side.json()["code_use"].get<std::vector<double>>(),
              ElementsAre(0.125, 0.5, 0.375, 0));
  side.add(rows({2.1, 7, -2.1, 0.3, 0.3, 0.3, 0.3, 0.3}));  // 3 3 -3 1 1 1 1 1
  EXPECT_EQ(side.json()["dead_codes"], 0);
  EXPECT_THAT(side.json()["code_use"].get<std::vector<double>>(),
              ElementsAre(0.125, 0.25, 0.5, 0.125));
  const std::vector<Histogram> all = side.histograms();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[1].tag, "diagnostics.codes/x");
  EXPECT_THAT(all[1].limits, ElementsAre(-1, 0, 1, 1.5));  // levels in units of the step
  EXPECT_THAT(all[1].counts, ElementsAre(2, 4, 8, 2));

  // A quantizer that says no codes, and one whose codes are wrong.
  SideStatistics none(spec, "x", values, [](const at::Tensor&) { return ops::QuantizerCodes{}; });
  none.add(rows({1, 2, 3, 4}));
  EXPECT_FALSE(none.json().contains("code_use"));
  SideStatistics wrong(spec, "layer.weight", values, [](const at::Tensor& x) {
    return ops::QuantizerCodes{{-1, 1}, x.to(at::kLong)};
  });
  EXPECT_QUEST_ERROR(wrong.add(rows({0, 1, 1, 2})), ErrorKind::kNumeric,
                     "layer.weight: codes of lsq2 are 0 to 2 and it has 2 levels");
}

// In the basis that is rounded: what is clamped there passes no gradient.
TEST(SideStatistics, MaskedShareOfRegisteredQuantizers) {
  const at::Tensor x = testing::normal({16, 256}, 3, at::kFloat);
  for (const char* text : {"lsq4", "lsq4.hadamard"}) {
    const QuantSpec spec = spec_from_string(text);
    int64_t clamped = 0;
    SideStatistics side(spec, "x", [&](const at::Tensor& rows) {
      const at::Tensor xh = spec.hadamard ? ops::hadamard(rows) : rows;
      clamped = (xh.abs() > 1).sum().item<int64_t>();
      return xh.clamp(-1, 1);
    });
    side.add(x);
    EXPECT_GT(clamped, 1000) << text;
    EXPECT_EQ(side.json()["masked"], six_digits(static_cast<double>(clamped) / 4096)) << text;
    SideStatistics none(spec, "x", [](const at::Tensor& rows) { return rows.detach() * 2; });
    none.add(x);
    EXPECT_EQ(none.json()["masked"], 1.0);
  }
}

TEST(SideStatistics, RowsOfZerosHaveNoKurtosis) {
  const at::Tensor x = rough_rows(3, 32), zeros = at::zeros({5, 32});
  const QuantSpec spec = spec_from_string("int4.hadamard.trust");
  SideStatistics some(spec, "x"), none(spec, "x"), whole(spec, "x");
  whole.add(x);
  some.add(at::cat({zeros, x}));
  none.add(zeros);
  EXPECT_EQ(some.json()["kurtosis"], whole.json()["kurtosis"]);
  EXPECT_EQ(some.json()["kurtosis_rotated"], whole.json()["kurtosis_rotated"]);
  EXPECT_FALSE(none.json().contains("kurtosis"));
  EXPECT_FALSE(none.json().contains("relative_error"));
}

TEST(SideStatistics, TakesAnyFloatTypeAndNamesWhatIsNotFinite) {
  const QuantSpec spec = spec_from_string("int4.hadamard.trust");
  const at::Tensor x = rough_rows(6, 32).to(at::kBFloat16);
  SideStatistics half(spec, "x"), full(spec, "x"), wide(spec, "x"), bad(spec, "layer.weight");
  half.add(x);
  full.add(x.to(at::kFloat));
  wide.add(x.to(at::kDouble));
  EXPECT_EQ(half.json(), full.json());
  EXPECT_EQ(half.json(), wide.json());
  at::Tensor broken = rough_rows(6, 32);
  broken[4][7].fill_(std::numeric_limits<double>::quiet_NaN());
  EXPECT_QUEST_ERROR(bad.add(broken), ErrorKind::kNumeric, "layer.weight: the RMS of row 4");
}

TEST(SideStatistics, HistogramsCountEveryValueOnce) {
  const at::Tensor x = rough_rows(50, 64);
  SideStatistics side(spec_from_string("int2.hadamard.trust"), "a.weight");
  side.add(x);
  const std::vector<Histogram> all = side.histograms();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].tag, "diagnostics.values/a.weight");
  EXPECT_EQ(all[1].tag, "diagnostics.codes/a.weight");
  for (const Histogram& h : all) {
    ASSERT_EQ(h.counts.size(), h.limits.size());
    double sum = 0;
    for (const double count : h.counts) sum += count;
    EXPECT_EQ(sum, 3200);
    EXPECT_EQ(h.count, 3200);
    EXPECT_TRUE(std::is_sorted(h.limits.begin(), h.limits.end()));
  }
  EXPECT_NEAR(all[0].sum_squares, 3200, 1e-3);  // in units of the RMS
  EXPECT_THAT(all[1].limits, ElementsAre(-2, 0, 2, 3));
  // A bucket holds its limit: the median bucket below 0 and above it.
  SideStatistics two(spec_from_string("int1.ste"), "b");
  two.add(at::cat({at::zeros({1, 8}) - 2, at::zeros({1, 8}) + 5}));
  const Histogram ones = two.histograms()[0];
  for (size_t i = 0; i < ones.limits.size(); ++i) {
    const bool is_one = ones.limits[i] == -1 || ones.limits[i] == 1;
    EXPECT_EQ(ones.counts[i], is_one ? 8 : 0) << ones.limits[i];
  }
  EXPECT_EQ(ones.min, -1);
  EXPECT_EQ(ones.max, 1);
}

}  // namespace
}  // namespace quest::train
