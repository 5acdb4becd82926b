// Every registered quantizer (LSQ, PACT, BitNet's, ParetoQ's, and what else is registered) on the
// GPU against the CPU: first values of what it learns, values, gradients. Skipped where no GPU can
// be used.
#include <algorithm>
#include <cmath>

#include "quest/ops/quant_linear.h"
#include "quest/ops/testing_gpu.h"
#include "quest/ops/testing_tensors.h"

namespace quest::ops {
namespace {

using testing::as_double;
using testing::expect_within;
using testing::fits;
using testing::leaf;
using testing::normal;

class RegisteredGpu : public testing::GpuTest {};

// The quantizer at every number of bits, with and without the transform.
std::vector<QuantSpec> specs_of(const RegisteredQuantizer& quantizer) {
  std::vector<QuantSpec> specs;
  for (int bits = quantizer.min_bits; bits <= quantizer.max_bits; ++bits) {
    QuantSpec spec;
    spec.grid = Grid::kRegistered;
    spec.registered = &quantizer;
    spec.bits = bits;
    specs.push_back(spec);
    spec.hadamard = true;
    specs.push_back(spec);
  }
  return specs;
}

// Normal values, every eighth five times as large; rows of zeros, one spike, tiny values, one
// value.
at::Tensor rows_of_kinds(int64_t m, int64_t k) {
  at::Tensor x = normal({m, k}, 31);
  for (int64_t i = 0; i < x.numel(); i += 8) x.data_ptr<double>()[i] *= 5;
  for (int64_t row = 1; row < m; row += 6) {
    x[row].zero_();
    if (row + 1 < m) x[row + 1].zero_()[k / 2] = 3.0;
    if (row + 2 < m) x[row + 2] *= 1e-20;
    if (row + 3 < m) x[row + 3].fill_(0.37);
  }
  return x;
}

struct Numbers {
  std::vector<at::Tensor> first, learned;  // as training begins; those that the rest used
  at::Tensor y, grad_x;
  std::vector<at::Tensor> grad_learned;
};

// On the device of x. What is learned has the given values, or, if there are none, has moved from
// the first ones so that some values of x are outside.
Numbers run(const QuantSpec& spec, bool is_weight, const at::Tensor& x, const at::Tensor& grad,
            const std::vector<at::Tensor>& learned) {
  const QuantizerPlace place{spec.bits, is_weight, x.size(0), x.size(1), x.options()};
  RegisteredSide side(spec, place, "side");
  const at::Tensor values = leaf(x, x.scalar_type());
  side.values(x, x.scalar_type(), /*beginning=*/true);
  Numbers out;
  for (size_t i = 0; i < side.learned().size(); ++i) {
    const at::Tensor t = side.learned()[i].value.detach();
    out.first.push_back(t.cpu().clone());
    learned.empty() ? t.mul_(spec.bits == 1  ? 1.5
                             : spec.bits < 6 ? 0.6
                                             : 0.1)
                    : t.copy_(learned[i]);
    out.learned.push_back(t.cpu().clone());
  }
  const at::Tensor y = side.values(values, x.scalar_type(), /*beginning=*/false);
  (y * grad).sum().backward();
  out.y = y.detach().cpu();
  out.grad_x = values.grad().cpu();
  for (const LearnedTensor& t : side.learned()) out.grad_learned.push_back(t.value.grad().cpu());
  return out;
}

// At most `flips` values differ by more than `bound`: those whose code a rounding error decides.
void expect_near(const at::Tensor& actual, const at::Tensor& expected, double bound, int64_t flips,
                 const std::string& what) {
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  ASSERT_EQ(actual.scalar_type(), expected.scalar_type()) << what;
  const at::Tensor bad = (as_double(actual) - as_double(expected)).abs().le(bound).logical_not();
  EXPECT_LE(bad.sum().item<int64_t>(), flips) << what << ": of " << actual.numel() << " values";
}

double largest(const at::Tensor& t) { return as_double(t).abs().max().item<double>(); }

// In FP64 no code is near a boundary of two, so all is equal but for the order of sums; in FP32 the
// GPU divides by constants as a product with their inverse.
void compare(const QuantSpec& spec, bool is_weight, const at::Tensor& x, const at::Tensor& grad,
             const std::string& what) {
  const bool exact = x.scalar_type() == at::kDouble;
  const double rounding = exact ? 1e-13 : 1e-6;
  const Numbers cpu = run(spec, is_weight, x, grad, {});
  const Numbers gpu = run(spec, is_weight, x.cuda(), grad.cuda(), cpu.learned);
  const int64_t flips = exact ? 0 : 2;
  expect_near(gpu.y, cpu.y, rounding * largest(cpu.y), flips, what + " values");
  expect_near(gpu.grad_x, cpu.grad_x, 4 * rounding * largest(grad), flips, what + " gradient");
  ASSERT_EQ(gpu.grad_learned.size(), cpu.grad_learned.size()) << what;
  for (size_t i = 0; i < cpu.first.size(); ++i) {
    expect_within(gpu.first[i], cpu.first[i], 10 * rounding * largest(cpu.first[i]),
                  what + " first values");
    // Sums of as many terms as there are gradients.
    const double size = largest(cpu.grad_learned[i]) + as_double(grad).norm().item<double>();
    expect_within(gpu.grad_learned[i], cpu.grad_learned[i], 10 * rounding * size,
                  what + " gradient of what is learned");
  }
}

void compare_everywhere(const QuantSpec& spec, const at::Tensor& x, const at::Tensor& grad) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat}) {
    // Models of a GPU are none of FP64, nor is its transform.
    if (spec.hadamard && type == at::kDouble) continue;
    for (const bool is_weight : {true, false}) {
      const RegisteredQuantizer& q = *spec.registered;
      if (is_weight ? !q.for_weights : !q.for_activations) continue;
      compare(spec, is_weight, x.to(type), grad.to(type),
              fmt::format("{} {} {} x {} {}", to_string(spec), is_weight ? "weight" : "input",
                          x.size(0), x.size(1), at::toString(type)));
    }
  }
}

TEST_F(RegisteredGpu, ValuesAndGradientsAreThoseOfTheCpu) {
  for (const auto& [m, k] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {1, 48}, {7, 31}, {13, 257}, {33, 640}, {5, 2048}}) {
    const at::Tensor x = rows_of_kinds(m, k), grad = normal({m, k}, 32);
    for (const RegisteredQuantizer* quantizer : registered_quantizers()) {
      for (const QuantSpec& spec : specs_of(*quantizer)) {
        if (fits(spec, k)) compare_everywhere(spec, x, grad);
        if (HasFailure()) return;
      }
    }
  }
}

// One layer: a registered quantizer on both sides, on one beside a grid, on one beside nothing.
TEST_F(RegisteredGpu, ProductsAndTheirGradientsAreThoseOfTheCpu) {
  constexpr int64_t kRows = 33, kColumns = 96, kOutputs = 40;
  const at::Tensor x = normal({kRows, kColumns}, 41, at::kFloat);
  const at::Tensor w = normal({kOutputs, kColumns}, 42, at::kFloat, 0.1);
  const at::Tensor grad = normal({kRows, kOutputs}, 43, at::kFloat);
  const std::vector<std::pair<const char*, const char*>> sides = {
      {"absmean_ternary", "absmax8"},
      {"paretoq2.hadamard", "int4.hadamard.trust"},
      {"int4.hadamard.trust", "pact4.hadamard"},
      {"paretoq_ternary", "none"},
      {"none", "lsq_plus4"},
      {"lsq1.hadamard", "lsq1.hadamard"}};
  for (const auto& [weight, input] : sides) {
    const QuantRecipe recipe{"custom", spec_from_string(weight), spec_from_string(input)};
    std::vector<at::Tensor> results[2];
    for (const bool on_gpu : {false, true}) {
      const auto place = [&](const at::Tensor& t) { return on_gpu ? t.cuda() : t; };
      QuantLinearState state(recipe, at::kFloat, "layer");
      const at::Tensor a = leaf(place(x), at::kFloat), b = leaf(place(w), at::kFloat);
      state.make_registered_sides(kOutputs, kColumns, b.detach().options());
      state.set_beginning(true);
      quant_linear(a, b, state);
      state.set_beginning(false);
      const at::Tensor y = quant_linear(a, b, state);
      (y * place(grad)).sum().backward();
      results[on_gpu] = {y.detach(), a.grad(), b.grad()};
      for (const LearnedTensor& t : state.learned()) results[on_gpu].push_back(t.value.grad());
    }
    ASSERT_EQ(results[0].size(), results[1].size());
    for (size_t i = 0; i < results[0].size(); ++i) {
      EXPECT_LT(testing::relative_error(results[1][i].cpu(), results[0][i]), 1e-4)
          << weight << " x " << input << " result " << i;
    }
  }
}

}  // namespace
}  // namespace quest::ops
