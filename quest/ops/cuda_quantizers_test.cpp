// The GPU's quantizers, alone and fused, against the scalar definitions. Skipped where no GPU can
// be used.
#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include "quest/kernels/cuda/hadamard_quantize.h"
#include "quest/kernels/cuda/rms_norm.h"
#include "quest/kernels/cuda/swiglu.h"
#include "quest/kernels/hadamard_quantize.h"
#include "quest/ops/dispatch.h"
#include "quest/ops/gpu.h"
#include "quest/ops/quantized_tensor.h"
#include "quest/ops/testing_gpu.h"
#include "quest/ops/testing_tensors.h"

namespace quest::ops {
namespace {

using testing::CudaKernels;
using testing::expect_same_bits;
using testing::fits;
using testing::normal;
using testing::unwritten;
namespace gpu = kernels::cuda;

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

}  // namespace
}  // namespace quest::ops
