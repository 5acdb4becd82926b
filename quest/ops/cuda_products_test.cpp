// The GPU's products of codes and of FP8 gradients against exact ones. Skipped where no GPU can be
// used.
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "quest/kernels/cuda/fp8_gradient.h"
#include "quest/kernels/cuda/gemm_lowbit.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"
#include "quest/ops/quant_linear.h"
#include "quest/ops/testing_gpu.h"
#include "quest/ops/testing_tensors.h"
#include "quest/quant/hadamard.h"

namespace quest::ops {
namespace {

using testing::CudaKernels;
using testing::expect_same_bits;
using testing::expect_within;
using testing::normal;
using testing::unwritten;
namespace gpu = kernels::cuda;

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
        const at::Tensor da = a.cuda(), dw = w.cuda(), dau = au.cuda(), dwu = wu.cuda();
        for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
          for (const auto tile : {gpu::GemmTile::kFastest, gpu::GemmTile::kSmall,
                                  gpu::GemmTile::kMedium, gpu::GemmTile::kLarge}) {
            const at::Tensor out = unwritten({m, n}, type);
            with_kernel_type(type, "test", [&](auto element) {
              using T = decltype(element);
              gpu::gemm_lowbit<T>(data<int8_t>(da), data<float>(dau), data<int8_t>(dw),
                                  data<float>(dwu), m, n, k, data<T>(out), current_stream(), tile);
            });
            expect_same_bits(out, expected.to(type),
                             fmt::format("{} x {} x {} up to {}, tile {}", m, n, k, largest,
                                         static_cast<int>(tile)));
          }
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

// Rows (float) by the definition, in place.
void rotate(const at::Tensor& rows) {
  const int64_t length = rows.size(1);
  for (int64_t r = 0; r < rows.size(0); ++r) {
    hadamard_transform<float>({data<float>(rows) + r * length, static_cast<size_t>(length)});
  }
}

// Rows (float) rotated by the definition, as FP8 with a scale each.
struct RotatedRows {
  at::Tensor bytes, scales;
};
RotatedRows rotated_rows(const at::Tensor& x, at::ScalarType type) {
  const at::Tensor rows = x.clone();
  rotate(rows);
  const float most = type == at::kFloat8_e5m2 ? 57344.0f : 448.0f;
  const at::Tensor largest = rows.abs().amax(1);
  const at::Tensor scales = at::where(largest > 0, largest * (1.0f / most), at::ones_like(largest));
  // The product may pass the largest value by a rounding.
  const at::Tensor scaled = (rows * scales.reciprocal().unsqueeze(1)).clamp(-most, most);
  return {scaled.to(type).view(at::kByte), scales};
}

TEST_F(CudaKernels, RotatedRowsAreThoseOfTheDefinition) {
  // Blocks of 16, 32, 64 and 128; rows that end within, at and beyond what a block of threads
  // takes.
  for (const auto& [m, n] : std::vector<std::array<int64_t, 2>>{
           {3, 16}, {5, 48}, {16, 96}, {7, 192}, {33, 640}, {2, 2048}, {4, 2064}, {3, 11264}}) {
    const at::Tensor x = (normal({m, n}, 1) * 1e-4).to(at::kBFloat16);
    x[1].zero_();
    x[0][n - 1] = 3.0;  // an outlier
    const at::Tensor factor = normal({n}, 2, at::kFloat).abs();
    const at::Tensor dx = x.cuda(), df = factor.cuda();
    const at::Tensor scales = unwritten({m}, at::kFloat);
    for (const at::ScalarType type : {at::kFloat8_e4m3fn, at::kFloat8_e5m2}) {
      const bool e5m2 = type == at::kFloat8_e5m2;
      const std::string what = fmt::format("{} x {} {}", m, n, at::toString(type));
      const at::Tensor bytes = unwritten({m, n}, at::kByte);
      const gpu::Fp8Rounding rounding{e5m2 ? gpu::Fp8Format::kE5m2 : gpu::Fp8Format::kE4m3};
      for (const bool with_factor : {true, false}) {
        gpu::fp8_hadamard_rows<bfloat16>(
            data<bfloat16>(dx), with_factor ? data<float>(df) : nullptr, m, n, rounding,
            data<uint8_t>(bytes), data<float>(scales), current_stream());
        const at::Tensor values = x.to(at::kFloat);
        const RotatedRows expected =
            rotated_rows(with_factor ? values * factor.unsqueeze(0) : values, type);
        expect_same_bits(scales, expected.scales, what + " scales");
        expect_same_bits(bytes, expected.bytes, what);
      }
    }
    // Codes in e4m3, in place.
    const at::Tensor codes =
        at::randint(-15, 16, {m, n}, at::kChar).to(at::kFloat).to(at::kFloat8_e4m3fn);
    const at::Tensor in_place = codes.view(at::kByte).cuda();
    gpu::fp8_hadamard_rows<uint8_t>(data<uint8_t>(in_place), nullptr, m, n, {},
                                    data<uint8_t>(in_place), data<float>(scales), current_stream());
    const RotatedRows expected = rotated_rows(codes.to(at::kFloat), at::kFloat8_e4m3fn);
    expect_same_bits(scales, expected.scales, fmt::format("{} x {} scales of codes", m, n));
    expect_same_bits(in_place, expected.bytes, fmt::format("{} x {} codes", m, n));
  }
}

TEST_F(CudaKernels, RotatedRowsRefuseLengthsWithoutABlock) {
  const at::Tensor x = at::zeros({2, 24}, at::kBFloat16).cuda(),
                   out = unwritten({2, 24}, at::kByte);
  const at::Tensor scales = unwritten({2}, at::kFloat);
  EXPECT_QUEST_ERROR(
      gpu::fp8_hadamard_rows<bfloat16>(data<bfloat16>(x), nullptr, 2, 24, {}, data<uint8_t>(out),
                                       data<float>(scales), current_stream()),
      ErrorKind::kUsage, "24");
}

TEST_F(CudaKernels, ARowThatIsNotFiniteIsNanInFp8) {
  const at::Tensor x = at::zeros({2, 32}, at::kBFloat16);
  x[0][3] = std::numeric_limits<float>::infinity();
  const at::Tensor dx = x.cuda(), out = unwritten({2, 32}, at::kByte);
  const at::Tensor scales = unwritten({2}, at::kFloat);
  gpu::fp8_hadamard_rows<bfloat16>(data<bfloat16>(dx), nullptr, 2, 32, {}, data<uint8_t>(out),
                                   data<float>(scales), current_stream());
  const at::Tensor values =
      out.cpu().view(at::kFloat8_e4m3fn).to(at::kFloat) * scales.cpu().unsqueeze(1);
  EXPECT_TRUE(values[0].isfinite().logical_not().all().item<bool>());
  EXPECT_TRUE(values[1].eq(0).all().item<bool>());
}

QuantLinearState::Fp8Backward fp8_way(bool e5m2, bool hadamard) {
  QuantLinearState::Fp8Backward how;
  how.e5m2 = e5m2;
  how.hadamard = hadamard;
  return how;
}

at::Tensor layer_weight(int64_t n, int64_t k) { return normal({n, k}, 2, at::kFloat, 0.02); }

struct LayerGradients {
  at::Tensor x, w;
};
LayerGradients layer_gradients(const at::Tensor& grad_y, int64_t k,
                               const std::optional<QuantLinearState::Fp8Backward>& fp8) {
  const int64_t m = grad_y.size(0), n = grad_y.size(1);
  QuantLinearState state(recipe_from_name("w4a4"), at::kBFloat16, "layer");
  if (fp8) state.use_fp8_backward(n, k, *fp8);
  const at::Tensor x = normal({m, k}, 1, at::kBFloat16).cuda().requires_grad_(true);
  const at::Tensor w = layer_weight(n, k).cuda().requires_grad_(true);
  quant_linear(x, w, state).backward(grad_y.to(at::kBFloat16).cuda());
  return {x.grad().cpu(), w.grad().cpu()};
}

// e4m3 has 3 bits behind the first: values are off by 1/16 at most, and by 0.026 of their norm; a
// product of two such matrices by the root of the sum of both squares, 0.037; with one in e5m2,
// twice as coarse, by 0.059.
TEST_F(CudaKernels, RotatedFp8GradientsAreWithinTheirRounding) {
  if (!gpu_has_fast_products()) GTEST_SKIP() << "FP8 row-wise products need a Hopper GPU";
  for (const auto& [m, n, k] : std::vector<std::array<int64_t, 3>>{
           {16, 16, 16}, {48, 80, 128}, {144, 192, 256}, {256, 384, 640}, {2064, 128, 48}}) {
    const at::Tensor grad_y = normal({m, n}, 3, at::kDouble, 1e-4);
    const LayerGradients exact = layer_gradients(grad_y, k, std::nullopt);
    for (const bool e5m2 : {false, true}) {
      const std::string what = fmt::format("{} x {} x {} {}", m, n, k, e5m2 ? "e5m2" : "e4m3");
      const LayerGradients got = layer_gradients(grad_y, k, fp8_way(e5m2, true));
      const double bound = e5m2 ? 0.09 : 0.06;
      for (const auto& [a, b] : {std::pair{got.x, exact.x}, {got.w, exact.w}}) {
        const double error = testing::relative_error(a, b);
        EXPECT_LT(error, bound) << what;
        EXPECT_GT(error, 1e-2) << what << ": FP8 must have been used";
      }
    }
  }
}

// Where a few values of a row are nearly all of it, their own rounding is the product's error: here
// 17 / 16 of a power of two, the worst of e4m3 (9 / 8 of e5m2). Rotated, it is an average one.
TEST_F(CudaKernels, RotationAveragesTheRoundingOfAFewLargeValues) {
  if (!gpu_has_fast_products()) GTEST_SKIP() << "FP8 row-wise products need a Hopper GPU";
  const int64_t m = 256, n = 2048, k = 128;
  // What is rounded is the gradient times the weight's units.
  const at::Tensor units =
      quantize(recipe_from_name("w4a4").weight, layer_weight(n, k), at::kFloat, false, "w").units;
  for (const bool e5m2 : {false, true}) {
    SCOPED_TRACE(e5m2 ? "e5m2" : "e4m3");
    const at::Tensor rounded = normal({m, n}, 3, at::kDouble, 1e-3);
    const double between = e5m2 ? 9.0 / 8 : 17.0 / 16;
    for (int64_t r = 0; r < m; ++r) {
      for (int64_t i = 0; i < 17; ++i) {
        // The first one makes the scale a power of two.
        rounded[r][(r * 131 + i * 120) % n] = i == 0 ? 1.75 * 256 : 256 * between;
      }
    }
    const at::Tensor grad_y = rounded / units.to(at::kDouble).unsqueeze(0);
    const at::Tensor exact = layer_gradients(grad_y, k, std::nullopt).x;
    const auto error = [&](bool hadamard) {
      return testing::relative_error(layer_gradients(grad_y, k, fp8_way(e5m2, hadamard)).x, exact);
    };
    const double plain = error(false);
    EXPECT_GT(plain, e5m2 ? 0.08 : 0.045);
    EXPECT_LT(error(true), 0.75 * plain);
  }
}

// By chance too, anew for each counter and layer.
TEST_F(CudaKernels, RotatedRowsRoundedByChanceKeepTheirMean) {
  const int64_t m = 4, n = 272, draws = 1000;
  const at::Tensor x = normal({m, n}, 1, at::kBFloat16), dx = x.cuda();
  const at::Tensor exact = x.to(at::kFloat);
  rotate(exact);
  const at::Tensor bytes = unwritten({m, n}, at::kByte), scales = unwritten({m}, at::kFloat);
  const at::Tensor counter = at::zeros({1}, at::TensorOptions(at::kInt).device(at::kCUDA));
  const auto draw = [&](int64_t i, uint32_t layer) {
    counter.fill_(i);
    gpu::fp8_hadamard_rows<bfloat16>(data<bfloat16>(dx), nullptr, m, n,
                                     {gpu::Fp8Format::kE4m3, data<int32_t>(counter), layer},
                                     data<uint8_t>(bytes), data<float>(scales), current_stream());
    return bytes.view(at::kFloat8_e4m3fn).to(at::kDouble) * scales.unsqueeze(1);
  };
  const at::Tensor first = draw(0, 3);
  EXPECT_TRUE(at::equal(draw(0, 3), first));
  EXPECT_FALSE(at::equal(draw(1, 3), first));
  EXPECT_FALSE(at::equal(draw(0, ~3U), first));
  at::Tensor sum = at::zeros_like(first);
  for (int64_t i = 0; i < draws; ++i) sum += draw(i, 3);
  const at::Tensor step =
      exact.abs().to(at::kDouble) * 0.125 + scales.cpu().to(at::kDouble).unsqueeze(1) * 0x1p-9;
  expect_within(first.cpu(), exact, step, "neighbours");
  expect_within((sum / draws).cpu(), exact, step * (3 / std::sqrt(static_cast<double>(draws))),
                "mean");
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

// Shapes and grids that the int8 product does not take are multiplied as values.
TEST_F(CudaKernels, LinearLayersAreThoseOfTheCpuByEitherProduct) {
  for (const auto& [name, n, k, plan] : {std::tuple{"w4a4", 64, 128, ProductPlan::kIntegerCodes},
                                         {"w4a4", 67, 128, ProductPlan::kValues},
                                         {"w4a4_nohadamard", 64, 72, ProductPlan::kValues},
                                         {"w8a8", 64, 128, ProductPlan::kValues},
                                         {"gauss3", 64, 128, ProductPlan::kValues}}) {
    const QuantRecipe recipe = recipe_from_name(name);
    if (gpu_has_fast_products()) {
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
    if (plan == ProductPlan::kIntegerCodes && gpu_has_fast_products()) {
      expect_same_bits(got[0], expected[0], name);
    }
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_LT(testing::relative_error(got[i], expected[i]), 2e-6) << name << " " << i;
    }
  }
}

}  // namespace
}  // namespace quest::ops
