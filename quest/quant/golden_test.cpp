#include "quest/quant/golden.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

#include <gtest/gtest.h>

#include "quest/base/philox.h"
#include "quest/base/safetensors.h"
#include "quest/base/testing.h"
#include "quest/quant/golden_tie.h"
#include "quest/quant/hadamard.h"

namespace quest {
namespace {

using Tensors = std::map<std::string, std::pair<std::vector<int64_t>, std::vector<float>>>;

// A golden folder of any size, made by the double-precision definition, that a test may then spoil.
class GoldenFolder {
 public:
  GoldenFolder(int64_t rows, int64_t k, uint64_t seed, const std::vector<std::string>& cases)
      : rows_(rows), k_(k) {
    const Philox random(seed);
    std::vector<float> x(static_cast<size_t>(rows * k)), grad(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = static_cast<float>(random.normal(i)) *
             (1.0f + static_cast<float>(i / static_cast<size_t>(k)));
      grad[i] = static_cast<float>(random.normal(i + x.size()));
    }
    put("x", x);
    put("grad_out", grad);
    for (const std::string& name : cases) add_case(name);
  }

  std::vector<float>& tensor(const std::string& name) { return tensors[name].second; }
  size_t at(int64_t row, int64_t i) const { return static_cast<size_t>(row * k_ + i); }

  std::vector<GoldenCase> run(std::span<const QuantizerImplementation> others = {}) const {
    SafetensorsWriter writer(folder_ / "quantizers.safetensors");
    for (const auto& [name, tensor] : tensors) {
      writer.add(name, tensor.first, std::span<const float>(tensor.second));
    }
    writer.finish();
    return run_quantizer_golden(folder_.path(), others);
  }
  GoldenCase run_one(std::span<const QuantizerImplementation> others = {}) const {
    const std::vector<GoldenCase> results = run(others);
    EXPECT_EQ(results.size(), 1u);
    return results.at(0);
  }

  Tensors tensors;
  const testing::TemporaryFolder& folder() const { return folder_; }

 private:
  void put(const std::string& name, std::vector<float> values) {
    tensors[name] = {{rows_, k_}, std::move(values)};
  }

  void add_case(const std::string& name) {
    const QuantSpec spec = spec_from_string(name);
    std::vector<float> all_y, all_grad;
    for (int64_t r = 0; r < rows_; ++r) {
      const size_t k = static_cast<size_t>(k_), start = at(r, 0);
      const auto row = [&](const char* from) {
        return std::vector<double>(tensor(from).begin() + static_cast<std::ptrdiff_t>(start),
                                   tensor(from).begin() + static_cast<std::ptrdiff_t>(start + k));
      };
      std::vector<double> y(k), grad = row("grad_out");
      std::vector<uint8_t> mask((k + 7) / 8);
      quantize_row<double>(spec, row("x"), {.mask = mask, .values = y});
      if (spec.hadamard) {
        hadamard_transform<double>(y);
        hadamard_transform<double>(grad);
      }
      quantize_row_backward<double>(spec, mask, grad, grad);
      all_y.insert(all_y.end(), y.begin(), y.end());
      all_grad.insert(all_grad.end(), grad.begin(), grad.end());
    }
    put(name + ".y", all_y);
    put(name + ".grad_x", all_grad);
  }

  int64_t rows_, k_;
  testing::TemporaryFolder folder_;
};

TEST(Golden, TheFolderOfThisProgramPasses) {
  int passed = 0, skipped = 0;
  for (const GoldenCase& result :
       run_quantizer_golden(std::string(QUEST_SOURCE_DIR) + "/tests/golden")) {
    EXPECT_NE(result.status, GoldenStatus::kFail) << result.name << ": " << result.note;
    EXPECT_LT(result.max_deviation, 1e-6) << result.name;
    EXPECT_EQ(result.ties, 0) << result.name;
    EXPECT_EQ(result.group, "quantizers");
    passed += result.status == GoldenStatus::kPass;
    skipped += result.status == GoldenStatus::kSkipped;
  }
  // 1 + 8 x 5 integer cases and their four special ones, FP4, Gaussian, sparse, levels, two trust
  // limits.
  EXPECT_EQ(passed, 74);
  EXPECT_EQ(skipped, 9);
}

TEST(Golden, OtherSizesSeedsAndCasesPass) {
  for (const int64_t k : {16, 96, 640}) {
    const GoldenFolder golden(
        5, k, static_cast<uint64_t>(k),
        {"int4.hadamard.trust", "int3.clip1.7", "ternary.hadamard.trust",
         "fp4.hadamard.trust_halfgap", "gauss2_converged.ste", "int4_4of8.hadamard.trust_s2",
         "masked_4of8.hadamard", "none.hadamard"});
    const std::vector<GoldenCase> results = golden.run();
    EXPECT_EQ(results.size(), 8u);
    for (const GoldenCase& result : results) {
      EXPECT_EQ(result.status, GoldenStatus::kPass) << result.name << ": " << result.note;
      EXPECT_EQ(result.values, 5 * k);
    }
  }
}

TEST(Golden, AWrongValueFails) {
  for (const char* name :
       {"int4.trust", "int4.hadamard.trust", "fp4.trust", "int4_4of8.hadamard.trust"}) {
    for (const char* part : {".y", ".grad_x"}) {
      GoldenFolder golden(3, 128, 11, {name});
      ASSERT_EQ(golden.run_one().status, GoldenStatus::kPass) << golden.run_one().note;
      std::vector<float>& values = golden.tensor(std::string(name) + part);
      float top = 0;
      for (int64_t i = 0; i < 128; ++i) top = std::max(top, std::abs(values[golden.at(1, i)]));
      values[golden.at(1, 50)] +=
          3e-4f * top;  // spread over 128 values by the rotation: 2.6e-5 each
      const GoldenCase result = golden.run_one();
      EXPECT_EQ(result.status, GoldenStatus::kFail) << name << part;
      EXPECT_NE(result.note.find("row 1"), std::string::npos) << result.note;
      EXPECT_NE(result.note.find(part + 1), std::string::npos) << result.note;
      EXPECT_GT(result.max_deviation, 1e-5);
      values[golden.at(1, 50)] = std::nanf("");
      EXPECT_EQ(golden.run_one().status, GoldenStatus::kFail) << name << part;
    }
  }
}

TEST(Golden, AMissingGradientWrongShapeOrUnknownNameFails) {
  GoldenFolder golden(2, 64, 1, {"int4.trust"});
  golden.tensors.erase("int4.trust.grad_x");
  EXPECT_NE(golden.run_one().note.find("grad_x is missing"), std::string::npos);
  GoldenFolder shape(2, 64, 1, {"int4.trust"});
  shape.tensors["int4.trust.y"].first = {64, 2};
  EXPECT_EQ(shape.run_one().status, GoldenStatus::kFail);
  for (const char* name : {"int9.trust.y", "int4.trust.z", "weird"}) {
    GoldenFolder unknown(2, 64, 1, {});
    unknown.tensors[name] = {{2, 64}, std::vector<float>(128)};
    EXPECT_EQ(unknown.run_one().status, GoldenStatus::kFail) << name;
  }
  GoldenFolder step(2, 64, 1, {});
  step.tensors["int2.lsq_plus_weight.alpha_weight"] = {{1}, {1.0f}};
  const GoldenCase skipped = step.run_one();
  EXPECT_EQ(skipped.status, GoldenStatus::kSkipped);
  EXPECT_EQ(skipped.name, "int2.lsq_plus_weight");
  GoldenFolder levels(2, 64, 1, {});
  levels.tensors["gauss2.levels"] = {{4}, {-1.5f, -0.45f, 0.45f, 1.5f}};
  EXPECT_EQ(levels.run_one().status, GoldenStatus::kFail);
}

TEST(Golden, BrokenInputsThrow) {
  const testing::TemporaryFolder empty;
  EXPECT_QUEST_ERROR(run_quantizer_golden(empty.path()), ErrorKind::kIo, "quantizers.safetensors");
  GoldenFolder no_x(2, 64, 1, {});
  no_x.tensors.erase("x");
  EXPECT_QUEST_ERROR(no_x.run(), ErrorKind::kData, "x");
  GoldenFolder shape(2, 64, 1, {});
  shape.tensors["grad_out"].first = {128};
  EXPECT_QUEST_ERROR(shape.run(), ErrorKind::kData, "another shape");
}

TEST(Golden, TrustLimitsOfGoldenJson) {
  GoldenFolder golden(2, 64, 1, {});
  golden.folder().write("golden.json",
                        R"({"fp4.trust.trust": 0.3185765743255615, "other": {"a": 1}})");
  EXPECT_EQ(golden.run_one().status, GoldenStatus::kPass);
  golden.folder().write("golden.json", R"({"fp4.trust.trust": 0.487})");
  EXPECT_EQ(golden.run_one().status, GoldenStatus::kFail);
}

// Gives the first rows a value on a decision of the 2-bit grid, and the golden value the other
// side.
void add_ties(GoldenFolder& golden, const std::string& name, int64_t tie_rows) {
  for (int64_t r = 0; r < tie_rows; ++r) {
    // 0 is a boundary: half to even gives -unit; a value moved up by any rounding gives +unit.
    golden.tensor("x")[golden.at(r, 7)] = 0.0f;
    const std::span<const float> x(&golden.tensor("x")[golden.at(r, 0)], 256);
    std::vector<float> y(256);
    quantize_row<float>(spec_from_string(name), x, {.values = y});
    y[7] = -y[7];
    std::copy(y.begin(), y.end(), &golden.tensor(name + ".y")[golden.at(r, 0)]);
  }
}

TEST(Golden, ATieIsCountedAndNotFailed) {
  GoldenFolder golden(8, 256, 3, {"int2.ste"});
  add_ties(golden, "int2.ste", 2);
  const GoldenCase result = golden.run_one();
  EXPECT_EQ(result.status, GoldenStatus::kPass) << result.note;
  EXPECT_EQ(result.ties, 2);
  EXPECT_LT(result.max_deviation, 1e-5);
}

TEST(Golden, TooManyTiesFail) {
  GoldenFolder golden(4, 256, 3, {"int2.ste"});
  add_ties(golden, "int2.ste", 1);
  EXPECT_EQ(golden.run_one().status, GoldenStatus::kPass);  // 1 of 1024
  add_ties(golden, "int2.ste", 2);
  const GoldenCase result = golden.run_one();
  EXPECT_EQ(result.status, GoldenStatus::kFail);
  EXPECT_EQ(result.ties, 2);
  EXPECT_NE(result.note.find("2 ties of 1024"), std::string::npos) << result.note;
}

TEST(Golden, TieRuleSeesCodesMasksAndPairs) {
  // Uniform, 2 bits: a value on the edge of the clip mask.
  const QuantSpec clip = spec_from_string("int2.clip");
  std::vector<float> x(64, 0.5f);
  x[1] = 0.1f;
  float limit = 0;
  for (int i = 0; i < 50; ++i) {  // the limit depends on the row: settle
    limit = row_constants<float>(clip, std::sqrt(sum_of_squares<float>(x) / 64)).clip_limit;
    x[0] = limit;
  }
  const TieRow tie(clip, x);
  EXPECT_TRUE(tie(0));
  EXPECT_FALSE(tie(1));
  x[0] = limit * (1 + 1e-5f);
  EXPECT_FALSE(TieRow(clip, x)(0));

  // Pairs: the second and third largest differ by less than a rounding.
  const QuantSpec sparse = spec_from_string("masked_4of8");
  std::vector<float> group = {9, 0, 5, 0, 5.000001f, 0, 1, 0};
  const TieRow pairs(sparse, group);
  EXPECT_FALSE(pairs(0));
  EXPECT_TRUE(pairs(2) && pairs(3) && pairs(4) && pairs(5));
  EXPECT_FALSE(pairs(6));
  group[4] = 5.01f;
  EXPECT_FALSE(TieRow(sparse, group)(2) || TieRow(sparse, group)(4));
}

TEST(Golden, ImplementationsMustEqualTheDefinition) {
  const GoldenFolder golden(2, 64, 1, {"int4.hadamard.trust"});
  using Spoil = std::function<void(QuantizerResult&)>;
  const auto run_spoiled = [&](const Spoil& spoil) {
    const QuantizerImplementation other{
        "other",
        [&](const QuantSpec& spec, std::span<const float> x, std::span<const float> grad,
            int64_t rows, int64_t k) -> std::optional<QuantizerResult> {
          QuantizerResult result = run_scalar_quantizer(spec, x, grad, rows, k);
          spoil(result);
          return result;
        }};
    return golden.run_one({&other, 1});
  };
  EXPECT_EQ(run_spoiled([](QuantizerResult&) {}).status, GoldenStatus::kPass);
  const std::map<std::string, Spoil> spoils = {
      {"codes", [](QuantizerResult& r) { r.codes[3] ^= 2; }},
      {"units", [](QuantizerResult& r) { r.units[1] = std::nextafter(r.units[1], 0.0f); }},
      {"masks", [](QuantizerResult& r) { r.mask[5] ^= 1; }},
      {"values", [](QuantizerResult& r) { r.y[5] = std::nextafter(r.y[5], 9.0f); }},
      {"gradients", [](QuantizerResult& r) { r.grad_x.pop_back(); }}};
  for (const auto& [what, spoil] : spoils) {
    const GoldenCase result = run_spoiled(spoil);
    EXPECT_EQ(result.status, GoldenStatus::kFail) << what;
    EXPECT_EQ(result.note, what + " of other differ from the scalar definition");
  }
}

}  // namespace
}  // namespace quest
