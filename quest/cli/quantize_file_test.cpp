#include "quest/cli/quantize_file.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/philox.h"
#include "quest/base/safetensors.h"
#include "quest/base/testing.h"
#include "quest/quant/hadamard.h"
#include "quest/quant/quantizer.h"

namespace quest::cli {
namespace {

std::vector<float> gaussian(size_t n, uint64_t seed) {
  const Philox random(seed);
  std::vector<float> x(n);
  for (size_t i = 0; i < n; ++i) x[i] = static_cast<float>(random.normal(i));
  return x;
}

// A file with one 2-D tensor per floating type, a row, an integer tensor and a gradient.
class QuantizeFile : public ::testing::Test {
 protected:
  QuantizeFile() {
    SafetensorsWriter writer(input());
    for (const float v : w_) {
      w_bf16_.emplace_back(v);
      w_f64_.push_back(v);
    }
    writer.add("layer.w", {24, 256}, std::span<const float>(w_));
    writer.add("layer.bf16", {24, 256}, std::span<const bfloat16>(w_bf16_));
    writer.add("layer.f64", {24, 256}, std::span<const double>(w_f64_));
    writer.add("row", {256}, std::span<const float>(w_).first(256));
    writer.add("zeros", {2, 64}, std::span<const float>(zeros_));
    writer.add("ids", {4}, std::span<const int32_t>(ids_));
    writer.add("short", {3, 40}, std::span<const float>(w_).first(120));
    writer.add("nothing", {0, 16}, std::span<const float>());
    writer.add("poison", {3, 16}, std::span<const float>(poison_));
    writer.add("g", {24, 256}, std::span<const float>(g_));
    writer.finish();
  }

  std::filesystem::path input() const { return folder_ / "in.safetensors"; }
  std::filesystem::path output() const { return folder_ / "out.safetensors"; }
  std::vector<QuantizeReport> run(const char* spec, const char* pattern,
                                  const char* gradient = "") const {
    return quantize_file({input(), output(), spec_from_string(spec), pattern, gradient});
  }

  testing::TemporaryFolder folder_;
  std::vector<float> w_ = gaussian(24 * 256, 1), g_ = gaussian(24 * 256, 2),
                     zeros_ = std::vector<float>(128);
  std::vector<float> poison_ = [] {
    std::vector<float> x(48, 1.0f);
    x[20] = std::nanf("");
    return x;
  }();
  std::vector<bfloat16> w_bf16_;
  std::vector<double> w_f64_;
  std::vector<int32_t> ids_ = {1, 2, 3, 4};
};

TEST_F(QuantizeFile, WritesWhatTheDefinitionSays) {
  for (const char* text : {"int4.hadamard.trust", "int8.trust", "fp4.hadamard.clip", "gauss2.trust",
                           "masked_4of8", "none.hadamard"}) {
    SCOPED_TRACE(text);
    const QuantSpec spec = spec_from_string(text);
    run(text, "layer.*", "g");
    const SafetensorsReader out(output());
    EXPECT_EQ(out.metadata().at("quantizer"), text);
    for (size_t r = 0; r < 24; ++r) {
      std::vector<float> values(256), grad(g_.begin() + static_cast<std::ptrdiff_t>(r * 256),
                                           g_.begin() + static_cast<std::ptrdiff_t>(r * 256 + 256));
      std::vector<int8_t> codes(256);
      std::vector<uint8_t> mask(32);
      const std::span<const float> x(&w_[r * 256], 256);
      const float unit =
          quantize_row<float>(spec, x, {.codes = codes, .mask = mask, .values = values});
      std::vector<float> rotated = values;
      if (spec.hadamard) {
        hadamard_transform<float>(values);
        hadamard_transform<float>(grad);
      }
      quantize_row_backward<float>(spec, mask, grad, grad);
      EXPECT_EQ(out.tensor("layer.w.scales").to_float()[r], unit);
      const auto values_out = out.tensor("layer.w.values").to_float();
      const auto grad_out = out.tensor("layer.w.grad").to_float();
      const auto mask_out = out.tensor("layer.w.mask").to_float();
      for (size_t i = 0; i < 256; ++i) {
        ASSERT_EQ(values_out[r * 256 + i], values[i]);
        ASSERT_EQ(grad_out[r * 256 + i], grad[i]);
        ASSERT_EQ(mask_out[r * 32 + i / 8], mask[i / 8]);
        if (spec.hadamard) {
          ASSERT_EQ(out.tensor("layer.w.values_rotated").as<float>()[r * 256 + i], rotated[i]);
        }
        if (spec.grid != Grid::kNone && spec.grid != Grid::kMask4of8) {
          ASSERT_EQ(out.tensor("layer.w.codes").as<int8_t>()[r * 256 + i], codes[i]);
        }
      }
    }
    EXPECT_EQ(out.contains("layer.w.values_rotated"), spec.hadamard);
    EXPECT_EQ(out.contains("layer.w.codes"),
              std::string(text) != "masked_4of8" && std::string(text) != "none.hadamard");
    // The same numbers in FP64 give the same result; in BF16 another, of the same shape.
    EXPECT_EQ(out.tensor("layer.f64.values").to_float(), out.tensor("layer.w.values").to_float());
    EXPECT_EQ(out.tensor("layer.bf16.values").shape, (std::vector<int64_t>{24, 256}));
    EXPECT_EQ(out.tensor("layer.w.mask").shape, (std::vector<int64_t>{24, 32}));
  }
}

TEST_F(QuantizeFile, ReportsTheErrorOfAGaussian) {
  const std::vector<QuantizeReport> reports = run("int4.hadamard.trust", "layer.w");
  ASSERT_EQ(reports.size(), 1u);
  EXPECT_EQ(reports[0].rows, 24);
  EXPECT_EQ(reports[0].k, 256);
  EXPECT_NEAR(reports[0].relative_error, 0.0115, 0.001);
  EXPECT_NEAR(reports[0].signal_to_noise_db(), 19.4, 0.4);
  EXPECT_GT(reports[0].masked_fraction, 0);
  EXPECT_LT(reports[0].masked_fraction, 0.03);
  ASSERT_EQ(reports[0].histogram.size(), 16u);
  EXPECT_EQ(reports[0].histogram.front().first, -15);
  int64_t total = 0;
  for (const auto& [number, count] : reports[0].histogram) total += count;
  EXPECT_EQ(total, 24 * 256);
  const std::string text = format_quantize_report(reports);
  EXPECT_NE(text.find("layer.w"), std::string::npos);
  EXPECT_NE(text.find(" -15:"), std::string::npos) << text;
  EXPECT_NE(format_quantize_report(run("int8.trust", "layer.w")).find(".."), std::string::npos);
}

TEST_F(QuantizeFile, HistogramsHoldEveryCode) {
  const std::vector<std::pair<const char*, size_t>> sizes = {
      {"int1.trust", 2}, {"int4.trust", 16},  {"int8.trust", 256},     {"ternary.trust", 3},
      {"fp4.trust", 15}, {"gauss3.trust", 8}, {"int4_4of8.trust", 17}, {"masked_4of8", 0}};
  for (const auto& [spec, size] : sizes) {
    const auto histogram = run(spec, "row").at(0).histogram;
    EXPECT_EQ(histogram.size(), size) << spec;
    EXPECT_TRUE(std::is_sorted(histogram.begin(), histogram.end())) << spec;
  }
}

TEST_F(QuantizeFile, RowsAndZeros) {
  EXPECT_EQ(run("int4.trust", "row").at(0).rows, 1);
  const std::vector<QuantizeReport> zeros = run("int4.trust", "zeros");
  EXPECT_TRUE(std::isnan(zeros[0].relative_error));
  EXPECT_EQ(zeros[0].masked_fraction, 1.0);
  EXPECT_NE(format_quantize_report(zeros).find(" - "), std::string::npos);
}

TEST_F(QuantizeFile, BadInputIsNamed) {
  EXPECT_QUEST_ERROR(run("int4.trust", "nope*"), ErrorKind::kUsage, "layer.w");
  EXPECT_QUEST_ERROR(run("int4.trust", "ids"), ErrorKind::kData, "ids is I32");
  EXPECT_QUEST_ERROR(run("int4.trust", "nothing"), ErrorKind::kData, "nothing");
  EXPECT_QUEST_ERROR(run("int4.hadamard.trust", "short"), ErrorKind::kUsage, "short");
  EXPECT_QUEST_ERROR(run("lsq4", "row"), ErrorKind::kUsage, "lsq4 is no grid");
  EXPECT_QUEST_ERROR(run("int4.trust", "row", "g"), ErrorKind::kUsage, "(24,256)");
  EXPECT_QUEST_ERROR(run("int4.trust", "row", "missing"), ErrorKind::kData, "missing");
  EXPECT_QUEST_ERROR(run("int4.trust", "row", "ids"), ErrorKind::kData, "ids is I32");
  for (const char* spec : {"int4.trust", "none", "masked_4of8"}) {
    EXPECT_QUEST_ERROR(run(spec, "poison"), ErrorKind::kNumeric, "poison row 1");
  }
  EXPECT_FALSE(std::filesystem::exists(output()));
}

TEST_F(QuantizeFile, TheInputIsNotOverwritten) {
  run("int4.trust", "row");
  QuantizeFileOptions options;
  options.input = output();
  options.output = output().parent_path() / "." / output().filename();
  options.spec = spec_from_string("int4.trust");
  options.pattern = "row.values";
  EXPECT_QUEST_ERROR(quantize_file(options), ErrorKind::kUsage, "input file itself");
  EXPECT_TRUE(SafetensorsReader(output()).contains("row.codes"));
}

TEST(SpecOfArgument, RecipesSidesAndSpecs) {
  EXPECT_EQ(to_string(spec_of_argument("w4a8", false)), "int4.hadamard.trust");
  EXPECT_EQ(to_string(spec_of_argument("w4a8", true)), "int8.hadamard.trust");
  EXPECT_EQ(to_string(spec_of_argument("fp4", false)), "fp4.hadamard.trust");
  EXPECT_EQ(to_string(spec_of_argument("int3.clip1.5", true)), "int3.clip1.5");
  EXPECT_EQ(to_string(spec_of_argument("masked_4of8", false)), "masked_4of8");
  EXPECT_QUEST_ERROR(spec_of_argument("w9a9", false), ErrorKind::kUsage, "w<b>a16");
  EXPECT_QUEST_ERROR(spec_of_argument("w9a9", false), ErrorKind::kUsage, "int1..int8");
  EXPECT_QUEST_ERROR(spec_of_argument("int9.trust", false), ErrorKind::kUsage, "int1..int8");
}

}  // namespace
}  // namespace quest::cli
