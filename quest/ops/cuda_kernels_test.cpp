// The GPU kernels (quest/kernels/cuda) against the scalar definitions. Skipped where no GPU can be
// used.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include <ATen/Context.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "quest/kernels/cross_entropy.h"
#include "quest/kernels/cuda/cross_entropy.h"
#include "quest/kernels/cuda/fp8_gradient.h"
#include "quest/kernels/cuda/gemm_lowbit.h"
#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/kernels/cuda/rms_norm.h"
#include "quest/kernels/cuda/rope.h"
#include "quest/kernels/cuda/swiglu.h"
#include "quest/kernels/hadamard_quantize.h"
#include "quest/kernels/rms_norm.h"
#include "quest/kernels/rope.h"
#include "quest/kernels/swiglu.h"
#include "quest/ops/attention.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"
#include "quest/ops/gpu_optimizer.h"
#include "quest/ops/linear_cross_entropy.h"
#include "quest/ops/quant_linear.h"
#include "quest/ops/quantized_tensor.h"
#include "quest/ops/testing_gpu.h"
#include "quest/ops/testing_tensors.h"

namespace quest::ops {
namespace {

using testing::expect_same_bits;
using testing::expect_within;
using testing::fits;
using testing::normal;
using testing::unwritten;
namespace gpu = kernels::cuda;

class CudaKernels : public testing::GpuTest {};

// Rows of different kinds: normal, zeros, one spike, tiny, constant.
at::Tensor rows_of_kinds(int64_t k, at::ScalarType type) {
  const at::Tensor x = normal({9, k}, 7);
  x[1].zero_();
  x[2].zero_()[k / 2] = 3.0;
  x[3] *= 1e-20;
  x[4].fill_(0.37);
  x[5] *= 1e6;
  x[6] = x[6].abs();
  return x.to(type);
}

std::vector<QuantSpec> all_specs() {
  std::vector<QuantSpec> out;
  for (const char* name :
       {"int1.hadamard.clip1.3", "int2.hadamard.trust", "int3.hadamard.trust_s0.5",
        "int4.hadamard.trust", "int5.trust", "int6.hadamard.ste", "int7.clip",
        "int8.hadamard.trust", "int1.clip1.25", "ternary.clip", "ternary.hadamard.trust",
        "gauss3.ste", "gauss4.hadamard.trust", "gauss3_converged.trust",
        "fp4.hadamard.trust_halfgap", "fp4.trust", "int4_4of8.trust", "int4_4of8.hadamard.trust"}) {
    out.push_back(spec_from_string(name));
  }
  return out;
}

const std::vector<int64_t> kRowSizes = {1,   8,   16,  31,   33,   48,   64,   96,    255,  256,
                                        257, 640, 704, 1024, 2048, 5632, 8320, 11008, 16512};

TEST_F(CudaKernels, QuantizersHaveTheBitsOfTheScalarDefinition) {
  for (const QuantSpec& spec : all_specs()) {
    for (const int64_t k : kRowSizes) {
      if (!fits(spec, k)) continue;
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        const std::string what = fmt::format("{} K={} {}", to_string(spec), k, at::toString(type));
        const at::Tensor x = rows_of_kinds(k, type), device_x = x.cuda();
        const int64_t m = x.size(0), bytes = (k + 7) / 8;
        const at::Tensor codes = at::empty({m, k}, at::kChar), units = at::empty({m}, at::kFloat);
        const at::Tensor mask = at::empty({m, bytes}, at::kByte), values = at::empty({m, k}, type);
        const at::Tensor got_codes = unwritten({m, k}, at::kChar),
                         got_units = unwritten({m}, at::kFloat);
        const at::Tensor got_mask = unwritten({m, bytes}, at::kByte);
        const at::Tensor got_values = unwritten({m, k}, type), decoded = unwritten({m, k}, type);
        with_kernel_type(type, "test", [&](auto element) {
          using T = decltype(element);
          kernels::hadamard_quantize<T>(spec, data<T>(x), m, k, data<int8_t>(codes),
                                        data<float>(units), data<uint8_t>(mask), IsaLevel::kScalar);
          kernels::dequantize_rows<T>(spec, data<int8_t>(codes), data<float>(units), m, k,
                                      data<T>(values), IsaLevel::kScalar);
          gpu::hadamard_quantize<T>(
              spec, data<T>(device_x), m, k,
              {data<int8_t>(got_codes), data<float>(got_units), data<uint8_t>(got_mask),
               got_values.data_ptr(), type == at::kBFloat16},
              current_stream());
          gpu::dequantize_rows<T>(spec, data<int8_t>(got_codes), data<float>(got_units), m, k,
                                  data<T>(decoded), current_stream());
        });
        expect_same_bits(got_codes, codes, what + " codes");
        expect_same_bits(got_units, units, what + " units");
        expect_same_bits(got_mask, mask, what + " mask");
        expect_same_bits(got_values, values, what + " values");
        expect_same_bits(decoded, values, what + " decoded");
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(CudaKernels, RowsThatAreNotFiniteGetTheUnitNan) {
  const QuantSpec spec = spec_from_string("int4.hadamard.trust");
  at::Tensor x = normal({4, 256}, 1, at::kFloat);
  x[1][3] = std::numeric_limits<float>::quiet_NaN();
  x[2][200] = std::numeric_limits<float>::infinity();
  const QuantizedTensor q = quantize(spec, x.cuda(), at::kFloat, true, "x");
  const at::Tensor units = q.units.cpu();
  for (int64_t row = 0; row < 4; ++row) {
    EXPECT_EQ(std::isnan(units[row].item<float>()), row == 1 || row == 2) << row;
  }
}

TEST_F(CudaKernels, GridsWithoutCodesGiveTheValuesOfTheDefinition) {
  for (const char* name : {"none.hadamard", "masked_4of8", "masked_4of8.hadamard"}) {
    const QuantSpec spec = spec_from_string(name);
    for (const int64_t k : {16, 48, 640, 2048}) {
      const at::Tensor x = rows_of_kinds(k, at::kFloat);
      const QuantizedTensor expected = quantize(spec, x, at::kFloat, true, "x");
      const QuantizedTensor got = quantize(spec, x.cuda(), at::kFloat, true, "x");
      expect_same_bits(got.values, expected.values, name);
      if (expected.mask.defined()) expect_same_bits(got.mask, expected.mask, name);
    }
  }
}

TEST_F(CudaKernels, BackwardOfQuantizersHasTheBitsOfTheScalarDefinition) {
  for (const char* name : {"int4.hadamard.trust", "int4.trust", "none.hadamard"}) {
    const QuantSpec spec = spec_from_string(name);
    for (const int64_t k : kRowSizes) {
      if (!fits(spec, k)) continue;
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        for (const bool masked : {true, false}) {
          const int64_t m = 5;
          const at::Tensor grad = normal({m, k}, 3, type);
          const at::Tensor mask =
              at::randint(0, 256, {m, (k + 7) / 8}, at::TensorOptions(at::kByte));
          const at::Tensor expected = grad.clone(), got = grad.cuda(), bits = mask.cuda();
          with_kernel_type(type, "test", [&](auto element) {
            using T = decltype(element);
            kernels::mask_hadamard<T>(spec, data<T>(expected),
                                      masked ? data<uint8_t>(mask) : nullptr, m, k,
                                      data<T>(expected), IsaLevel::kScalar);
            gpu::mask_hadamard<T>(spec, data<T>(got), masked ? data<uint8_t>(bits) : nullptr, m, k,
                                  data<T>(got), current_stream());
          });
          expect_same_bits(got, expected, fmt::format("{} K={} {}", name, k, at::toString(type)));
        }
      }
    }
  }
}

TEST_F(CudaKernels, ProductOfCodesIsExact) {
  const std::vector<std::array<int64_t, 3>> shapes = {
      {1, 8, 16}, {3, 16, 128}, {127, 136, 160}, {129, 256, 256}, {300, 640, 2048}, {64, 24, 5632}};
  for (const auto& [m, n, k] : shapes) {
    if (!gpu::gemm_lowbit_supports(n, k)) GTEST_SKIP() << "no int8 product on this GPU";
    for (const int largest : {1, 3, 15, 127}) {
      for (const bool extreme : {false, true}) {
        const auto codes = [&](int64_t rows) {
          const at::Tensor c = at::randint(-largest, largest + 1, {rows, k}, at::kChar);
          return extreme ? at::full({rows, k}, largest, at::kChar) : c;
        };
        const at::Tensor a = codes(m), w = codes(n);
        const at::Tensor au = normal({m}, 1, at::kFloat).abs(),
                         wu = normal({n}, 2, at::kFloat).abs();
        const at::Tensor sums = at::mm(a.to(at::kDouble), w.to(at::kDouble).t());
        // float(acc) * (unit * unit), each one rounding.
        const at::Tensor expected = sums.to(at::kFloat) * (au.unsqueeze(1) * wu.unsqueeze(0));
        for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
          const at::Tensor out = unwritten({m, n}, type);
          const at::Tensor da = a.cuda(), dw = w.cuda(), dau = au.cuda(), dwu = wu.cuda();
          with_kernel_type(type, "test", [&](auto element) {
            using T = decltype(element);
            gpu::gemm_lowbit<T>(data<int8_t>(da), data<float>(dau), data<int8_t>(dw),
                                data<float>(dwu), m, n, k, data<T>(out), current_stream());
          });
          expect_same_bits(out, expected.to(type),
                           fmt::format("{} x {} x {} up to {}", m, n, k, largest));
        }
      }
    }
  }
}

TEST_F(CudaKernels, Fp8OperandsAreRoundedWithOneScalePerRowOrColumn) {
  for (const auto& [m, n] : std::vector<std::array<int64_t, 2>>{
           {16, 16}, {48, 80}, {144, 640}, {272, 2048}, {32, 11264}, {4112, 128}}) {
    const at::Tensor dy = (normal({m, n}, 1) * 1e-4).to(at::kBFloat16);
    dy[3].zero_();
    dy.select(1, 5).zero_();
    const at::Tensor sw = normal({n}, 2, at::kFloat).abs(), sx = normal({m}, 3, at::kFloat).abs();
    const auto as_fp8 = [](const at::Tensor& v, const at::Tensor& scales) {
      // As the kernels: times the rounded inverse.
      return (v * scales.reciprocal()).to(at::kFloat8_e4m3fn).view(at::kByte);
    };
    const auto scales_of = [](const at::Tensor& largest) {
      return at::where(largest > 0, largest * (1.0f / 448.0f), at::ones_like(largest));
    };
    const at::Tensor by_row = dy.to(at::kFloat) * sw.unsqueeze(0);
    const at::Tensor row_scales = scales_of(by_row.abs().amax(1));
    const at::Tensor by_column = dy.to(at::kFloat) * sx.unsqueeze(1);
    const at::Tensor column_scales = scales_of(by_column.abs().amax(0));
    const at::Tensor d = dy.cuda(), dsw = sw.cuda(), dsx = sx.cuda();
    const at::Tensor rows = unwritten({m, n}, at::kByte), turned = unwritten({n, m}, at::kByte);
    const at::Tensor got_rows = unwritten({m}, at::kFloat),
                     got_columns = unwritten({n}, at::kFloat);
    const at::Tensor space = unwritten({m + n}, at::kInt);
    gpu::fp8_gradient(data<bfloat16>(d), data<float>(dsw), data<float>(dsx), m, n, {},
                      data<uint8_t>(rows), data<float>(got_rows), data<uint8_t>(turned),
                      data<float>(got_columns), data<uint32_t>(space), current_stream());
    const std::string what = fmt::format("{} x {}", m, n);
    expect_same_bits(got_rows, row_scales, what + " row scales");
    expect_same_bits(got_columns, column_scales, what + " column scales");
    expect_same_bits(rows, as_fp8(by_row, row_scales.unsqueeze(1)), what + " rows");
    expect_same_bits(turned, as_fp8(by_column, column_scales.unsqueeze(0)).t().contiguous(),
                     what + " columns");

    const at::Tensor codes = at::randint(-15, 16, {m, n}, at::kChar), dc = codes.cuda();
    const at::Tensor turned_codes = unwritten({n, m}, at::kByte);
    gpu::fp8_turn_codes(data<int8_t>(dc), m, n, data<uint8_t>(turned_codes), current_stream());
    expect_same_bits(turned_codes,
                     codes.to(at::kFloat).to(at::kFloat8_e4m3fn).view(at::kByte).t().contiguous(),
                     what + " codes");
  }
}

// By chance: only neighbours are taken, and their mean over many counters is the value.
TEST_F(CudaKernels, GradientsRoundedByChanceKeepTheirMean) {
  const int64_t m = 32, n = 48, draws = 4000;
  for (const gpu::Fp8Format format : {gpu::Fp8Format::kE4m3, gpu::Fp8Format::kE5m2}) {
    const bool e5m2 = format == gpu::Fp8Format::kE5m2;
    const at::ScalarType type = e5m2 ? at::kFloat8_e5m2 : at::kFloat8_e4m3fn;
    const at::Tensor dy0 = normal({m, n}, 1, at::kBFloat16);
    dy0[0] *= 1e-3;  // subnormal beside its row's largest
    dy0[0][0] = 1.0;
    const at::Tensor dy = dy0.cuda();
    const at::Tensor ones = at::full({n}, 1.0f, at::TensorOptions(at::kFloat)).cuda();
    const at::Tensor rows = unwritten({m, n}, at::kByte), turned = unwritten({n, m}, at::kByte);
    const at::Tensor rs = unwritten({m}, at::kFloat), cs = unwritten({n}, at::kFloat);
    const at::Tensor space = unwritten({m + n}, at::kInt);
    const at::Tensor counter = at::zeros({1}, at::TensorOptions(at::kInt).device(at::kCUDA));
    at::Tensor sum = at::zeros({m, n}, at::kDouble).cuda(), turned_sum = sum.t().contiguous();
    at::Tensor first;
    bool differs = false;
    for (int64_t i = 0; i < draws; ++i) {
      counter.fill_(i);
      gpu::fp8_gradient(data<bfloat16>(dy), data<float>(ones), data<float>(ones), m, n,
                        {format, data<int32_t>(counter), 3}, data<uint8_t>(rows), data<float>(rs),
                        data<uint8_t>(turned), data<float>(cs), data<uint32_t>(space),
                        current_stream());
      const at::Tensor values = rows.view(type).to(at::kDouble) * rs.unsqueeze(1);
      sum += values;
      turned_sum += turned.view(type).to(at::kDouble) * cs.unsqueeze(1);
      if (i == 0) first = values.clone();
      if (i == 1) differs = !at::equal(values, first);
    }
    EXPECT_TRUE(differs);
    const at::Tensor x = testing::as_double(dy0);
    // One step of the format at the value; the mean of n draws is off by step / 2 / sqrt(n) at most
    // in its deviation.
    const double fraction = e5m2 ? 0.25 : 0.125, least = e5m2 ? 0x1p-16 : 0x1p-9;
    const auto step = [&](const at::Tensor& scales) {
      return x.abs() * fraction + scales.cpu().to(at::kDouble) * least;
    };
    const double deviations = 6 * 0.5 / std::sqrt(static_cast<double>(draws));
    expect_within((sum / draws).cpu(), x, step(rs.unsqueeze(1)) * deviations, "rows");
    expect_within((turned_sum / draws).cpu().t(), x, step(cs.unsqueeze(0)) * deviations, "columns");
    expect_within(first.cpu(), x, step(rs.unsqueeze(1)), "neighbours");
  }
}

TEST_F(CudaKernels, TinyGradientsBecomeZeroInFp8) {
  const int64_t m = 16, n = 32;
  const at::Tensor dy =
      at::full({m, n}, 1e-38f, at::TensorOptions(at::kFloat)).to(at::kBFloat16).cuda();
  dy[1].zero_();
  const at::Tensor ones = at::full({n}, 1.0f, at::TensorOptions(at::kFloat)).cuda();
  const at::Tensor rows = unwritten({m, n}, at::kByte), turned = unwritten({n, m}, at::kByte);
  const at::Tensor rs = unwritten({m}, at::kFloat), cs = unwritten({n}, at::kFloat);
  const at::Tensor space = unwritten({m + n}, at::kInt);
  gpu::fp8_gradient(data<bfloat16>(dy), data<float>(ones), data<float>(ones), m, n, {},
                    data<uint8_t>(rows), data<float>(rs), data<uint8_t>(turned), data<float>(cs),
                    data<uint32_t>(space), current_stream());
  EXPECT_EQ(rows.sum().item<int64_t>(), 0);
  EXPECT_EQ(turned.sum().item<int64_t>(), 0);
}

// AdamW with clipping, by its formulas in double.
TEST_F(CudaKernels, OptimizerStepIsThatOfTheFormulas) {
  for (const int64_t n : {1, 3, 5, 31, 257, 100003}) {
    for (const double clip : {0.0, 0.5, 1e6}) {
      for (const double decay : {0.0, 0.1}) {
        for (const int64_t before : {0, 999}) {
          const AdamWStep settings{0.9, 0.95, 1e-8, decay};
          const double lr = 1e-2;
          const std::vector<at::Tensor> g = {normal({n}, 1, at::kFloat).cuda(),
                                             normal({2 * n + 1}, 2, at::kFloat).cuda()};
          const at::Tensor w0 = normal({n}, 3, at::kFloat), m0 = normal({n}, 4, at::kFloat) * 0.1;
          const at::Tensor v0 = normal({n}, 5, at::kFloat).square() * 0.1;
          const at::Tensor w = w0.cuda(), m = m0.cuda(), v = v0.cuda();
          const at::Tensor control = make_step_control();
          control.select(0, StepControl::kLearningRate).fill_(lr);
          control.select(0, StepControl::kUpdates).fill_(static_cast<double>(before));
          begin_step(g, clip, settings.beta1, settings.beta2, control);
          adamw_step(w, g[0], m, v, settings, control);

          const at::Tensor g0 = testing::as_double(g[0].cpu());
          const double norm = at::cat({g0, testing::as_double(g[1].cpu())}).norm().item<double>();
          const double factor = clip > 0 ? std::min(1.0, clip / (norm + 1e-6)) : 1.0;
          const auto t = static_cast<double>(before + 1);
          const at::Tensor gc = g0 * factor;
          const at::Tensor m1 = testing::as_double(m0) * 0.9 + gc * 0.1;
          const at::Tensor v1 = testing::as_double(v0) * 0.95 + gc * gc * 0.05;
          const at::Tensor direction =
              (m1 / (1 - std::pow(0.9, t))) / ((v1 / (1 - std::pow(0.95, t))).sqrt() + 1e-8);
          const at::Tensor w1 = testing::as_double(w0) * (1 - lr * decay) - direction * lr;
          const std::string what = fmt::format("n={} clip {} decay {} t={}", n, clip, decay, t);
          const at::Tensor c = control.cpu();
          EXPECT_NEAR(c[StepControl::kGradientNorm].item<double>(), norm, 1e-6 * norm) << what;
          EXPECT_EQ(c[StepControl::kUpdates].item<float>(), static_cast<float>(t)) << what;
          EXPECT_EQ(c[StepControl::kSkipped].item<float>(), 0.0f) << what;
          expect_within(m.cpu(), m1, m1.abs() * 1e-6 + 1e-6, what + " m");
          expect_within(v.cpu(), v1, v1.abs() * 1e-6 + 1e-9, what + " v");
          expect_within(w.cpu(), w1, w1.abs() * 1e-6 + direction.abs() * (lr * 2e-5), what + " w");

          // A loss or gradient that is not finite: nothing moves, nothing is counted.
          for (const bool by_loss : {true, false}) {
            const at::Tensor kept = w.clone();
            std::vector<at::Tensor> bad = {g[0].clone(), g[1].clone()};
            if (by_loss) {
              control.select(0, StepControl::kLoss).fill_(std::nan(""));
            } else {
              control.select(0, StepControl::kLoss).fill_(1.0);
              bad[1][n] = std::numeric_limits<float>::infinity();
            }
            begin_step(bad, clip, settings.beta1, settings.beta2, control);
            adamw_step(w, bad[0], m, v, settings, control);
            expect_same_bits(w, kept, what + " skipped");
            EXPECT_EQ(control.cpu()[StepControl::kSkipped].item<float>(), 1.0f);
            EXPECT_EQ(control.cpu()[StepControl::kUpdates].item<float>(), static_cast<float>(t));
          }
        }
      }
    }
  }
}

// cuDNN's, LibTorch's flash and the plain attention, with their gradients, against the CPU in
// double.
TEST_F(CudaKernels, AttentionIsThatOfTheDefinitionByEveryWay) {
  for (const bool same_bits : {false, true}) {
    at::globalContext().setDeterministicAlgorithms(same_bits, /*warn_only=*/true);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
    for (const auto& [heads, kv, d] :
         {std::array<int64_t, 3>{4, 4, 64}, {4, 2, 32}, {2, 2, 128}, {3, 3, 20}}) {
      for (const int64_t tokens : {1, 2, 33, 64, 300}) {
        for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
          const AttentionShape shape{heads, kv, d};
          const int64_t width = (heads + 2 * kv) * d;
          const at::Tensor qkv = normal({2, tokens, width}, 1, type);
          const at::Tensor grad = normal({2, tokens, heads * d}, 2, type);
          const at::Tensor angle = normal({tokens, d / 2}, 3, at::kFloat);
          const at::Tensor cos = angle.cos(), sin = angle.sin();
          const at::Tensor exact = testing::leaf(qkv, at::kDouble);
          const at::Tensor expected = causal_self_attention(exact, cos, sin, shape);
          expected.backward(grad.to(at::kDouble));
          const at::Tensor x = qkv.cuda().requires_grad_(true);
          const at::Tensor got = causal_self_attention(x * 1.0, cos.cuda(), sin.cuda(), shape);
          got.backward(grad.cuda());
          const double bound = type == at::kFloat ? 1e-5 : 1e-2;
          const std::string what = fmt::format("{}+{} heads of {}, T={} {} {}", heads, kv, d,
                                               tokens, at::toString(type), same_bits);
          EXPECT_LT(testing::relative_error(got.cpu(), expected), bound) << what;
          EXPECT_LT(testing::relative_error(x.grad().cpu(), exact.grad()), 2 * bound) << what;
        }
      }
    }
  }
  at::globalContext().setDeterministicAlgorithms(false, false);
}

// More tokens than one chunk of logits holds, some that do not count.
TEST_F(CudaKernels, HeadAndLossInChunksAreThoseOfTheCpu) {
  const int64_t v = 32000, c = 64, rows = 4096;
  const int64_t m = rows + 700;
  ASSERT_LT(logits_chunk_rows(v, 2, at::kCUDA), m);
  const at::Tensor x0 = normal({m, c}, 1, at::kBFloat16), w0 = normal({v, c}, 2, at::kFloat, 0.1);
  const at::Tensor targets = at::arange(m, at::kLong);
  for (int64_t i = 0; i < m; i += 7) targets[i] = -100;
  const auto run = [&](at::DeviceType device) {
    const at::Tensor x = testing::leaf(x0.to(device), at::kBFloat16);
    const at::Tensor w = testing::leaf(w0.to(device), at::kFloat);
    const at::Tensor loss =
        linear_cross_entropy(x, w, w.detach().to(at::kBFloat16), targets.to(device));
    (loss * 0.5).backward();
    return std::array<at::Tensor, 3>{loss.detach().cpu(), x.grad().cpu(), w.grad().cpu()};
  };
  const auto expected = run(at::kCPU), got = run(at::kCUDA);
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_LT(testing::relative_error(got[i], expected[i]), i == 0 ? 1e-4 : 1e-2) << i;
  }
}

TEST_F(CudaKernels, RmsNormIsWithinRoundingOfTheDefinition) {
  for (const int64_t c : {1, 31, 33, 48, 256, 257, 640, 2048, 8320, 16512}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const int64_t m = 7;
      const float eps = 1e-5f;
      const at::Tensor x = normal({m, c}, 1, type), w = normal({c}, 2, at::kFloat);
      const at::Tensor grad = normal({m, c}, 3, type), residual = normal({m, c}, 4, type);
      const at::Tensor y = at::empty_like(x), inverse = at::empty({m}, at::kFloat);
      const at::Tensor grad_x = at::empty_like(x), grad_w = at::zeros({c}, at::kFloat);
      const at::Tensor dx = x.cuda(), dw = w.cuda(), dgrad = grad.cuda(), dres = residual.cuda();
      const at::Tensor got_y = unwritten({m, c}, type), got_inverse = unwritten({m}, at::kFloat);
      const at::Tensor got_x = unwritten({m, c}, type), got_w = unwritten({c}, at::kFloat);
      const at::Tensor space = unwritten({gpu::rms_norm_backward_workspace(m, c)}, at::kFloat);
      with_kernel_type(type, "test", [&](auto element) {
        using T = decltype(element);
        kernels::rms_norm<T>(data<T>(x), data<float>(w), m, c, eps, data<T>(y),
                             data<float>(inverse), IsaLevel::kScalar);
        kernels::rms_norm_backward<T>(data<T>(grad), data<T>(x), data<float>(w),
                                      data<float>(inverse), data<T>(residual), m, c,
                                      data<T>(grad_x), data<float>(grad_w), IsaLevel::kScalar);
        gpu::add_rms_norm<T>(data<T>(dx), nullptr, data<float>(dw), eps, m, c, nullptr,
                             data<T>(got_y), data<float>(got_inverse), current_stream());
        gpu::rms_norm_backward<T>(nullptr, nullptr, data<T>(dgrad), data<T>(dx), data<float>(dw),
                                  data<float>(got_inverse), data<T>(dres), m, c, data<T>(got_x),
                                  data<float>(got_w), data<float>(space), current_stream());
      });
      const std::string what = fmt::format("C={} {}", c, at::toString(type));
      // Sums of C terms in float against double, then one rounding to the type.
      const double sums = 8 * std::sqrt(static_cast<double>(c)) * 0x1p-24 + 8 * 0x1p-24;
      const double one = testing::rounding_error(type) * 2 + sums;
      expect_within(got_inverse.cpu(), inverse, inverse.abs() * sums, what + " inverse");
      expect_within(got_y.cpu(), y, y.abs().to(at::kDouble) * one, what + " y");
      const at::Tensor scale = (grad.to(at::kDouble).abs() * w.abs() + 1) *
                               inverse.to(at::kDouble).unsqueeze(1) * (1 + x.to(at::kDouble).abs());
      expect_within(got_x.cpu(), grad_x, grad_x.to(at::kDouble).abs() * one + scale * sums * 4,
                    what + " grad_x");
      expect_within(got_w.cpu(), grad_w, 1e-4, what + " grad_w");
    }
  }
}

TEST_F(CudaKernels, FusedInputsHaveTheBitsOfTheSingleOperations) {
  for (const char* name :
       {"int4.hadamard.trust", "int1.hadamard.clip1.3", "gauss3.ste", "int4_4of8.hadamard.trust"}) {
    const QuantSpec spec = spec_from_string(name);
    for (const int64_t k : {16, 48, 640, 2048, 5632, 11008}) {
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        const std::string what = fmt::format("{} K={} {}", name, k, at::toString(type));
        const int64_t m = 33, bytes = (k + 7) / 8;
        if (!fits(spec, k)) continue;
        const at::Tensor x = normal({m, k}, 1, type).cuda(), delta = normal({m, k}, 2, type).cuda();
        const at::Tensor w = normal({k}, 3, at::kFloat).cuda();
        const at::Tensor gate_up = normal({m, 2 * k}, 4, type).cuda();
        const at::Tensor grad = normal({m, k}, 5, type).cuda(),
                         res = normal({m, k}, 6, type).cuda();
        struct Out {
          at::Tensor codes, units, mask;
          gpu::QuantizedRows rows() const {
            return {data<int8_t>(codes), data<float>(units), data<uint8_t>(mask), nullptr, false};
          }
        };
        const auto out = [&] {
          return Out{unwritten({m, k}, at::kChar), unwritten({m}, at::kFloat),
                     unwritten({m, bytes}, at::kByte)};
        };
        const auto expect_same = [&](const Out& a, const Out& b, const char* part) {
          expect_same_bits(a.codes, b.codes, what + part);
          expect_same_bits(a.units, b.units, what + part);
          expect_same_bits(a.mask, b.mask, what + part);
        };
        with_kernel_type(type, "test", [&](auto element) {
          using T = decltype(element);
          const kernels::cuda::Stream s = current_stream();
          const at::Tensor h = unwritten({m, k}, type), y = unwritten({m, k}, type);
          const at::Tensor h2 = unwritten({m, k}, type), inverse = unwritten({m}, at::kFloat);
          const at::Tensor inverse2 = unwritten({m}, at::kFloat);
          const Out single = out(), fused = out();
          gpu::add_rms_norm<T>(data<T>(x), data<T>(delta), data<float>(w), 1e-5f, m, k, data<T>(h),
                               data<T>(y), data<float>(inverse), s);
          gpu::hadamard_quantize<T>(spec, data<T>(y), m, k, single.rows(), s);
          gpu::add_rms_norm_hadamard_quantize<T>(spec, data<T>(x), data<T>(delta), data<float>(w),
                                                 1e-5f, m, k, data<T>(h2), data<float>(inverse2),
                                                 fused.rows(), s);
          expect_same(fused, single, " norm");
          expect_same_bits(h, x + delta, what + " sum");
          expect_same_bits(h2, h, what + " sum");
          expect_same_bits(inverse2, inverse, what + " inverse");

          const Out swiglu_single = out(), swiglu_fused = out();
          const at::Tensor a = unwritten({m, k}, type);
          gpu::swiglu<T>(data<T>(gate_up), m, k, data<T>(a), s);
          gpu::hadamard_quantize<T>(spec, data<T>(a), m, k, swiglu_single.rows(), s);
          gpu::swiglu_hadamard_quantize<T>(spec, data<T>(gate_up), m, k, swiglu_fused.rows(), s);
          expect_same(swiglu_fused, swiglu_single, " swiglu");

          // Backward: mask and transform first, then the gradient of the norm or of SwiGLU.
          const at::Tensor turned = grad.clone(),
                           space = unwritten({gpu::rms_norm_backward_workspace(m, k)}, at::kFloat);
          gpu::mask_hadamard<T>(spec, data<T>(turned), data<uint8_t>(fused.mask), m, k,
                                data<T>(turned), s);
          const at::Tensor gx = unwritten({m, k}, type), gx2 = unwritten({m, k}, type);
          const at::Tensor gw = unwritten({k}, at::kFloat), gw2 = unwritten({k}, at::kFloat);
          gpu::rms_norm_backward<T>(nullptr, nullptr, data<T>(turned), data<T>(h), data<float>(w),
                                    data<float>(inverse), data<T>(res), m, k, data<T>(gx),
                                    data<float>(gw), data<float>(space), s);
          gpu::rms_norm_backward<T>(&spec, data<uint8_t>(fused.mask), data<T>(grad), data<T>(h),
                                    data<float>(w), data<float>(inverse), data<T>(res), m, k,
                                    data<T>(gx2), data<float>(gw2), data<float>(space), s);
          expect_same_bits(gx2, gx, what + " norm backward");
          expect_same_bits(gw2, gw, what + " norm weight");
          const at::Tensor gg = unwritten({m, 2 * k}, type), gg2 = unwritten({m, 2 * k}, type);
          gpu::swiglu_backward<T>(nullptr, nullptr, data<T>(turned), data<T>(gate_up), m, k,
                                  data<T>(gg), s);
          gpu::swiglu_backward<T>(&spec, data<uint8_t>(fused.mask), data<T>(grad), data<T>(gate_up),
                                  m, k, data<T>(gg2), s);
          expect_same_bits(gg2, gg, what + " swiglu backward");
        });
        if (HasFailure()) return;
      }
    }
  }
}

// Normal rows, and between them rows of other kinds.
at::Tensor many_rows(int64_t m, int64_t k) {
  const at::Tensor x = at::randn({m, k}, at::TensorOptions(at::kBFloat16).device(at::kCUDA));
  const at::Tensor kinds = rows_of_kinds(k, at::kBFloat16).cuda();
  for (int64_t row = 0; row < m; row += 37) x[row].copy_(kinds[row % kinds.size(0)]);
  return x;
}

// Compared on the device, for they are many.
void expect_same_bits_of_many(const at::Tensor& a, const at::Tensor& b, const std::string& what) {
  if (!at::equal(a.view(at::kByte), b.view(at::kByte))) expect_same_bits(a, b, what);
}

// Many rows of bfloat16 are quantized by kernels of their own, by blocks that take rows in turn.
TEST_F(CudaKernels, ManyRowsHaveTheBitsOfFewAtATime) {
  struct Out {
    at::Tensor codes, units, mask, h, inverse;
  };
  at::manual_seed(1);
  for (const int64_t k : {128, 1024, 1152, 2048, 4096, 4224, 5632, 11008, 16384, 16512}) {
    const int64_t m = k <= 1152 ? 4500 : 1100;  // more than all blocks of a GPU at once
    const at::Tensor x = many_rows(m, k), delta = many_rows(m, k), gate_up = many_rows(m, 2 * k);
    const at::Tensor w = normal({k}, 4, at::kFloat).cuda();
    for (const char* name : {"int4.hadamard.trust", "int1.hadamard.clip1.3", "int8.hadamard.ste",
                             "ternary.hadamard.trust", "int2.trust", "int3.hadamard.trust_s0.5"}) {
      const QuantSpec spec = spec_from_string(name);
      const auto run = [&](int op, int64_t rows_at_once, bool masked) {
        const Out out{unwritten({m, k}, at::kChar), unwritten({m}, at::kFloat),
                      unwritten({m, k / 8}, at::kByte), unwritten({m, k}, at::kBFloat16),
                      unwritten({m}, at::kFloat)};
        for (int64_t row = 0; row < m; row += rows_at_once) {
          const int64_t count = std::min(rows_at_once, m - row);
          const gpu::QuantizedRows to{
              data<int8_t>(out.codes) + row * k, data<float>(out.units) + row,
              masked ? data<uint8_t>(out.mask) + row * (k / 8) : nullptr, nullptr, false};
          const auto* rows = data<bfloat16>(x) + row * k;
          switch (op) {
            case 0:
              gpu::hadamard_quantize<bfloat16>(spec, rows, count, k, to, current_stream());
              break;
            case 1:
              gpu::swiglu_hadamard_quantize<bfloat16>(spec, data<bfloat16>(gate_up) + 2 * row * k,
                                                      count, k, to, current_stream());
              break;
            default:  // with and without an addend
              gpu::add_rms_norm_hadamard_quantize<bfloat16>(
                  spec, rows, op == 2 ? data<bfloat16>(delta) + row * k : nullptr, data<float>(w),
                  1e-5f, count, k, data<bfloat16>(out.h) + row * k, data<float>(out.inverse) + row,
                  to, current_stream());
          }
        }
        return out;
      };
      for (int op = 0; op < 4; ++op) {
        const Out few = run(op, 100, true);
        for (const bool masked : {true, false}) {
          const Out many = run(op, m, masked);
          const std::string what = fmt::format("{} K={} operation {} ", name, k, op);
          expect_same_bits_of_many(many.codes, few.codes, what + "codes");
          expect_same_bits_of_many(many.units, few.units, what + "units");
          if (masked) expect_same_bits_of_many(many.mask, few.mask, what + "mask");
          expect_same_bits_of_many(many.h, few.h, what + "h");
          expect_same_bits_of_many(many.inverse, few.inverse, what + "inverse");
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_F(CudaKernels, OfManyRowsOnlyThoseThatAreNotFiniteGetTheUnitNan) {
  const QuantSpec spec = spec_from_string("int4.hadamard.trust");
  const at::Tensor x = many_rows(1000, 2048);
  x[700][3] = std::numeric_limits<float>::quiet_NaN();
  x[701][2000] = std::numeric_limits<float>::infinity();
  const QuantizedTensor q = quantize(spec, x, at::kBFloat16, true, "x");
  const at::Tensor units = q.units.cpu();
  for (int64_t row = 0; row < x.size(0); ++row) {
    EXPECT_EQ(std::isnan(units[row].item<float>()), row == 700 || row == 701) << row;
  }
}

// Shapes and grids that the int8 product does not take are multiplied as values.
TEST_F(CudaKernels, LinearLayersAreThoseOfTheCpuByEitherProduct) {
  for (const auto& [name, n, k, plan] : {std::tuple{"w4a4", 64, 128, ProductPlan::kIntegerCodes},
                                         {"w4a4", 67, 128, ProductPlan::kValues},
                                         {"w4a4_nohadamard", 64, 72, ProductPlan::kValues},
                                         {"w8a8", 64, 128, ProductPlan::kValues},
                                         {"gauss3", 64, 128, ProductPlan::kValues}}) {
    const QuantRecipe recipe = recipe_from_name(name);
    if (gpu_is_hopper()) {
      EXPECT_EQ(choose_product_plan(recipe, n, k, at::kFloat, at::kCUDA), plan) << name << n;
    }
    const auto run = [&, n = n, k = k](at::DeviceType device) {
      QuantLinearState state(recipe, at::kFloat, "layer");
      const at::Tensor x = normal({33, k}, 1, at::kFloat).to(device).requires_grad_(true);
      const at::Tensor w = normal({n, k}, 2, at::kFloat, 0.02).to(device).requires_grad_(true);
      const at::Tensor y = quant_linear(x, w, state);
      y.backward(normal({33, n}, 3, at::kFloat).to(device));
      return std::array<at::Tensor, 3>{y.detach().cpu(), x.grad().cpu(), w.grad().cpu()};
    };
    const auto expected = run(at::kCPU), got = run(at::kCUDA);
    if (plan == ProductPlan::kIntegerCodes && gpu_is_hopper()) {
      expect_same_bits(got[0], expected[0], name);
    }
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_LT(testing::relative_error(got[i], expected[i]), 2e-6) << name << " " << i;
    }
  }
}

TEST_F(CudaKernels, SwigluIsWithinRoundingOfTheDefinition) {
  for (const int64_t f : {1, 31, 33, 257, 640, 5632}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const int64_t m = 5;
      const at::Tensor gate_up = (normal({m, 2 * f}, 1) * 4).to(type),
                       grad = normal({m, f}, 2, type);
      gate_up[0].fill_(-200);  // exp overflows
      gate_up[1].fill_(200);
      const at::Tensor y = at::empty({m, f}, type), grad_in = at::empty_like(gate_up);
      const at::Tensor dg = gate_up.cuda(), dgrad = grad.cuda();
      const at::Tensor got = unwritten({m, f}, type), got_in = unwritten({m, 2 * f}, type);
      with_kernel_type(type, "test", [&](auto element) {
        using T = decltype(element);
        kernels::swiglu<T>(data<T>(gate_up), m, f, data<T>(y), IsaLevel::kScalar);
        kernels::swiglu_backward<T>(data<T>(grad), data<T>(gate_up), m, f, data<T>(grad_in),
                                    IsaLevel::kScalar);
        gpu::swiglu<T>(data<T>(dg), m, f, data<T>(got), current_stream());
        gpu::swiglu_backward<T>(nullptr, nullptr, data<T>(dgrad), data<T>(dg), m, f,
                                data<T>(got_in), current_stream());
      });
      const std::string what = fmt::format("F={} {}", f, at::toString(type));
      const double one = 2 * testing::rounding_error(type) + 64 * 0x1p-24;
      expect_within(got.cpu(), y, y.to(at::kDouble).abs() * one + 1e-30, what);
      const at::Tensor g = gate_up.to(at::kDouble).abs() + 1;
      const at::Tensor size = at::cat({g.narrow(1, f, f), g.narrow(1, 0, f)}, 1) *
                              at::cat({grad, grad}, 1).to(at::kDouble).abs();
      expect_within(got_in.cpu(), grad_in,
                    grad_in.to(at::kDouble).abs() * one + size * (64 * 0x1p-24),
                    what + " gradient");
    }
  }
}

TEST_F(CudaKernels, RopeHasTheBitsOfTheDefinition) {
  for (const auto& [heads, kv, d] :
       {std::array<int64_t, 3>{4, 4, 64}, {6, 2, 32}, {3, 1, 16}, {2, 2, 6}, {5, 5, 128}}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const int64_t tokens = 11, rows = 22, start = 3, width = (heads + 2 * kv) * d;
      const at::Tensor x = normal({rows, width}, 1, type), cos = normal({16, d / 2}, 2, at::kFloat);
      const at::Tensor sin = normal({16, d / 2}, 3, at::kFloat);
      std::vector<int32_t> late, early;
      for (int64_t r = 0; r < rows; ++r) {
        early.push_back(static_cast<int32_t>(r % tokens));
        late.push_back(static_cast<int32_t>(start + r % tokens));
      }
      const at::Tensor forward = x.clone(), back = x.clone(), got = x.cuda();
      const at::Tensor dc = cos.cuda(), ds = sin.cuda();
      const at::Tensor q = x.narrow(1, 0, heads * d).contiguous().cuda();
      const at::Tensor k = x.narrow(1, heads * d, kv * d).contiguous().cuda();
      const at::Tensor v = x.narrow(1, (heads + kv) * d, kv * d).contiguous().cuda();
      const at::Tensor gathered = unwritten({rows, width}, type);
      with_kernel_type(type, "test", [&](auto element) {
        using T = decltype(element);
        kernels::rope<T>(data<T>(forward), rows, width, heads + kv, d, data<float>(cos),
                         data<float>(sin), late.data(), +1, IsaLevel::kScalar);
        kernels::rope<T>(data<T>(back), rows, width, heads + kv, d, data<float>(cos),
                         data<float>(sin), early.data(), -1, IsaLevel::kScalar);
        gpu::rope<T>(data<T>(got), rows, width, heads + kv, d, tokens, start, data<float>(dc),
                     data<float>(ds), +1, current_stream());
        gpu::rope_backward_qkv<T>(data<T>(q), data<T>(k), data<T>(v), rows, heads, kv, d, tokens,
                                  data<float>(dc), data<float>(ds), data<T>(gathered),
                                  current_stream());
      });
      const std::string what =
          fmt::format("{} + {} heads of {} {}", heads, kv, d, at::toString(type));
      expect_same_bits(got, forward, what);
      expect_same_bits(gathered, back, what + " backward");
    }
  }
}

TEST_F(CudaKernels, CrossEntropyIsWithinRoundingOfTheDefinition) {
  for (const int64_t v : {1, 31, 257, 4096, 32000}) {
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      const int64_t m = 6;
      const at::Tensor logits = (normal({m, v}, 1) * 5).to(type);
      if (v > 1) logits[1][v - 1] = -std::numeric_limits<float>::infinity();
      const at::Tensor targets = at::arange(m, at::kLong).remainder(v);
      targets[2] = -100;
      targets[3] = v - 1;
      const at::Tensor grads = logits.clone(), losses = at::empty({m}, at::kFloat);
      const at::Tensor dl = logits.cuda(), dt = targets.cuda(), got = unwritten({m}, at::kFloat);
      const at::Tensor plain = logits.cuda(), got_plain = unwritten({m}, at::kFloat);
      const at::Tensor scale = at::full({}, 0.25f, at::TensorOptions(at::kFloat)).cuda();
      with_kernel_type(type, "test", [&](auto element) {
        using T = decltype(element);
        kernels::cross_entropy<T>(data<T>(grads), data<int64_t>(targets), m, v, 0.25f,
                                  data<float>(losses), IsaLevel::kScalar);
        gpu::cross_entropy<T>(data<T>(dl), data<int64_t>(dt), m, v, data<float>(scale),
                              data<float>(got), current_stream());
        gpu::cross_entropy<T>(data<T>(plain), data<int64_t>(dt), m, v, nullptr,
                              data<float>(got_plain), current_stream());
      });
      const std::string what = fmt::format("V={} {}", v, at::toString(type));
      expect_within(got.cpu(), losses, losses.abs() * 1e-5 + 1e-5, what);
      expect_same_bits(got_plain, got, what + " without gradient");
      expect_same_bits(plain, logits, what + " logits stay");
      expect_within(dl.cpu(), grads,
                    grads.to(at::kDouble).abs() * (2 * testing::rounding_error(type) + 1e-5) + 1e-9,
                    what + " gradient");
    }
  }
  const at::Tensor logits = normal({2, 8}, 1, at::kFloat).cuda();
  const at::Tensor targets = at::full({2}, 8, at::TensorOptions(at::kLong).device(at::kCUDA));
  const at::Tensor losses = unwritten({2}, at::kFloat);
  gpu::cross_entropy<float>(data<float>(logits), data<int64_t>(targets), 2, 8, nullptr,
                            data<float>(losses), current_stream());
  EXPECT_TRUE(std::isnan(losses[0].item<float>())) << "a target outside the vocabulary";
}

}  // namespace
}  // namespace quest::ops
