#include "quest/ops/quant_linear.h"

#include <bit>
#include <cmath>
#include <limits>
#include <optional>
#include <span>

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include "quest/ops/testing_tensors.h"
#include "quest/quant/quantizer.h"

namespace quest::ops {
namespace {

using testing::as_double;
using testing::leaf;
using testing::normal;

at::ScalarType master_of(at::ScalarType compute) {
  return compute == at::kDouble ? at::kDouble : at::kFloat;
}

QuantRecipe recipe_of(const char* weight, const char* activation) {
  return {"custom", spec_from_string(weight), spec_from_string(activation)};
}

// The dense orthonormal Sylvester matrix of K / block blocks, from the parity of common bits.
at::Tensor dense_hadamard(int64_t k) {
  int64_t block = 128;
  while (k % block != 0) block /= 2;
  at::Tensor h = at::zeros({k, k}, at::kDouble);
  auto values = h.accessor<double, 2>();
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i / block * block; j < (i / block + 1) * block; ++j) {
      const bool odd = std::popcount(static_cast<uint64_t>(i % block & j % block)) % 2 != 0;
      values[i][j] = (odd ? -1 : 1) / std::sqrt(static_cast<double>(block));
    }
  }
  return h;
}

// One side of the product by the scalar definition, in double: what the operation is compared with.
struct Side {
  at::Tensor q;       // (M,K) quantized values, rotated basis
  at::Tensor mask;    // (M,K) 0 or 1
  at::Tensor size;    // (M,K) what rounding errors of q are relative to
  at::Tensor number;  // (M,K) integers of integer grids
  at::Tensor unit;    // (M)
};

template <class Real>
Side side_of(const QuantSpec& spec, const at::Tensor& x) {
  const int64_t m = x.size(0), k = x.size(1);
  Side side{at::zeros({m, k}, at::kDouble),
            at::zeros({m, k}, at::kDouble),
            {},
            at::zeros({m, k}, at::kDouble),
            at::zeros({m}, at::kDouble)};
  const bool codes = spec.grid != Grid::kNone && spec.grid != Grid::kMask4of8;
  const CodeFormat format = codes ? code_format(spec) : CodeFormat{};
  const at::Tensor input = x.to(std::is_same_v<Real, double> ? at::kDouble : at::kFloat);
  auto q = side.q.accessor<double, 2>(), mask = side.mask.accessor<double, 2>();
  auto number = side.number.accessor<double, 2>();
  const auto columns = static_cast<size_t>(k);
  std::vector<int8_t> row_codes(columns);
  std::vector<uint8_t> bits((columns + 7) / 8);
  std::vector<Real> values(columns);
  for (int64_t row = 0; row < m; ++row) {
    const std::span<const Real> in(input.data_ptr<Real>() + row * k, columns);
    side.unit[row] = static_cast<double>(
        quantize_row<Real>(spec, in, {.codes = row_codes, .mask = bits, .values = values}));
    for (size_t i = 0; i < columns; ++i) {
      const auto column = static_cast<int64_t>(i);
      q[row][column] = static_cast<double>(values[i]);
      mask[row][column] = bits[i / 8] >> (i % 8) & 1;
      number[row][column] = format.multiplier * row_codes[i] + format.offset;
    }
  }
  side.size =
      codes || !spec.hadamard ? side.q.abs() : at::mm(as_double(x).abs(), dense_hadamard(k).abs());
  if (spec.grid == Grid::kNone || spec.estimator == GradientEstimator::kSte) side.mask.fill_(1);
  return side;
}

Side side_of(const QuantSpec& spec, const at::Tensor& x, at::ScalarType compute) {
  return compute == at::kDouble ? side_of<double>(spec, x) : side_of<float>(spec, x);
}

struct Result {
  at::Tensor y, grad_x, grad_weight;
};

Result run(const QuantRecipe& recipe, const at::Tensor& x, const at::Tensor& weight,
           const at::Tensor& grad_y, at::ScalarType compute) {
  QuantLinearState state(recipe, compute, "layer");
  const at::Tensor x_leaf = leaf(x, compute), w_leaf = leaf(weight, master_of(compute));
  const at::Tensor y = quant_linear(x_leaf, w_leaf, state);
  y.backward(grad_y.to(compute));
  return {y.detach(), x_leaf.grad(), w_leaf.grad()};
}

TEST(QuantLinear, IntegerProductIsExactWithTheStatedEpilogue) {
  for (const char* name : {"w4a4", "w1a1", "w2a2", "w8a8", "w3a8", "ternary", "fp4", "int4_4of8"}) {
    const QuantRecipe recipe = recipe_from_name(name);
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      // Few rows are dealt out to threads by columns, many by rows; K of one and of several blocks.
      for (const auto& [m, k] : {std::pair<int64_t, int64_t>{1, 48}, {37, 256}, {310, 144}}) {
        SCOPED_TRACE(fmt::format("{} {} {} x {}", name, at::toString(type), m, k));
        const testing::ThreadCount threads(3);
        ASSERT_EQ(choose_product_plan(recipe, 67, k, type), ProductPlan::kIntegerCodes);
        const at::Tensor x = normal({m, k}, 1, type), w = normal({67, k}, 2, at::kFloat, 0.02);
        QuantLinearState state(recipe, type, "layer");
        const at::Tensor y = quant_linear(x, w, state);
        const Side a = side_of(recipe.activation, x, type), b = side_of(recipe.weight, w, type);
        // Sums of integers below 2^53 are exact in double, and below 2^24 in float.
        const at::Tensor sums = at::mm(a.number, b.number.t()).to(at::kFloat);
        const at::Tensor units =
            a.unit.to(at::kFloat).unsqueeze(1) * b.unit.to(at::kFloat).unsqueeze(0);
        EXPECT_TRUE(at::equal(y, (sums * units).to(type)));
        // The other plan, values times values, is the same up to rounding.
        const double u = type == at::kFloat ? static_cast<double>(k + 8) * 0x1p-24 : 0x1p-8;
        testing::expect_within(y, at::mm(a.q, b.q.t()), at::mm(a.size, b.size.t()) * u, "y");
      }
    }
  }
}

struct Case {
  const char *weight, *activation;
};
const Case kCases[] = {
    {"int4.hadamard.trust", "int4.hadamard.trust"},
    {"int1.hadamard.clip1.3", "int1.hadamard.clip1.3"},
    {"int4.hadamard.trust_s0.5", "int8.hadamard.ste"},
    {"int4.ste", "int4.ste"},
    {"int3.trust", "int5.clip1.1"},
    {"ternary.hadamard.trust", "fp4.hadamard.trust_halfgap"},
    {"int4_4of8.hadamard.trust", "int4.hadamard.trust"},
    {"gauss3.hadamard.trust", "gauss4.hadamard.clip"},  // values: tables have no integers
    {"masked_4of8.hadamard", "none.hadamard"},          // no codes
    {"int4.hadamard.trust", "none.hadamard"},           // A16
    {"none.hadamard", "int2.hadamard.trust"},           // W16
    {"masked_4of8", "int4.clip"},
};

// dx = (M_x * (dy Q_w)) H^T and dw = (M_w * (dy^T Q_a)) H^T, in double from the definition.
TEST(QuantLinear, ForwardAndGradientsAreTheMethods) {
  const int64_t m = 21, n = 19, k = 144;
  const at::Tensor hadamard = dense_hadamard(k);
  for (const Case& c : kCases) {
    const QuantRecipe recipe = recipe_of(c.weight, c.activation);
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
      SCOPED_TRACE(fmt::format("{} x {} {}", c.weight, c.activation, at::toString(type)));
      const at::Tensor x = as_double(normal({m, k}, 1, type)),
                       dy = as_double(normal({m, n}, 3, type));
      const at::Tensor w = as_double(normal({n, k}, 2, master_of(type), 0.05));
      const Result actual = run(recipe, x, w, dy, type);
      ASSERT_EQ(actual.y.scalar_type(), type);
      ASSERT_EQ(actual.grad_x.scalar_type(), type);
      ASSERT_EQ(actual.grad_weight.scalar_type(), master_of(type));

      const Side a = side_of(recipe.activation, x, type), b = side_of(recipe.weight, w, type);
      // One rounding per step of a sum, and with bfloat16 one each of both factors and the result.
      const double wide = type == at::kDouble ? 0x1p-53 : 0x1p-24;
      const double narrow = type == at::kBFloat16 ? 3 * 0x1p-8 : 0;
      const auto of_sum = [&](int64_t terms) {
        return (static_cast<double>(terms) + 16) * wide + narrow;
      };
      testing::expect_within(actual.y, at::mm(a.q, b.q.t()), at::mm(a.size, b.size.t()) * of_sum(k),
                             "y");
      const auto check = [&](const at::Tensor& grad, const QuantSpec& spec, const at::Tensor& mask,
                             const at::Tensor& product, const at::Tensor& size, int64_t terms,
                             const char* what) {
        at::Tensor expected = mask * product, bound = mask * size * of_sum(terms);
        if (spec.hadamard) {
          // Of the transform: seven stages and a product, and the result's rounding.
          bound = at::mm(bound + expected.abs() * (16 * wide + narrow), hadamard.abs());
          expected = at::mm(expected, hadamard.t());
        }
        testing::expect_within(grad, expected, bound, what);
      };
      check(actual.grad_x, recipe.activation, a.mask, at::mm(dy, b.q), at::mm(dy.abs(), b.size), n,
            "grad x");
      check(actual.grad_weight, recipe.weight, b.mask, at::mm(dy.t(), a.q),
            at::mm(dy.t().abs(), a.size), m, "grad weight");
    }
  }
}

// With one side unquantized, the rotation of the other changes nothing: y = x Q(w)^T in the
// original basis, and with neither quantized the product is untouched.
TEST(QuantLinear, SixteenBitSidesAreRotatedExactly) {
  const int64_t m = 9, n = 11, k = 160;
  const at::Tensor x = normal({m, k}, 1), w = normal({n, k}, 2), h = dense_hadamard(k);
  QuantLinearState state(recipe_from_name("w4a16"), at::kDouble, "layer");
  const Side b = side_of(recipe_from_name("w4a16").weight, w, at::kDouble);
  testing::expect_within(quant_linear(x, w, state), at::mm(x, at::mm(b.q, h).t()), 1e-12, "w4a16");
  QuantLinearState both(recipe_of("none.hadamard", "none.hadamard"), at::kDouble, "layer");
  testing::expect_within(quant_linear(x, w, both), at::mm(x, w.t()), 1e-12, "w16a16 rotated");
}

TEST(QuantLinear, UnquantizedIsLinear) {
  const at::Tensor x = normal({5, 3, 20}, 1), w = normal({7, 20}, 2), dy = normal({5, 3, 7}, 3);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const Result actual = run(recipe_from_name("bf16"), x, w, dy, type);
    const at::Tensor x_leaf = leaf(x, type), w_leaf = leaf(w, master_of(type));
    const at::Tensor y = at::linear(x_leaf, w_leaf.to(type));
    y.backward(dy.to(type));
    EXPECT_EQ(actual.y.sizes(), (std::vector<int64_t>{5, 3, 7}));
    const double bound = 64 * testing::rounding_error(type);
    testing::expect_within(actual.y, y, bound, "y");
    testing::expect_within(actual.grad_x, x_leaf.grad(), bound, "grad x");
    testing::expect_within(actual.grad_weight, w_leaf.grad(), bound, "grad weight");
  }
  // Finite differences of the same, where the operation is differentiable.
  const Result exact = run(recipe_from_name("bf16"), x, w, dy, at::kDouble);
  const at::NoGradGuard no_grad;
  const auto f = [&] {
    QuantLinearState state(recipe_from_name("bf16"), at::kDouble, "layer");
    return (quant_linear(x, w, state) * dy).sum().item<double>();
  };
  testing::expect_within(exact.grad_x, testing::numeric_gradient(f, x), 1e-8, "grad x");
  testing::expect_within(exact.grad_weight, testing::numeric_gradient(f, w), 1e-8, "grad weight");
}

TEST(QuantLinear, GradientsOnlyWhereWanted) {
  const QuantRecipe recipe = recipe_from_name("w4a4");
  const at::Tensor x = normal({8, 32}, 1, at::kFloat), w = normal({16, 32}, 2, at::kFloat);
  const Result both = run(recipe, x, w, normal({8, 16}, 3), at::kFloat);
  const at::Tensor dy = normal({8, 16}, 3, at::kFloat);
  for (const bool of_x : {true, false}) {
    QuantLinearState state(recipe, at::kFloat, "layer");
    const at::Tensor wanted = leaf(of_x ? x : w, at::kFloat);
    quant_linear(of_x ? wanted : x, of_x ? w : wanted, state).backward(dy);
    EXPECT_TRUE(at::equal(wanted.grad(), of_x ? both.grad_x : both.grad_weight));
  }
}

TEST(QuantLinear, ThreadsChangeNothingInTheForwardPass) {
  const at::Tensor x = normal({301, 128}, 1, at::kFloat), w = normal({90, 128}, 2, at::kFloat);
  const auto with_threads = [&](int threads) {
    const testing::ThreadCount count(threads);
    QuantLinearState state(recipe_from_name("w4a4"), at::kFloat, "layer");
    return quant_linear(x, w, state);
  };
  const at::Tensor one = with_threads(1);
  for (const int threads : {2, 3, 8}) EXPECT_TRUE(at::equal(with_threads(threads), one));
}

TEST(QuantLinear, WeightIsQuantizedOncePerVersion) {
  QuantLinearState state(recipe_from_name("w4a4"), at::kFloat, "layer");
  at::Tensor w = leaf(normal({8, 32}, 1), at::kFloat);
  const auto first = state.weight_side(w, true);
  ASSERT_TRUE(first->quantized.mask.defined());
  EXPECT_EQ(state.weight_side(w, true), first);
  EXPECT_EQ(state.weight_side(w, false), first);  // a mask too many does no harm
  {
    const at::NoGradGuard no_grad;
    w[3].mul_(2);
  }
  const auto second = state.weight_side(w, true);
  EXPECT_NE(second, first);
  EXPECT_FALSE(at::equal(second->quantized.units, first->quantized.units));
  EXPECT_TRUE(at::equal(second->quantized.codes, first->quantized.codes));
  // Another tensor of the same version.
  const at::Tensor other = leaf(normal({8, 32}, 2), at::kFloat);
  EXPECT_FALSE(at::equal(state.weight_side(other, true)->quantized.codes, second->quantized.codes));
}

TEST(QuantLinear, MaskIsRemadeWhenGradientsBecomeWanted) {
  QuantLinearState state(recipe_from_name("w4a4"), at::kFloat, "layer");
  const at::Tensor x = normal({8, 32}, 1, at::kFloat), w = leaf(normal({16, 32}, 2), at::kFloat);
  at::Tensor evaluated;
  {
    const at::NoGradGuard no_grad;
    evaluated = quant_linear(x, w, state);
    EXPECT_FALSE(state.weight_side(w, false)->quantized.mask.defined());
  }
  const at::Tensor y = quant_linear(x, w, state);
  EXPECT_TRUE(state.weight_side(w, false)->quantized.mask.defined());
  EXPECT_TRUE(at::equal(y, evaluated));
  y.backward(normal({8, 16}, 3, at::kFloat));
  const Result expected = run(recipe_from_name("w4a4"), x, w, normal({8, 16}, 3), at::kFloat);
  EXPECT_TRUE(at::equal(w.grad(), expected.grad_weight));
}

// The backward pass uses the weight of its forward pass, though the layer has moved on.
TEST(QuantLinear, BackwardKeepsItsWeight) {
  const QuantRecipe recipe = recipe_from_name("w4a4");
  const at::Tensor x = leaf(normal({8, 32}, 1), at::kFloat),
                   w = leaf(normal({16, 32}, 2), at::kFloat);
  const Result expected = run(recipe, x, w, normal({8, 16}, 3), at::kFloat);
  QuantLinearState state(recipe, at::kFloat, "layer");
  const at::Tensor y = quant_linear(x, w, state);
  {
    const at::NoGradGuard no_grad;
    w.mul_(-3);
    quant_linear(x, w, state);
  }
  y.backward(normal({8, 16}, 3, at::kFloat));
  EXPECT_TRUE(at::equal(x.grad(), expected.grad_x));
}

// So it does where the layer is gone; here another one has taken its place in memory.
TEST(QuantLinear, BackwardOutlivesItsLayer) {
  const QuantRecipe recipe = recipe_from_name("w4a4");
  const at::Tensor x = leaf(normal({8, 32}, 1), at::kFloat),
                   w = leaf(normal({16, 32}, 2), at::kFloat);
  const Result expected = run(recipe, x, w, normal({8, 16}, 3), at::kFloat);
  std::optional<QuantLinearState> state;
  state.emplace(recipe, at::kFloat, "layer");
  const at::Tensor y = quant_linear(x, w, *state);
  state.emplace(recipe_from_name("w2a2_nohadamard"), at::kFloat, "another");
  y.backward(normal({8, 16}, 3, at::kFloat));
  EXPECT_TRUE(at::equal(x.grad(), expected.grad_x));
  EXPECT_TRUE(at::equal(w.grad(), expected.grad_weight));
}

// Bytes of CPU tensors that this thread has allocated and not freed.
class LiveBytes : public c10::MemoryReportingInfoBase {
 public:
  bool memoryProfilingEnabled() const override { return true; }
  void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) override {
    bytes += size;
  }
  int64_t bytes = 0;
};

TEST(QuantLinear, SavesCodesAndMaskBitsForTheBackwardPass) {
  const int64_t m = 512, n = 64, k = 256;
  const at::Tensor w = leaf(normal({n, k}, 2), at::kFloat);
  const auto held_for = [&](const char* recipe) {
    QuantLinearState state(recipe_from_name(recipe), at::kBFloat16, "layer");
    state.weight_side(w, true);
    const auto live = std::make_shared<LiveBytes>();
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, live);
    at::Tensor y;
    {
      const at::Tensor x = leaf(normal({m, k}, 1), at::kFloat).to(at::kBFloat16);
      y = quant_linear(x, w, state);
    }
    // What is left besides the leaf (held by the graph) and y.
    const int64_t held = live->bytes - m * k * 4 - m * n * 2;
    EXPECT_TRUE(y.requires_grad());
    return held;
  };
  const int64_t codes = m * k, masks = m * k / 8, units = m * 4;
  EXPECT_EQ(held_for("w4a4"), codes + masks + units);
  EXPECT_EQ(held_for("bf16"), 2 * m * k);
}

TEST(QuantLinear, PlansAreChosenAndPrinted) {
  const QuantRecipe w4a4 = recipe_from_name("w4a4");
  EXPECT_EQ(choose_product_plan(w4a4, 64, 256, at::kFloat), ProductPlan::kIntegerCodes);
  EXPECT_EQ(choose_product_plan(w4a4, 64, 256, at::kDouble), ProductPlan::kValues);
  for (const char* name : {"w4a16", "bf16", "gauss3"}) {
    EXPECT_EQ(choose_product_plan(recipe_from_name(name), 64, 256, at::kFloat),
              ProductPlan::kValues);
  }
  // 255 * 255 * K must stay below 2^31.
  const QuantRecipe w8a8 = recipe_from_name("w8a8");
  const int64_t most = ((int64_t{1} << 31) - 1) / (255 * 255);
  EXPECT_EQ(choose_product_plan(w8a8, 64, most, at::kFloat), ProductPlan::kIntegerCodes);
  EXPECT_EQ(choose_product_plan(w8a8, 64, most + 1, at::kFloat), ProductPlan::kValues);
  EXPECT_NE(product_plan_text(w4a4, 64, 256, at::kBFloat16).find("integer"), std::string::npos);
  EXPECT_NE(product_plan_text(w4a4, 64, 256, at::kDouble).find("Double values"), std::string::npos);
}

TEST(QuantLinear, ErrorsNameLayerAndNumbers) {
  QuantLinearState state(recipe_from_name("w4a4"), at::kFloat, "blocks.2.down");
  const at::Tensor w = normal({16, 64}, 1, at::kFloat), x = normal({8, 64}, 1, at::kFloat);
  EXPECT_QUEST_ERROR(quant_linear(normal({8, 32}, 1, at::kFloat), w, state), ErrorKind::kUsage,
                     "blocks.2.down: x has K=32, weight expects K=64");
  EXPECT_QUEST_ERROR(quant_linear(x.to(at::kBFloat16), w, state), ErrorKind::kUsage,
                     "x is BFloat16, the layer computes in Float");
  EXPECT_QUEST_ERROR(quant_linear(x, w.to(at::kDouble), state), ErrorKind::kUsage,
                     "weight is Double");
  EXPECT_QUEST_ERROR(quant_linear(x, normal({64, 16}, 1, at::kFloat).t(), state), ErrorKind::kUsage,
                     "contiguous");
  at::Tensor bad = x.clone();
  bad[5][0].fill_(std::numeric_limits<double>::quiet_NaN());
  EXPECT_QUEST_ERROR(quant_linear(bad, w, state), ErrorKind::kNumeric,
                     "blocks.2.down input: the RMS of row 5");
  at::Tensor bad_weight = w.clone();
  bad_weight[7][1].fill_(std::numeric_limits<double>::infinity());
  EXPECT_QUEST_ERROR(quant_linear(x, bad_weight, state), ErrorKind::kNumeric,
                     "blocks.2.down.weight: the RMS of row 7");
  // The failure left nothing behind.
  EXPECT_EQ(quant_linear(x, w, state).sizes(), (std::vector<int64_t>{8, 16}));
}

}  // namespace
}  // namespace quest::ops
