// The float operations of the engine on a GPU (quest/kernels/cuda/deploy.h, score_rows.h) against
// the CPU's: equal bits.
#include <cmath>
#include <limits>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>

#include "quest/kernels/cuda/deploy.h"
#include "quest/kernels/cuda/score_rows.h"
#include "quest/kernels/deploy.h"
#include "quest/kernels/hadamard_quantize.h"
#include "quest/quant/quantizer.h"
#include "quest/runtime_gpu/testing_device.h"

namespace quest {
namespace {

namespace cpu = kernels::deploy;
namespace gpu = kernels::cuda::deploy;
using kernels::cuda::QuantizedRows;
using ops::current_stream;
using ops::data;
using testing::expect_same_bits;
using testing::fits;
using testing::normal;
using testing::unwritten;

class DeployGpu : public testing::GpuTest {};

constexpr float kEps = 1e-5f;

const std::vector<int64_t> kSizes = {1,    8,    16,   31,   33,    47,    48,   64,   80,
                                     96,   128,  255,  640,  1000,  1040,  2048, 2056, 4080,
                                     4096, 5128, 5632, 8192, 11008, 16512, 32768};

std::vector<QuantSpec> specs() {
  std::vector<QuantSpec> out;
  for (const char* name :
       {"int1.hadamard.trust", "int4.hadamard.trust", "int8.trust", "ternary.hadamard.trust",
        "gauss3.ste", "fp4.hadamard.trust", "none", "none.hadamard"}) {
    out.push_back(spec_from_string(name));
  }
  return out;
}

// What the engine on a CPU makes of rows (packed_linear.cpp), beside what a call on the GPU wrote.
class Quantized {
 public:
  Quantized(const QuantSpec& spec, int64_t m, int64_t k)
      : spec_(spec),
        codes_(unwritten({m, k}, at::kChar)),
        units_(unwritten({m}, at::kFloat)),
        values_(unwritten({m, k}, at::kFloat)) {}

  QuantizedRows out() const {
    QuantizedRows rows;
    if (spec_.is_quantized()) rows.codes = data<int8_t>(codes_);
    rows.units = data<float>(units_);
    rows.values = data<float>(values_);
    rows.values_are_bfloat16 = false;
    return rows;
  }

  // rms_norm of x (M,C), on the CPU, was quantized.
  void expect_norm(const at::Tensor& x, const at::Tensor& weight, const std::string& what) const {
    const int64_t m = x.size(0), c = x.size(1);
    const at::Tensor y = at::empty_like(x);
    if (!spec_.is_quantized()) {
      cpu::rms_norm(data<float>(x), data<float>(weight), m, c, kEps, data<float>(y));
      return expect(y, what);
    }
    const at::Tensor factors = at::empty({m}, at::kFloat);
    for (int64_t i = 0; i < m; ++i) {
      data<float>(factors)[i] = cpu::rms_norm_by_unit(data<float>(x) + i * c, data<float>(weight),
                                                      c, kEps, data<float>(y) + i * c);
    }
    expect(y, what, factors);
  }
  // x (M,K) on the CPU was quantized, with units times `factors`.
  void expect(const at::Tensor& x, const std::string& what, const at::Tensor& factors = {}) const {
    const int64_t m = x.size(0), k = x.size(1);
    const at::Tensor codes = at::empty({m, k}, at::kChar), units = at::ones({m}, at::kFloat);
    at::Tensor values = at::empty({m, k}, at::kFloat);
    if (spec_.is_quantized()) {
      kernels::hadamard_quantize<float>(spec_, data<float>(x), m, k, data<int8_t>(codes),
                                        data<float>(units), nullptr);
      if (factors.defined()) units.mul_(factors);
      kernels::dequantize_rows<float>(spec_, data<int8_t>(codes), data<float>(units), m, k,
                                      data<float>(values));
      expect_same_bits(codes_, codes, what + " codes");
    } else if (spec_.hadamard) {
      kernels::hadamard_rows<float>(data<float>(x), m, k, data<float>(values));
    } else {
      values = x;
    }
    expect_same_bits(units_, units, what + " units");
    expect_same_bits(values_, values, what + " values");
  }

 private:
  QuantSpec spec_;
  at::Tensor codes_, units_, values_;
};

// Rows of different kinds: normal, zeros, one spike, tiny, constant.
at::Tensor rows_of_kinds(int64_t k, uint64_t seed) {
  const at::Tensor x = normal({6, k}, seed, at::kFloat);
  x[1].zero_();
  x[2].zero_()[k / 2] = 3.0;
  x[3] *= 1e-18;
  x[4].fill_(0.37);
  x[5] *= 1e6;
  return x;
}

TEST_F(DeployGpu, SumNormAndQuantizerHaveTheBitsOfTheCpu) {
  for (const int64_t c : kSizes) {
    const at::Tensor x = rows_of_kinds(c, 1), delta = rows_of_kinds(c, 2).flip(0).contiguous();
    const at::Tensor weight = normal({c}, 3, at::kFloat), gpu_weight = weight.cuda();
    const int64_t m = x.size(0);
    const at::Tensor sum = x.clone(), y = at::empty_like(x), plain = at::empty_like(x);
    cpu::add(data<float>(delta), m * c, data<float>(sum));
    cpu::rms_norm(data<float>(sum), data<float>(weight), m, c, kEps, data<float>(y));
    cpu::rms_norm(data<float>(x), data<float>(weight), m, c, kEps, data<float>(plain));
    const at::Tensor gpu_delta = delta.cuda();
    for (const QuantSpec& spec : specs()) {
      if (!fits(spec, c)) continue;
      const std::string what = fmt::format("{} C={}", to_string(spec), c);
      const Quantized both(spec, m, c), alone(spec, m, c);
      const at::Tensor h = x.cuda(), gpu_x = x.cuda();  // in place, as the engine does
      gpu::add_norm_quantize(spec, data<float>(h), data<float>(gpu_delta), data<float>(gpu_weight),
                             kEps, m, c, data<float>(h), both.out(), current_stream());
      gpu::add_norm_quantize(spec, data<float>(gpu_x), nullptr, data<float>(gpu_weight), kEps, m, c,
                             nullptr, alone.out(), current_stream());
      expect_same_bits(h, sum, what + " h");
      both.expect_norm(sum, weight, what + " with delta");
      alone.expect_norm(x, weight, what);
      if (HasFailure()) return;
    }
    const at::Tensor h = unwritten({m, c}, at::kFloat), got = unwritten({m, c}, at::kFloat);
    const at::Tensor gpu_x = x.cuda();
    gpu::add_norm(data<float>(gpu_x), data<float>(gpu_delta), data<float>(gpu_weight), kEps, m, c,
                  data<float>(h), data<float>(got), current_stream());
    expect_same_bits(h, sum, fmt::format("h C={}", c));
    expect_same_bits(got, y, fmt::format("y C={}", c));
    gpu::add_norm(data<float>(gpu_x), nullptr, data<float>(gpu_weight), kEps, m, c, nullptr,
                  data<float>(gpu_x), current_stream());
    expect_same_bits(gpu_x, plain, fmt::format("y in place C={}", c));
    if (HasFailure()) return;
  }
}

// SwiGLU (M,F) itself.
at::Tensor plain_swiglu(const at::Tensor& gate_up, int64_t m, int64_t f) {
  const at::Tensor y = unwritten({m, f}, at::kFloat);
  QuantizedRows out;
  out.values = data<float>(y);
  out.values_are_bfloat16 = false;
  gpu::swiglu_quantize(QuantSpec{}, data<float>(gate_up), m, f, out, current_stream());
  return y;
}

// Few rows, which long ones spread over several blocks, and many.
TEST_F(DeployGpu, SwigluAndQuantizerHaveTheBitsOfTheCpu) {
  for (const int64_t f : kSizes) {
    for (const int64_t m : {3, 17}) {
      const at::Tensor gate_up = testing::quick_normal({m, 2 * f});
      gate_up[1] *= 30.0;
      gate_up[2] *= 1e-12;
      const at::Tensor y = at::empty({m, f}, at::kFloat), device = gate_up.cuda();
      cpu::swiglu(data<float>(gate_up), m, f, data<float>(y));
      const std::string shape = fmt::format("{} x {}", m, f);
      for (const QuantSpec& spec : specs()) {
        if (!fits(spec, f)) continue;
        const Quantized got(spec, m, f), given(spec, m, f);
        gpu::swiglu_quantize(spec, data<float>(device), m, f, got.out(), current_stream());
        got.expect(y, fmt::format("swiglu {} {}", to_string(spec), shape));
        const at::Tensor values = y.cuda();
        gpu::quantize(spec, data<float>(values), m, f, given.out(), current_stream());
        given.expect(y, fmt::format("quantize {} {}", to_string(spec), shape));
        if (HasFailure()) return;
      }
      const at::Tensor got = plain_swiglu(device, m, f);
      expect_same_bits(got, y, "swiglu " + shape);
    }
  }
}

// Every sign, both ends of exp, and infinities.
TEST_F(DeployGpu, SwigluHasTheBitsOfTheCpuOverTheWholeRangeOfExp) {
  constexpr int64_t kF = 32000, kRows = 16;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const at::Tensor gate = (at::arange(kRows * kF, at::kDouble) / (kRows * kF) * 216 - 108)
                              .to(at::kFloat)
                              .view({kRows, kF});
  gate[0][0] = 0.0f;
  gate[0][1] = -0.0f;
  gate[0][2] = kInfinity;
  gate[0][3] = -kInfinity;
  gate[0][4] = 1e-42f;
  const at::Tensor up = normal({kRows, kF}, 5, at::kFloat);
  const at::Tensor gate_up = at::cat({gate, up}, 1).contiguous(), y = at::empty_like(gate);
  cpu::swiglu(data<float>(gate_up), kRows, kF, data<float>(y));
  y[0][3] = 0;  // -inf * 0 is NaN, whose bits are not promised
  const at::Tensor got = plain_swiglu(gate_up.cuda(), kRows, kF);
  EXPECT_TRUE(std::isnan(got[0][3].item<float>()));
  got[0][3] = 0;
  expect_same_bits(got, y, "swiglu");
}

TEST_F(DeployGpu, RowsThatAreNotFiniteGetTheUnitNaN) {
  const QuantSpec spec = spec_from_string("int4.hadamard.trust");
  const at::Tensor x = normal({3, 256}, 6, at::kFloat);
  x[1][17] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor device = x.cuda(), weight = at::ones({256}, device.options());
  const Quantized got(spec, 3, 256);
  const at::Tensor units = unwritten({3}, at::kFloat);
  QuantizedRows out = got.out();
  out.units = data<float>(units);
  gpu::add_norm_quantize(spec, data<float>(device), nullptr, data<float>(weight), kEps, 3, 256,
                         nullptr, out, current_stream());
  EXPECT_TRUE(std::isfinite(units[0].item<float>()));
  EXPECT_TRUE(std::isnan(units[1].item<float>()));
  EXPECT_TRUE(std::isfinite(units[2].item<float>()));
}

TEST_F(DeployGpu, WrongRowsAreRefused) {
  const at::Tensor x = unwritten({1, 40000}, at::kFloat);
  const Quantized out(QuantSpec{}, 1, 40000);
  const auto quantize = [&](const char* spec, int64_t k) {
    gpu::quantize(spec_from_string(spec), data<float>(x), 1, k, out.out(), current_stream());
  };
  EXPECT_THROW(quantize("int4.hadamard.trust", 24), Error);  // no Hadamard block
  EXPECT_THROW(quantize("int4.trust", 40000), Error);        // too long
}

TEST_F(DeployGpu, ScoresHaveTheBitsOfTheCpu) {
  for (const int64_t v : {1, 2, 15, 16, 17, 1000, 1024, 1025, 5000, 32000, 128256}) {
    constexpr int64_t kM = 5;
    const at::Tensor logits = normal({kM, v}, 9, at::kFloat, 4.0);
    std::vector<int32_t> targets;
    for (int64_t row = 0; row < kM; ++row) {
      targets.push_back(static_cast<int32_t>(row * 7919 % v));
    }
    targets[1] = static_cast<int32_t>(logits[1].argmax().item<int64_t>());
    // Two largest: only the first of them is greedy.
    logits[2][0] = 100.0f;
    logits[2][v - 1] = 100.0f;
    targets[2] = static_cast<int32_t>(v - 1);
    logits[3][v / 2] = std::numeric_limits<float>::quiet_NaN();
    logits[4].fill_(-std::numeric_limits<float>::infinity());
    logits[4][v / 3] = 2.5f;
    const at::Tensor logprob = unwritten({kM}, at::kFloat), greedy = unwritten({kM}, at::kByte);
    const at::Tensor device = logits.cuda(), device_targets = testing::to_gpu(targets);
    gpu::score_rows(data<float>(device), data<int32_t>(device_targets), kM, v, data<float>(logprob),
                    data<uint8_t>(greedy), current_stream());
    const at::Tensor got = logprob.cpu(), got_greedy = greedy.cpu();
    for (int64_t row = 0; row < kM; ++row) {
      const std::string what = fmt::format("V={} row {}", v, row);
      const float* x = data<float>(logits) + row * v;
      const int32_t target = targets[static_cast<size_t>(row)];
      const auto sum = cpu::log_sum_exp(x, v);
      const float value = data<float>(got)[row];
      if (std::isnan(sum.value)) {
        EXPECT_TRUE(std::isnan(value)) << what;
        continue;
      }
      EXPECT_EQ(value,
                static_cast<float>(std::min(static_cast<double>(x[target]) - sum.value, 0.0)))
          << what;
      const bool is_greedy =
          x[target] == sum.largest && std::find(x, x + target, sum.largest) == x + target;
      EXPECT_EQ(data<uint8_t>(got_greedy)[row], is_greedy ? 1 : 0) << what;
    }
    gpu::score_rows(data<float>(device), data<int32_t>(device_targets), kM, v, data<float>(logprob),
                    nullptr, current_stream());
  }
}

}  // namespace
}  // namespace quest
