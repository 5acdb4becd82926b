#include "quest/quant/quant_spec.h"

#include <cmath>
#include <limits>
#include <set>

#include <gtest/gtest.h>

#include "quest/base/testing.h"

namespace quest {
namespace {

QuantSpec spec(Grid grid, int bits, bool hadamard, GradientEstimator estimator, float trust = 1,
               float clip = 1) {
  return {grid, bits, hadamard, estimator, trust, clip};
}
constexpr auto kTrust = GradientEstimator::kTrust;
constexpr auto kClip = GradientEstimator::kClip;
constexpr auto kSte = GradientEstimator::kSte;
constexpr auto kHalfGap = GradientEstimator::kTrustHalfGap;

TEST(QuantSpec, TextsNameTheFields) {
  EXPECT_EQ(spec_from_string("int4.hadamard.trust"), spec(Grid::kUniform, 4, true, kTrust));
  EXPECT_EQ(spec_from_string("int4.hadamard.trust_s0.5"),
            spec(Grid::kUniform, 4, true, kTrust, 0.5f));
  EXPECT_EQ(spec_from_string("int1.hadamard.clip1.3"),
            spec(Grid::kUniform, 1, true, kClip, 1, 1.3f));
  EXPECT_EQ(spec_from_string("int1.clip1.25"), spec(Grid::kUniform, 1, false, kClip, 1, 1.25f));
  EXPECT_EQ(spec_from_string("int8.ste"), spec(Grid::kUniform, 8, false, kSte));
  EXPECT_EQ(spec_from_string("gauss3.trust"), spec(Grid::kGaussian, 3, false, kTrust));
  EXPECT_EQ(spec_from_string("gauss3_converged.trust"),
            spec(Grid::kGaussianConverged, 3, false, kTrust));
  EXPECT_EQ(spec_from_string("fp4.hadamard.trust_halfgap_s2"),
            spec(Grid::kFp4, 4, true, kHalfGap, 2));
  EXPECT_EQ(spec_from_string("ternary.hadamard.clip"), spec(Grid::kTernary, 2, true, kClip));
  EXPECT_EQ(spec_from_string("int4_4of8.trust"), spec(Grid::kUniform4of8, 4, false, kTrust));
  EXPECT_EQ(spec_from_string("int4_sparse_4_8.trust"), spec_from_string("int4_4of8.trust"));
  EXPECT_EQ(spec_from_string("masked_4of8"), spec(Grid::kMask4of8, 4, false, kTrust));
  EXPECT_EQ(spec_from_string("none"), QuantSpec{});
  EXPECT_EQ(spec_from_string("none.hadamard"), spec(Grid::kNone, 16, true, kTrust));
}

// Every combination that validate() lets through comes back from its text, and no two share one.
TEST(QuantSpec, EveryValidSpecHasItsOwnText) {
  std::set<std::string> texts;
  int valid = 0;
  for (int grid = 0; grid <= static_cast<int>(Grid::kMask4of8); ++grid) {
    for (int bits = 0; bits <= 17; ++bits) {
      for (const bool hadamard : {false, true}) {
        for (const GradientEstimator estimator : {kTrust, kHalfGap, kClip, kSte}) {
          for (const float trust : {1.0f, 0.1f, 3.0f, 1e-6f}) {
            for (const float clip : {1.0f, 1.3f, 1.0f / 3.0f, 2e8f}) {
              const QuantSpec s =
                  spec(static_cast<Grid>(grid), bits, hadamard, estimator, trust, clip);
              try {
                validate(s);
              } catch (const Error&) {
                continue;
              }
              ++valid;
              const std::string text = to_string(s);
              EXPECT_EQ(spec_from_string(text), s) << text;
              EXPECT_TRUE(texts.insert(text).second) << text;
            }
          }
        }
      }
    }
  }
  // With and without transform: none and mask once; 19 grids and widths with 4 + 4 + 1 estimators,
  // FP4 with 4 more.
  EXPECT_EQ(valid, 2 * (2 + 19 * 9 + 4));
}

TEST(QuantSpec, TextsThatAreNoSpec) {
  for (const char* text : {"",
                           ".",
                           "int",
                           "int0.trust",
                           "int9.trust",
                           "int16.trust",
                           "int44.trust",
                           "INT4.trust",
                           "gauss5.trust",
                           "gauss.trust",
                           "gauss0_converged.trust",
                           "fp8.trust",
                           "fp4",
                           "int4",
                           "int4.",
                           "int4.hadamard",
                           "int4.hadamard.",
                           "int4.trust.hadamard",
                           "int4.trusty",
                           "int4.trust_s",
                           "int4.trust_s0",
                           "int4.trust_s-1",
                           "int4.trust_sinf",
                           "int4.trust_snan",
                           "int4.trust0.5",
                           "int4.clip0",
                           "int4.clip-1",
                           "int4.clip1.3x",
                           "int4.clip 1",
                           "int4.clip+1",
                           "int4.ste2",
                           "int4.trust_halfgap",
                           "int4..trust",
                           "none.trust",
                           "none.hadamard.trust",
                           "masked_4of8.ste",
                           "int4_4of8",
                           "int4_converged.trust",
                           "int2.lsq",
                           " int4.trust",
                           "int4.trust ",
                           "hadamard",
                           "int4.hadamardx.trust",
                           "int4.clip1e99"}) {
    EXPECT_QUEST_ERROR(spec_from_string(text), ErrorKind::kUsage, "");
  }
  EXPECT_QUEST_ERROR(spec_from_string("int9.trust"), ErrorKind::kUsage, "int1..int8");
  EXPECT_QUEST_ERROR(spec_from_string("int4"), ErrorKind::kUsage, "estimator is missing");
}

TEST(QuantSpec, ValidateNamesTheValue) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_QUEST_ERROR(validate(spec(Grid::kUniform, 9, false, kTrust)), ErrorKind::kUsage,
                     "bits is 9");
  EXPECT_QUEST_ERROR(validate(spec(Grid::kUniform, 0, false, kTrust)), ErrorKind::kUsage, "1 to 8");
  EXPECT_QUEST_ERROR(validate(spec(Grid::kGaussian, 5, false, kTrust)), ErrorKind::kUsage,
                     "1 to 4");
  EXPECT_QUEST_ERROR(validate(spec(Grid::kFp4, 8, false, kTrust)), ErrorKind::kUsage,
                     "always has 4");
  EXPECT_QUEST_ERROR(validate(spec(Grid::kUniform, 4, false, kHalfGap)), ErrorKind::kUsage,
                     "fp4 only");
  EXPECT_QUEST_ERROR(validate(spec(Grid::kUniform, 4, false, kTrust, nan)), ErrorKind::kUsage,
                     "trust_scale");
  EXPECT_QUEST_ERROR(validate(spec(Grid::kUniform, 4, false, kClip, 1, -1)), ErrorKind::kUsage,
                     "clip_scale");
  EXPECT_QUEST_ERROR(validate(spec(Grid::kUniform, 4, false, kTrust, 1, 2)), ErrorKind::kUsage,
                     "no effect");
  EXPECT_QUEST_ERROR(validate(spec(Grid::kUniform, 4, false, kSte, 2)), ErrorKind::kUsage,
                     "no effect");
  EXPECT_QUEST_ERROR(validate(spec(Grid::kNone, 16, false, kSte)), ErrorKind::kUsage, "no effect");
  EXPECT_QUEST_ERROR(validate(spec(static_cast<Grid>(99), 4, false, kSte)), ErrorKind::kUsage,
                     "99");
  EXPECT_QUEST_ERROR(validate(spec(Grid::kUniform, 4, false, static_cast<GradientEstimator>(7))),
                     ErrorKind::kUsage, "7");
}

TEST(QuantSpec, NamesOfTheSettingsComeBack) {
  for (int grid = 0; grid <= static_cast<int>(Grid::kMask4of8); ++grid) {
    const std::string_view name = grid_name(static_cast<Grid>(grid));
    EXPECT_EQ(grid_from_name(name), static_cast<Grid>(grid));
    EXPECT_NE(grid_names().find(name), std::string::npos);
  }
  for (const GradientEstimator estimator : {kTrust, kHalfGap, kClip, kSte}) {
    EXPECT_EQ(estimator_from_name(estimator_name(estimator)), estimator);
    EXPECT_NE(estimator_names().find(estimator_name(estimator)), std::string::npos);
  }
  EXPECT_QUEST_ERROR(grid_from_name("int4"), ErrorKind::kUsage, "uniform_4of8");
  EXPECT_QUEST_ERROR(estimator_from_name("lsq"), ErrorKind::kUsage, "trust_halfgap");
  EXPECT_EQ(fixed_bits(Grid::kFp4), 4);
  EXPECT_EQ(fixed_bits(Grid::kNone), 16);
  EXPECT_EQ(fixed_bits(Grid::kUniform), std::nullopt);
}

TEST(QuantSpec, StorageBits) {
  EXPECT_DOUBLE_EQ(storage_bits(spec_from_string("int3.trust")), 3);
  EXPECT_NEAR(storage_bits(spec_from_string("ternary.trust")), 1.585, 1e-3);
  EXPECT_DOUBLE_EQ(storage_bits(spec_from_string("int4_4of8.trust")), 2.5);
  EXPECT_DOUBLE_EQ(storage_bits(spec_from_string("masked_4of8")), 8.5);
  EXPECT_DOUBLE_EQ(storage_bits(QuantSpec{}), 16);
}

void expect_recipe(const char* name, const char* weight, const char* activation) {
  const QuantRecipe recipe = recipe_from_name(name);
  EXPECT_EQ(recipe.name, name);
  EXPECT_EQ(to_string(recipe.weight), weight) << name;
  EXPECT_EQ(to_string(recipe.activation), activation) << name;
}

TEST(QuantRecipe, NamedRecipes) {
  expect_recipe("bf16", "none", "none");
  expect_recipe("none", "none", "none");
  expect_recipe("w16a16", "none", "none");
  expect_recipe("w4a4", "int4.hadamard.trust", "int4.hadamard.trust");
  expect_recipe("w8a8", "int8.hadamard.trust", "int8.hadamard.trust");
  expect_recipe("w1a1", "int1.hadamard.clip1.3", "int1.hadamard.clip1.3");
  expect_recipe("w1a8", "int1.hadamard.clip1.3", "int8.hadamard.trust");
  expect_recipe("w4a16", "int4.hadamard.trust", "none.hadamard");
  expect_recipe("w1a16", "int1.hadamard.clip1.3", "none.hadamard");
  expect_recipe("w16a4", "none.hadamard", "int4.hadamard.trust");
  expect_recipe("ternary", "ternary.hadamard.trust", "ternary.hadamard.trust");
  expect_recipe("fp4", "fp4.hadamard.trust", "fp4.hadamard.trust");
  expect_recipe("int4_4of8", "int4_4of8.hadamard.trust", "int4.hadamard.trust");
  expect_recipe("int4_sparse_4_8", "int4_4of8.hadamard.trust", "int4.hadamard.trust");
  expect_recipe("gauss3", "gauss3.hadamard.trust", "gauss3.hadamard.trust");
  expect_recipe("gauss1", "gauss1.hadamard.clip1.3", "gauss1.hadamard.clip1.3");
  expect_recipe("gauss4_converged", "gauss4_converged.hadamard.trust",
                "gauss4_converged.hadamard.trust");
}

TEST(QuantRecipe, Variants) {
  expect_recipe("w4a4_nohadamard", "int4.trust", "int4.trust");
  expect_recipe("w1a1_nohadamard", "int1.clip1.25", "int1.clip1.25");
  expect_recipe("w4a16_nohadamard", "int4.trust", "none");
  expect_recipe("w4a4_ste", "int4.hadamard.ste", "int4.hadamard.ste");
  expect_recipe("w4a4_nohadamard_ste", "int4.ste", "int4.ste");
  expect_recipe("w4a16_ste", "int4.hadamard.ste", "none.hadamard");
  expect_recipe("w4a4_clip", "int4.hadamard.clip", "int4.hadamard.clip");
  expect_recipe("w1a4_clip", "int1.hadamard.clip1.3", "int4.hadamard.clip");
  expect_recipe("w1a1_trust", "int1.hadamard.trust", "int1.hadamard.trust");
  expect_recipe("fp4_halfgap", "fp4.hadamard.trust_halfgap", "fp4.hadamard.trust_halfgap");
  expect_recipe("int4_4of8_nohadamard_clip", "int4_4of8.clip", "int4.clip");
  expect_recipe("gauss2_converged_nohadamard", "gauss2_converged.trust", "gauss2_converged.trust");
}

TEST(QuantRecipe, UnknownNamesListWhatExists) {
  for (const char* name : {"",
                           "w0a4",
                           "w9a4",
                           "w4",
                           "a4",
                           "w4a",
                           "w4a4a4",
                           "w44a4",
                           "w4a17",
                           "wxa4",
                           "W4A4",
                           "int4",
                           "w4a4_",
                           "w4a4_foo",
                           "_ste",
                           "w4a4_ste_nohadamard",
                           "w4a4_halfgap",
                           "bf16_ste",
                           "none_nohadamard",
                           "gauss5",
                           "gauss",
                           "gauss2_conv",
                           "w4a4_converged",
                           "w4a4 "}) {
    EXPECT_QUEST_ERROR(recipe_from_name(name), ErrorKind::kUsage, "w<b>a16");
  }
}

TEST(QuantRecipe, RefusesOneRotatedSide) {
  QuantRecipe recipe = recipe_from_name("w4a16");
  recipe.activation.hadamard = false;
  EXPECT_QUEST_ERROR(validate(recipe), ErrorKind::kUsage, "rotate both");
  recipe = recipe_from_name("w4a4");
  recipe.weight.bits = 12;
  EXPECT_QUEST_ERROR(validate(recipe), ErrorKind::kUsage, "weight side of recipe w4a4: bits is 12");
}

}  // namespace
}  // namespace quest
