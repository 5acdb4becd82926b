#include "quest/ops/quantized_tensor.h"

#include <cmath>
#include <limits>
#include <span>
#include <string_view>

#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>

#include "quest/ops/testing_tensors.h"
#include "quest/quant/hadamard.h"
#include "quest/quant/quantizer.h"

namespace quest::ops {
namespace {

using testing::normal;

// Every grid with codes, both bases, every estimator.
const char* const kCodeSpecs[] = {"int4.hadamard.trust",      "int1.hadamard.clip1.3",
                                  "int8.hadamard.trust_s0.5", "int2.trust",
                                  "int5.hadamard.ste",        "ternary.clip",
                                  "fp4.hadamard.trust",       "fp4.hadamard.trust_halfgap",
                                  "gauss3.hadamard.trust",    "gauss4_converged.clip",
                                  "int4_4of8.hadamard.trust"};

int64_t mask_bytes(int64_t k) { return (k + 7) / 8; }

// Row by row through the definition.
template <class Real>
QuantizedTensor by_definition(const QuantSpec& spec, const at::Tensor& x) {
  const int64_t m = x.size(0), k = x.size(1);
  const auto columns = static_cast<size_t>(k);
  const auto type = std::is_same_v<Real, double> ? at::kDouble : at::kFloat;
  const at::Tensor input = x.to(type);
  QuantizedTensor out{at::empty({m, k}, at::kChar), at::empty({m}, type),
                      at::empty({m, mask_bytes(k)}, at::kByte), at::empty({m, k}, type)};
  for (int64_t row = 0; row < m; ++row) {
    const auto bytes = static_cast<size_t>(mask_bytes(k));
    out.units.data_ptr<Real>()[row] =
        quantize_row<Real>(spec, std::span<const Real>(input.data_ptr<Real>() + row * k, columns),
                           {.codes = {out.codes.data_ptr<int8_t>() + row * k, columns},
                            .mask = {out.mask.data_ptr<uint8_t>() + row * mask_bytes(k), bytes},
                            .values = {out.values.data_ptr<Real>() + row * k, columns}});
  }
  return out;
}

TEST(QuantizedTensor, CodesUnitsAndMasksAreThoseOfTheDefinition) {
  for (const char* name : kCodeSpecs) {
    const QuantSpec spec = spec_from_string(name);
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      for (const auto& [m, k] : {std::pair<int64_t, int64_t>{1, 16}, {5, 48}, {131, 384}}) {
        SCOPED_TRACE(fmt::format("{} {} {} x {}", name, at::toString(type), m, k));
        const at::Tensor x = normal({m, k}, 7, type);
        const QuantizedTensor expected = by_definition<float>(spec, x);
        const QuantizedTensor q = quantize(spec, x, type, true, "x");
        ASSERT_TRUE(q.has_codes());
        EXPECT_FALSE(q.values.defined());
        EXPECT_TRUE(at::equal(q.codes, expected.codes));
        EXPECT_TRUE(at::equal(q.units, expected.units));
        if (spec.estimator == GradientEstimator::kSte) {
          EXPECT_FALSE(q.mask.defined());  // all ones: nothing is stored
        } else {
          EXPECT_TRUE(at::equal(q.mask, expected.mask));
        }
        EXPECT_FALSE(quantize(spec, x, type, false, "x").mask.defined());
        EXPECT_TRUE(at::equal(dequantize(spec, q, at::kFloat), expected.values));
        EXPECT_TRUE(at::equal(dequantize(spec, q, type), expected.values.to(type)));
      }
    }
  }
}

// Masks of the test above are not all ones or all zeros, or it would show little.
TEST(QuantizedTensor, SomeValuesAreMasked) {
  for (const char* name : {"int4.hadamard.trust", "int1.hadamard.clip1.3", "fp4.hadamard.trust"}) {
    const at::Tensor x = normal({131, 384}, 7, at::kFloat);
    const at::Tensor mask = quantize(spec_from_string(name), x, at::kFloat, true, "x").mask;
    EXPECT_GT(mask.ne(0xff).sum().item<int64_t>(), 100) << name;
    EXPECT_GT(mask.ne(0).sum().item<int64_t>(), 5000) << name;
  }
}

TEST(QuantizedTensor, DoubleRunsTheDefinitionInDouble) {
  for (const char* name : kCodeSpecs) {
    const QuantSpec spec = spec_from_string(name);
    const at::Tensor x = normal({9, 48}, 3);
    const QuantizedTensor expected = by_definition<double>(spec, x);
    const QuantizedTensor q = quantize(spec, x, at::kDouble, true, "x");
    EXPECT_FALSE(q.has_codes()) << name;
    EXPECT_TRUE(at::equal(dequantize(spec, q, at::kDouble), expected.values)) << name;
    EXPECT_EQ(q.mask.defined(), spec.estimator != GradientEstimator::kSte) << name;
    if (q.mask.defined()) {
      EXPECT_TRUE(at::equal(q.mask, expected.mask)) << name;
    }
  }
}

TEST(QuantizedTensor, GridsWithoutCodesGiveValues) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const at::Tensor x = normal({9, 48}, 5, type);
    // Nothing to do: the tensor itself, without a copy.
    const QuantizedTensor same = quantize(spec_from_string("none"), x, type, true, "x");
    EXPECT_TRUE(at::equal(same.values, x));
    if (type != at::kDouble) {
      EXPECT_EQ(same.values.data_ptr(), x.data_ptr());
    }
    EXPECT_FALSE(same.mask.defined());

    for (const char* name : {"none.hadamard", "masked_4of8", "masked_4of8.hadamard"}) {
      SCOPED_TRACE(fmt::format("{} {}", name, at::toString(type)));
      const QuantSpec spec = spec_from_string(name);
      const QuantizedTensor q = quantize(spec, x, type, true, "x");
      const QuantizedTensor expected =
          type == at::kDouble ? by_definition<double>(spec, x) : by_definition<float>(spec, x);
      EXPECT_FALSE(q.has_codes());
      EXPECT_TRUE(at::equal(q.values, expected.values.to(type)));
      EXPECT_EQ(q.mask.defined(), spec.is_quantized());
      if (q.mask.defined()) {
        EXPECT_TRUE(at::equal(q.mask, expected.mask));
      }
    }
  }
}

TEST(QuantizedTensor, BackwardIsThatOfTheDefinition) {
  for (const char* name : {"int4.hadamard.trust", "int4.trust", "int4.hadamard.ste", "int4.ste",
                           "masked_4of8.hadamard", "none.hadamard", "none"}) {
    const QuantSpec spec = spec_from_string(name);
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
      SCOPED_TRACE(fmt::format("{} {}", name, at::toString(type)));
      const int64_t m = 70, k = 48;
      const QuantizedTensor q = quantize(spec, normal({m, k}, 5, type), type, true, "x");
      const at::Tensor grad = normal({m, k}, 6, type);
      const auto real = type == at::kDouble ? at::kDouble : at::kFloat;
      at::Tensor expected = grad.to(real).clone();
      const auto run = [&](auto element) {
        using Real = decltype(element);
        for (int64_t row = 0; row < m; ++row) {
          std::span<const uint8_t> bits;
          if (q.mask.defined()) {
            bits = {q.mask.data_ptr<uint8_t>() + row * mask_bytes(k),
                    static_cast<size_t>(mask_bytes(k))};
          }
          const std::span<Real> values(expected.data_ptr<Real>() + row * k, static_cast<size_t>(k));
          quantize_row_backward<Real>(spec, bits, values, values);
        }
      };
      type == at::kDouble ? run(double{}) : run(float{});
      EXPECT_TRUE(at::equal(quantize_backward(spec, q.mask, grad.clone()), expected.to(type)));
    }
  }
}

// The limit of the mask for rows of this rms, as docs/method.md states it.
double stated_limit(const QuantSpec& spec, double rms) {
  const double e = 1e-8, s = spec.trust_scale, top_code = std::exp2(spec.bits) - 1;
  const bool is_clip = spec.estimator == GradientEstimator::kClip;
  switch (spec.grid) {
    case Grid::kUniform: {
      const double alpha = optimal_gaussian_scale(spec.bits);
      return is_clip ? spec.clip_scale * (alpha * rms + e) : s * alpha / top_code * rms;
    }
    case Grid::kUniform4of8: {
      const double alpha = optimal_gaussian_scale(4), r = spec.hadamard ? rms + e : rms;
      const double scale = alpha * r + (spec.hadamard ? 0 : e);
      return is_clip ? spec.clip_scale * scale : s * alpha / 15 * r;
    }
    case Grid::kTernary: {
      const double alpha = optimal_gaussian_scale_ternary();
      return is_clip ? spec.clip_scale * (alpha * rms + e) : s * alpha / 2 * rms;
    }
    case Grid::kFp4:
      if (is_clip) return spec.clip_scale * 0.48707976 * 6 * (rms + e);
      return s * (rms + e) *
             (spec.estimator == GradientEstimator::kTrustHalfGap ? 0.48707976 : 0.3185765743);
    default: {
      const auto levels = gaussian_levels(spec.bits, spec.grid == Grid::kGaussianConverged);
      const double top = levels.back(), below = levels[levels.size() - 2];
      return is_clip ? spec.clip_scale * top * (rms + e) : s * (top - below) / 2 * (rms + e);
    }
  }
}

// With the transform H, values q0, transformed values h0 and mask m0 of a point x0 held fixed, the
// gradient is that of the surrogate
//   y(x) = q0 + m0 (H x - h0),   m0 = |q0 - h0| <= limit (trust), |h0| <= limit (clip), 1 (ste).
TEST(QuantizedTensor, GradientIsThatOfTheStatedSurrogate) {
  int64_t masked = 0;
  for (const char* grid : {"int1", "int2", "int4", "int8", "ternary", "fp4", "gauss1", "gauss3",
                           "gauss4_converged", "int4_4of8"}) {
    for (const char* estimator :
         {"trust", "trust_s0.5", "trust_halfgap", "clip", "clip1.3", "ste"}) {
      if (std::string_view(estimator) == "trust_halfgap" && std::string_view(grid) != "fp4")
        continue;
      for (const char* basis : {"", ".hadamard"}) {
        const QuantSpec spec = spec_from_string(fmt::format("{}{}.{}", grid, basis, estimator));
        SCOPED_TRACE(to_string(spec));
        const int64_t m = 2, k = 32;
        const at::Tensor x = normal({m, k}, 11), weights = normal({m, k}, 12);
        const auto rotated = [&](const at::Tensor& values) {
          at::Tensor out = values.clone();
          for (int64_t row = 0; spec.hadamard && row < m; ++row) {
            hadamard_transform<double>({out.data_ptr<double>() + row * k, static_cast<size_t>(k)});
          }
          return out;
        };
        const QuantizedTensor q = quantize(spec, x, at::kDouble, true, "x");
        const at::Tensor q0 = q.values, h0 = rotated(x);
        at::Tensor m0 = at::empty_like(h0);
        for (int64_t row = 0; row < m; ++row) {
          const double limit = stated_limit(spec, h0[row].square().mean().sqrt().item<double>());
          m0[row] = spec.estimator == GradientEstimator::kSte ? (h0[row] == h0[row])
                    : spec.estimator == GradientEstimator::kClip
                        ? h0[row].abs() <= limit
                        : (q0[row] - h0[row]).abs() <= limit;
        }
        masked += m0.eq(0).sum().item<int64_t>();
        const auto surrogate = [&] {
          return (weights * (q0 + m0 * (rotated(x) - h0))).sum().item<double>();
        };
        testing::expect_within(quantize_backward(spec, q.mask, weights.clone()),
                               testing::numeric_gradient(surrogate, x), 1e-8, "gradient");
      }
    }
  }
  EXPECT_GT(masked, 500);
}

TEST(QuantizedTensor, ThreadsChangeNothing) {
  const QuantSpec spec = spec_from_string("int4.hadamard.trust");
  const at::Tensor x = normal({515, 512}, 1, at::kFloat);
  const auto run = [&](int threads) {
    const testing::ThreadCount count(threads);
    QuantizedTensor q = quantize(spec, x, at::kFloat, true, "x");
    q.values = quantize_backward(spec, q.mask, x.clone());
    return q;
  };
  const QuantizedTensor one = run(1);
  for (const int threads : {2, 3, 7}) {
    const QuantizedTensor many = run(threads);
    EXPECT_TRUE(at::equal(many.codes, one.codes)) << threads;
    EXPECT_TRUE(at::equal(many.units, one.units)) << threads;
    EXPECT_TRUE(at::equal(many.mask, one.mask)) << threads;
    EXPECT_TRUE(at::equal(many.values, one.values)) << threads;
  }
}

TEST(QuantizedTensor, NamesTensorAndFirstBadRow) {
  const testing::ThreadCount count(3);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    for (const char* name : {"int4.hadamard.trust", "int4.ste", "masked_4of8"}) {
      at::Tensor x = normal({600, 256}, 1, type);
      x[401][7].fill_(std::numeric_limits<double>::infinity());
      x[333][255].fill_(std::numeric_limits<double>::quiet_NaN());
      x[599][0].fill_(std::numeric_limits<double>::infinity());
      EXPECT_QUEST_ERROR(quantize(spec_from_string(name), x, type, true, "blocks.3.weight"),
                         ErrorKind::kNumeric, "blocks.3.weight: the RMS of row 333 ");
    }
  }
  // Finite values whose squares are not, in float; in double they are.
  at::Tensor huge = normal({2, 16}, 1, at::kFloat);
  huge[1].fill_(1e30);
  const QuantSpec spec = spec_from_string("int4.trust");
  EXPECT_QUEST_ERROR(quantize(spec, huge, at::kFloat, true, "x"), ErrorKind::kNumeric, "row 1 ");
  quantize(spec, huge.to(at::kDouble), at::kDouble, true, "x");
}

TEST(QuantizedTensor, RefusesWhatItCannotQuantize) {
  const QuantSpec spec = spec_from_string("int4.hadamard.trust");
  const at::Tensor x = normal({4, 32}, 1, at::kFloat);
  EXPECT_QUEST_ERROR(quantize(spec, x.t(), at::kFloat, true, "w"), ErrorKind::kUsage, "w: ");
  EXPECT_QUEST_ERROR(quantize(spec, x[0], at::kFloat, true, "w"), ErrorKind::kUsage,
                     "1 dimensions");
  EXPECT_QUEST_ERROR(quantize(spec, x.to(at::kHalf), at::kHalf, true, "w"), ErrorKind::kUsage,
                     "Half");
  EXPECT_QUEST_ERROR(quantize(spec, normal({4, 24}, 1, at::kFloat), at::kFloat, true, "w"),
                     ErrorKind::kUsage, "24");
  EXPECT_QUEST_ERROR(quantize(spec_from_string("int4_4of8.trust"), normal({4, 12}, 1, at::kFloat),
                              at::kFloat, true, "w"),
                     ErrorKind::kUsage, "12");
}

}  // namespace
}  // namespace quest::ops
