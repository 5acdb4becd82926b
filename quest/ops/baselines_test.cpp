#include "quest/ops/baselines.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include <ATen/ops/cat.h>
#include <ATen/ops/zeros_like.h>

#include "quest/base/error.h"
#include "quest/ops/golden_learned.h"
#include "quest/ops/quant_linear.h"
#include "quest/ops/testing_tensors.h"
#include "quest/quant/testing_recipes.h"

namespace quest::ops {
namespace {

using testing::as_double;
using testing::expect_within;
using testing::leaf;
using testing::normal;
using testing::numeric_gradient;

constexpr int64_t kRows = 6, kColumns = 32;

// N(0,1) with every eighth value five times as large: some lie outside of any range.
at::Tensor heavy_tailed(uint64_t seed) {
  at::Tensor x = normal({kRows, kColumns}, seed);
  for (int64_t i = 0; i < x.numel(); i += 8) x.data_ptr<double>()[i] *= 5;
  return x;
}

// A side that has begun and whose learned values have moved, so that some values are outside.
class Side {
 public:
  Side(const std::string& spec, bool is_weight, const at::Tensor& x)
      : spec_(spec_from_string(spec)),
        side_(spec_, QuantizerPlace{spec_.bits, is_weight, x.size(0), x.size(1), x.options()},
              "side"),
        x_(leaf(x, at::kDouble)) {
    side_.values(x_.detach(), at::kDouble, /*beginning=*/true);
    const double factor = spec_.bits == 1 ? 1.5 : spec_.bits < 6 ? 0.6 : 0.1;
    for (const LearnedTensor& t : learned()) {
      t.value.detach().mul_(t.name == "side.offset" ? 0.8 : factor);
    }
  }
  std::vector<LearnedTensor> learned() const { return side_.learned(); }
  double learned_value(size_t index, int64_t row = 0) const {
    const at::Tensor t = as_double(side_.learned()[index].value).flatten();
    return t[std::min<int64_t>(row, t.numel() - 1)].item<double>();
  }
  const at::Tensor& x() const { return x_; }
  at::Tensor values() { return side_.values(x_, at::kDouble, /*beginning=*/false); }
  QuantizerCodes codes() { return side_.codes(x_); }

 private:
  QuantSpec spec_;
  RegisteredSide side_;
  at::Tensor x_;
};

// The scalar definition: the nearest of the levels, found by looking at all; half way between two
// the choice is not compared (no random value lies there).
double nearest(const std::vector<double>& levels, double x) {
  double best = levels.front();
  for (const double level : levels) {
    if (std::abs(level - x) < std::abs(best - x)) best = level;
  }
  return best;
}

std::vector<double> range(double first, double last, double scale = 1) {
  std::vector<double> levels;
  for (double v = first; v <= last + 1e-9; v += 1) levels.push_back(v * scale);
  return levels;
}

// A quantizer written down once more, plainly.
struct Definition {
  std::vector<double> levels;  // in units of the scale
  double low, high;            // in units of the scale: inside it passes gradient to x
  double gradient_scale;       // of learned values
  bool sign = false;           // dy/dscale is the level everywhere
};

// y, and the surrogate whose exact gradient the quantizer must have, around the point `base`.
double surrogate(const Definition& d, double x, double scale, double offset, double x0,
                 double scale0, double offset0) {
  const double z0 = (x0 - offset0) / scale0, q0 = nearest(d.levels, z0);
  const bool inside = z0 >= d.low && z0 <= d.high;
  if (d.sign) return scale * q0 + offset + (inside ? x - x0 : 0);
  return inside ? scale * ((x - offset) / scale + q0 - z0) + offset : scale * q0 + offset;
}

void check_learned_scale(const std::string& spec, bool is_weight, const Definition& d) {
  SCOPED_TRACE(spec + (is_weight ? " weight" : " input"));
  Side side(spec, is_weight, heavy_tailed(11));
  const bool has_offset = side.learned().size() == 2;
  const at::Tensor g = normal({kRows, kColumns}, 12);
  const at::Tensor y = side.values();
  (y * g).sum().backward();

  at::Tensor x = side.x().detach().clone();
  at::Tensor scales = as_double(side.learned()[0].value).clone();
  at::Tensor offset = has_offset ? as_double(side.learned()[1].value).clone() : normal({1}, 1) * 0;
  const at::Tensor x0 = x.clone(), scales0 = scales.clone(), offset0 = offset.clone();
  const auto at_row = [](const at::Tensor& t, int64_t row) {
    return t.data_ptr<double>()[std::min<int64_t>(row, t.numel() - 1)];
  };
  const auto value = [&](int64_t i) {
    const int64_t row = i / kColumns;
    return surrogate(d, x.data_ptr<double>()[i], at_row(scales, row), at_row(offset, 0),
                     x0.data_ptr<double>()[i], at_row(scales0, row), at_row(offset0, 0));
  };
  at::Tensor expected = at::zeros_like(x);
  for (int64_t i = 0; i < x.numel(); ++i) {
    const int64_t row = i / kColumns;
    const double s = at_row(scales, row), o = at_row(offset, 0);
    expected.data_ptr<double>()[i] = s * nearest(d.levels, (x0.data_ptr<double>()[i] - o) / s) + o;
  }
  expect_within(y, expected, 1e-12, "values");
  const at::Tensor weights = g.contiguous();
  const auto total = [&] {
    double sum = 0;
    for (int64_t i = 0; i < x.numel(); ++i) sum += value(i) * weights.data_ptr<double>()[i];
    return sum;
  };
  expect_within(side.x().grad(), numeric_gradient(total, x), 1e-7, "gradient of x");
  expect_within(side.learned()[0].value.grad(),
                numeric_gradient(total, scales, 1e-7) * d.gradient_scale, 1e-6, "of the scale");
  if (has_offset) {
    expect_within(side.learned()[1].value.grad(),
                  numeric_gradient(total, offset, 1e-7) * d.gradient_scale, 1e-6, "of the offset");
  }
  // Both kinds of values are there, or this proves little.
  const at::Tensor passed = side.x().grad() != 0;
  EXPECT_GT(passed.sum().item<int64_t>(), 10);
  EXPECT_LT(passed.sum().item<int64_t>(), x.numel() - 3);
}

TEST(Baselines, LearnedScalesHaveValuesOfTheirLevelsAndGradientsOfTheirSurrogates) {
  const double values = kRows * kColumns;
  for (int bits = 1; bits <= 8; ++bits) {
    const double low = -std::exp2(bits - 1), high = std::exp2(bits - 1) - 1;
    const Definition d{range(low + 0.5, high + 0.5), low + 0.5, high + 0.5,
                       1 / std::sqrt(values * std::max(1.0, high))};
    for (const char* name : {"lsq", "lsq_plus"}) {
      for (const bool is_weight : {true, false}) {
        check_learned_scale(name + std::to_string(bits), is_weight, d);
      }
    }
  }
  for (const int bits : {3, 4}) {
    const double low = -std::exp2(bits - 1), high = std::exp2(bits - 1) - 1;
    check_learned_scale("paretoq" + std::to_string(bits), true,
                        {range(low, high), low, high, 1 / std::sqrt(values * high)});
  }
  check_learned_scale("paretoq1", true, {{-1, 1}, -1, 1, 1 / std::sqrt(values), true});
  check_learned_scale("paretoq2", true,
                      {{-0.75, -0.25, 0.25, 0.75}, -1, 1, 1 / std::sqrt(values * 0.75)});
  check_learned_scale("paretoq_ternary", true,
                      {{-2.0 / 3, 0, 2.0 / 3}, -1, 1, 1 / std::sqrt(values * 2 / 3)});
}

TEST(Baselines, PactClipsAndLearnsFromWhatItClips) {
  for (int bits = 1; bits <= 8; ++bits) {
    SCOPED_TRACE(bits);
    Side side("pact" + std::to_string(bits), false, heavy_tailed(13));
    const double c = side.learned_value(0), half = c / (std::exp2(bits) - 1);
    const at::Tensor g = normal({kRows, kColumns}, 14), y = side.values();
    (y * g).sum().backward();
    at::Tensor x = side.x().detach().clone(), expected = x.clone();
    std::vector<double> levels;
    for (int odd = 1 - (1 << bits); odd < 1 << bits; odd += 2) levels.push_back(half * odd);
    for (int64_t i = 0; i < x.numel(); ++i) {
      expected.data_ptr<double>()[i] = nearest(levels, x.data_ptr<double>()[i]);
    }
    expect_within(y, expected, 1e-12, "values");
    at::Tensor clip = x.flatten().narrow(0, 0, 1).clone().fill_(c);
    const auto total = [&] {
      return (x.clamp(-clip.item<double>(), clip.item<double>()) * g).sum().item<double>();
    };
    expect_within(side.x().grad(), numeric_gradient(total, x), 1e-7, "gradient of x");
    expect_within(side.learned()[0].value.grad(), numeric_gradient(total, clip, 1e-7), 1e-6,
                  "gradient of the clipping value");
    EXPECT_GT((side.x().grad() == 0).sum().item<int64_t>(), 3);
  }
}

TEST(Baselines, BitNetRoundsToMeansAndMaximaAndPassesEveryGradient) {
  const at::Tensor g = normal({kRows, kColumns}, 16);
  Side ternary("absmean_ternary", true, normal({kRows, kColumns}, 15));
  const double mean = ternary.x().detach().abs().mean().item<double>() + 1e-5;
  Side absmax("absmax4", false, normal({kRows, kColumns}, 15));
  for (Side* side : {&ternary, &absmax}) {
    const at::Tensor y = side->values();
    (y * g).sum().backward();
    expect_within(side->x().grad(), g, 0.0, "gradient of x");
    at::Tensor expected = side->x().detach().clone();
    for (int64_t row = 0; row < kRows; ++row) {
      at::Tensor values = expected[row];
      const double unit = side == &ternary ? mean : values.abs().max().item<double>() / 7;
      const std::vector<double> levels = side == &ternary ? range(-1, 1, unit) : range(-8, 7, unit);
      for (int64_t i = 0; i < kColumns; ++i) {
        values[i].fill_(nearest(levels, values[i].item<double>()));
      }
    }
    expect_within(y, expected, 1e-12, "values");
  }
}

// A value is the level of its code times the scale, plus LSQ+'s offset.
void check_codes(const std::string& spec, bool is_weight, size_t levels,
                 const std::function<double(const Side&, int64_t row)>& scale) {
  SCOPED_TRACE(spec);
  Side side(spec, is_weight, heavy_tailed(17));
  const QuantizerCodes codes = side.codes();
  EXPECT_EQ(codes.levels.size(), levels);
  EXPECT_TRUE(std::is_sorted(codes.levels.begin(), codes.levels.end()));
  EXPECT_FALSE(codes.places.requires_grad());
  const at::Tensor places = codes.places.to(at::kLong);
  const double offset = side.learned().size() == 2 ? side.learned_value(1) : 0;
  at::Tensor expected = side.x().detach().clone();
  for (int64_t i = 0; i < expected.numel(); ++i) {
    const double level = codes.levels.at(static_cast<size_t>(places.data_ptr<int64_t>()[i]));
    expected.data_ptr<double>()[i] = level * scale(side, i / kColumns) + offset;
  }
  expect_within(side.values().detach(), expected, 1e-12, "values");
}

TEST(Baselines, CodesAreWhatValuesAreMadeOf) {
  const auto learned = [](const Side& side, int64_t row) { return side.learned_value(0, row); };
  for (int bits = 1; bits <= 8; ++bits) {
    const std::string width = std::to_string(bits);
    const size_t all = size_t{1} << bits;
    for (const bool is_weight : {true, false}) {
      check_codes("lsq" + width, is_weight, all, learned);
      check_codes("lsq_plus" + width, is_weight, all, learned);
      check_codes("pact" + width, is_weight, all, [&](const Side& side, int64_t) {
        return 2 * side.learned_value(0) / static_cast<double>(all - 1);
      });
    }
    if (bits <= 4) check_codes("paretoq" + width, true, all, learned);
    if (bits == 1) continue;
    check_codes("absmax" + width, false, all - 1, [&](const Side& side, int64_t row) {
      return side.x().detach()[row].abs().max().item<double>() / static_cast<double>(all / 2 - 1);
    });
  }
  check_codes("paretoq_ternary", true, 3, learned);
  check_codes("absmean_ternary", true, 3, [](const Side& side, int64_t) {
    return side.x().detach().abs().mean().item<double>() + 1e-5;
  });
}

TEST(Baselines, EqualTheAuthorsGoldenValues) {
  const std::vector<GoldenCase> cases = run_learned_golden(QUEST_SOURCE_DIR "/tests/golden");
  EXPECT_EQ(cases.size(), 9u);
  for (const GoldenCase& c : cases) {
    EXPECT_EQ(c.status, GoldenStatus::kPass) << c.name << ": " << c.note;
    EXPECT_LT(c.max_deviation, 1e-6) << c.name;
    EXPECT_EQ(c.values, 7 * 256) << c.name;
  }
}

TEST(Baselines, NamesAreSpecsAndRecipes) {
  EXPECT_EQ(to_string(recipe_from_name("w4a4_lsq").weight), "lsq4");
  const QuantRecipe rotated = recipe_from_name("w2a3_lsq_plus_hadamard");
  EXPECT_EQ(to_string(rotated.weight), "lsq_plus2.hadamard");
  EXPECT_EQ(to_string(rotated.activation), "lsq_plus3.hadamard");
  EXPECT_EQ(spec_from_string("lsq_plus2.hadamard"), rotated.weight);
  const QuantRecipe bitnet = recipe_from_name("bitnet");
  EXPECT_EQ(to_string(bitnet.weight), "absmean_ternary");
  EXPECT_EQ(to_string(bitnet.activation), "absmax8");
  EXPECT_NEAR(storage_bits(bitnet.weight), 1.585, 1e-3);
  EXPECT_EQ(storage_bits(bitnet.activation), 8);
  EXPECT_EQ(recipe_from_name("w3a16_paretoq").activation, QuantSpec{});
  QuantSpec spec;
  set_grid(spec, "paretoq_ternary");
  EXPECT_EQ(to_string(spec), "paretoq_ternary");
  set_grid(spec, "uniform");
  EXPECT_EQ(spec.registered, nullptr);
  for (const char* wrong : {"w4a4_paretoq", "w16a16_lsq", "w5a16_paretoq", "bf16_lsq", "w9a4_lsq",
                            "w4a4_lsq_ste", "lsq", "fp4_lsq", "w4a4_unknown"}) {
    EXPECT_THROW(recipe_from_name(wrong), Error) << wrong;
  }
  for (const char* wrong : {"lsq", "lsq9", "lsq4.trust", "paretoq8", "absmax1"}) {
    EXPECT_THROW(spec_from_string(wrong), Error) << wrong;
  }
}

TEST(Baselines, HelpHasNamesThatExist) {
  std::string patterns;
  for (const RecipeHelp& help : recipe_names()) patterns += help.pattern + "\n";
  for (const char* pattern : {"bitnet", "w<b>a<c>_lsq", "w<b>a16_paretoq", "w2a16_absmean_ternary",
                              "w2a16_paretoq_ternary"}) {
    EXPECT_NE(patterns.find(std::string(pattern) + "\n"), std::string::npos) << patterns;
  }
  EXPECT_NO_THROW(recipe_from_name("w2a16_paretoq_ternary"));
}

// So that tests over all recipes leave out none.
TEST(Baselines, EveryPatternOfTheHelpGivesRecipes) {
  for (const RecipeHelp& help : recipe_names()) {
    EXPECT_FALSE(testing::recipes_of(help.pattern).empty()) << help.pattern;
  }
  const std::vector<std::string> all = testing::recipes_of_all_patterns();
  for (const char* name : {"bf16", "w1a1", "w2a8", "w4a16", "w16a8", "int4_4of8", "gauss4", "fp4",
                           "w4a4_nohadamard", "w1a1_trust", "fp4_halfgap", "bitnet", "w8a8_pact",
                           "w1a16_paretoq", "bitnet_hadamard", "w4a8_lsq_plus_hadamard"}) {
    EXPECT_EQ(std::count(all.begin(), all.end(), name), 1) << name;
  }
}

TEST(TensorQuantizer, RefusesNamesThatMeanSomethingElse) {
  for (const char* name : {"", "Lsq", "lsq", "fp4", "int", "my_trust", "lsq4", "uniform", "a b"}) {
    EXPECT_THROW(register_quantizer({.name = name, .help = ""}, nullptr), Error) << name;
  }
}

TEST(TensorQuantizer, RefusesRecipesThatAreThereOrCannotBe) {
  for (const char* name : {"bitnet", "w4a4", "fp4", "w4a4_lsq", "none", "", "a b", "my_hadamard"}) {
    EXPECT_THROW(register_recipe({name, "lsq4", "lsq4", ""}), Error) << name;
  }
  EXPECT_THROW(register_recipe({"mine", "lsq4", "paretoq4", ""}), Error) << "not for activations";
  EXPECT_THROW(register_recipe({"mine", "lsq4.hadamard", "lsq4", ""}), Error) << "one side rotated";
  EXPECT_THROW(recipe_from_name("mine"), Error) << "refused, and there nevertheless";
}

// One product with registered sides is that of its values, with gradients through both.
TEST(QuantLinear, RegisteredSidesLearnThroughTheProduct) {
  for (const char* name : {"w3a4_lsq_plus", "w2a2_lsq_hadamard"}) {
    SCOPED_TRACE(name);
    const QuantRecipe recipe = recipe_from_name(name);
    QuantLinearState state(recipe, at::kDouble, "layer");
    const at::Tensor x = leaf(normal({2, 3, kColumns}, 21), at::kDouble);
    const at::Tensor w = leaf(normal({5, kColumns}, 22), at::kDouble);
    state.make_registered_sides(5, kColumns, w.detach().options());
    try {
      quant_linear(x, w, state);
      ADD_FAILURE() << "learned values were used before they had any";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("layer.input_quantizer"), std::string::npos)
          << error.what();
    }
    state.set_beginning(true);
    quant_linear(x, w, state);
    state.set_beginning(false);
    const at::Tensor y = quant_linear(x, w, state);
    EXPECT_EQ(y.sizes(), at::IntArrayRef({2, 3, 5}));
    (y * y).sum().backward();

    const at::Tensor flat = leaf(x.detach().view({6, kColumns}), at::kDouble);
    const at::Tensor w2 = leaf(w, at::kDouble);
    std::vector<at::Tensor> learned;
    for (const LearnedTensor& t : state.learned()) learned.push_back(leaf(t.value, at::kDouble));
    const bool plus = recipe.weight.registered->name == "lsq_plus";
    ASSERT_EQ(learned.size(), plus ? 3u : 2u);
    const auto rotate = [&](const at::Tensor& t) {
      return recipe.weight.hadamard ? hadamard(t) : t;
    };
    const at::Tensor qw = lsq(rotate(w2), learned[0], {}, recipe.weight.bits);
    const at::Tensor qx =
        lsq(rotate(flat), learned[1], plus ? learned[2] : at::Tensor(), recipe.activation.bits);
    const at::Tensor expected = qx.matmul(qw.t());
    (expected * expected).sum().backward();
    expect_within(y.view({6, 5}), expected, 1e-10, "y");
    expect_within(x.grad().view({6, kColumns}), flat.grad(), 1e-8, "gradient of x");
    expect_within(w.grad(), w2.grad(), 1e-8, "gradient of the weight");
    for (size_t i = 0; i < learned.size(); ++i) {
      expect_within(state.learned()[i].value.grad(), learned[i].grad(), 1e-8,
                    state.learned()[i].name);
      EXPECT_NE(learned[i].grad().item<double>(), 0) << state.learned()[i].name;
    }
  }
}

// A grid on one side beside a registered quantizer on the other goes through its own estimator.
TEST(QuantLinear, AGridMayStandBesideARegisteredQuantizer) {
  const QuantRecipe recipe{"custom", spec_from_string("paretoq2.hadamard"),
                           spec_from_string("int4.hadamard.trust")};
  QuantLinearState state(recipe, at::kFloat, "layer");
  const at::Tensor x = leaf(normal({4, kColumns}, 23), at::kFloat);
  const at::Tensor w = leaf(normal({5, kColumns}, 24), at::kFloat);
  state.make_registered_sides(5, kColumns, w.detach().options());
  state.set_beginning(true);
  const at::Tensor g = normal({4, 5}, 25, at::kFloat);
  const at::Tensor y = quant_linear(x, w, state);
  (y * g).sum().backward();
  const QuantizedTensor q = quantize(recipe.activation, x.detach(), at::kFloat, true, "x");
  const at::Tensor qw = state.registered_weight()->values(w.detach(), at::kFloat, false);
  expect_within(y, dequantize(recipe.activation, q, at::kFloat).matmul(qw.t()), 1e-5, "y");
  expect_within(x.grad(), quantize_backward(recipe.activation, q.mask, g.matmul(qw)), 1e-5,
                "gradient of x");
}

}  // namespace
}  // namespace quest::ops
