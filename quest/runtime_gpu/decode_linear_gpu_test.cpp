// A layer of a decode step in one kernel (quest/kernels/cuda/decode_linear.h) against the kernels
// that it stands for, which have the CPU's bits: equal bits. Skipped where no GPU can be used.
#include <bit>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/arange.h>
#include <ATen/ops/exp2.h>
#include <ATen/ops/zeros.h>

#include "quest/base/testing.h"
#include "quest/kernels/cuda/decode_linear.h"
#include "quest/kernels/cuda/deploy.h"
#include "quest/quant/hadamard.h"
#include "quest/runtime_gpu/device_weight_testing.h"
#include "quest/runtime_gpu/rotated_rows_testing.h"
#include "quest/runtime_gpu/testing_device.h"

namespace quest {
namespace {

namespace gpu = kernels::cuda;
namespace deploy = gpu::deploy;
using ops::current_stream;
using ops::data;
using testing::expect_same_bits;
using testing::fits;
using testing::normal;
using testing::unwritten;
using Weight = testing::DeviceWeight;

class DecodeLinearGpu : public testing::GpuTest {};

constexpr float kEps = 1e-5f;

struct Outputs {
  at::Tensor out, acc;
};

// Quantizer, then product.
class Apart {
 public:
  Apart(const QuantSpec& spec, int64_t k)
      : spec_(spec), codes_(unwritten({1, k}, at::kChar)), units_(unwritten({1}, at::kFloat)) {}
  gpu::QuantizedRows rows() const {
    gpu::QuantizedRows r;
    r.codes = data<int8_t>(codes_);
    r.units = data<float>(units_);
    return r;
  }
  Outputs multiply(const Weight& w) const {
    Outputs o{unwritten({w.host.n}, at::kFloat), unwritten({w.host.n}, at::kInt)};
    gpu::packed_gemm<float>(w.device(), spec_, data<int8_t>(codes_), data<float>(units_), 1,
                            data<float>(o.out), current_stream(), data<int32_t>(o.acc));
    return o;
  }

 private:
  QuantSpec spec_;
  at::Tensor codes_, units_;
};

template <class Row>
Outputs in_one(const Weight& w, const QuantSpec& spec, const Row& row) {
  Outputs o{unwritten({w.host.n}, at::kFloat), unwritten({w.host.n}, at::kInt)};
  deploy::decode_linear(w.device(), spec, row, {data<float>(o.out), nullptr, data<int32_t>(o.acc)},
                        current_stream());
  return o;
}

void expect_same(const Outputs& got, const Outputs& expected, const std::string& what) {
  expect_same_bits(got.acc, expected.acc.cpu(), what + " acc");
  expect_same_bits(got.out, expected.out.cpu(), what + " out");
}

uint32_t* words(const at::Tensor& x) { return std::bit_cast<uint32_t*>(data<int32_t>(x)); }

// A row (K) as the kernel before decode_linear may leave it.
class Signs {
 public:
  Signs(const QuantSpec& spec, const at::Tensor& x) {
    const int64_t k = x.numel();
    const testing::RotatedRows rows(x.view({1, k}), spec.hadamard ? hadamard_block_size(k) : 1);
    chunks_ = rows.chunks.cuda();
    signs_ = rows.signs.cuda();
  }
  deploy::SignRow row() const { return {words(signs_), data<float>(chunks_)}; }

 private:
  at::Tensor chunks_, signs_;
};

Weight make_weight(const std::string& grid, const QuantSpec& activation, int64_t n, int64_t k) {
  Weight w(grid + ".ste", n, k, static_cast<unsigned>(n * 31 + k));
  if (gpu::needs_number_sums(w.spec, activation)) w.make_sums();
  return w;
}

// Rows of different kinds: normal, zeros, tiny, huge, one spike, and values of all sizes, of which
// some are next to where a code is decided (0 for an even number of levels).
std::vector<at::Tensor> rows_of_kinds(int64_t k) {
  std::vector<at::Tensor> rows;
  for (const double scale : {1.0, 0.0, 1e-18, 1e6}) {
    rows.push_back((normal({k}, 1, at::kFloat) * scale).to(at::kFloat).cuda());
  }
  rows.push_back(at::zeros({k}, rows[0].options()));
  rows.back()[k / 2] = 3.0;
  const at::Tensor sizes = at::exp2(-at::arange(k, at::kFloat).remainder(48));
  rows.push_back((normal({k}, 5, at::kFloat) * sizes).cuda());
  return rows;
}

struct Format {
  const char* weight;
  const char* activation;
};
const std::vector<Format> kFormats = {
    {"int1", "int1.hadamard.clip1.3"},
    {"int1", "int1.ste"},
    {"int1", "int4.hadamard.trust"},
    {"int2", "int2.hadamard.trust"},
    {"int3", "int3.hadamard.trust"},
    {"int4", "int4.hadamard.trust"},
    {"int4", "int8.hadamard.trust"},
    {"ternary", "ternary.hadamard.trust"},
    {"int2", "int8.ste"},
    {"int3", "int7.hadamard.trust"},  // the most planes beside one of ones
    {"ternary", "int5.ste"},
};

void expect_linear_alike(const Format& format, int64_t n, int64_t k) {
  const QuantSpec spec = spec_from_string(format.activation);
  if (!fits(spec, k)) return;
  const std::string what =
      fmt::format("{} x {}, N={} K={}", format.activation, format.weight, n, k);
  const Weight w = make_weight(format.weight, spec, n, k);
  ASSERT_TRUE(deploy::decode_linear_supports(w.spec, spec, n, k)) << what;
  const at::Tensor weight = normal({k}, 3, at::kFloat).cuda();
  const at::Tensor residual = normal({n}, 4, at::kFloat).cuda();
  for (const at::Tensor& x : rows_of_kinds(k)) {
    const Apart given(spec, k), normed(spec, k);
    deploy::quantize(spec, data<float>(x), 1, k, given.rows(), current_stream());
    const Outputs expected = given.multiply(w);
    expect_same(in_one(w, spec, deploy::GivenRow{data<float>(x)}), expected, what + " given");
    if (deploy::decode_takes_signs(w.spec, spec)) {
      expect_same(in_one(w, spec, Signs(spec, x).row()), expected, what + " signs");
    }
    const at::Tensor sum = residual.clone();
    deploy::decode_linear(w.device(), spec, deploy::GivenRow{data<float>(x)},
                          {data<float>(sum), data<float>(sum)}, current_stream());
    expect_same_bits(sum, (residual + expected.out).cpu(), what + " residual");
    deploy::add_norm_quantize(spec, data<float>(x), nullptr, data<float>(weight), kEps, 1, k,
                              nullptr, normed.rows(), current_stream());
    expect_same(in_one(w, spec, deploy::NormedRow{data<float>(x), data<float>(weight), kEps}),
                normed.multiply(w), what + " norm");
    if (::testing::Test::HasFailure()) return;
  }
}

TEST_F(DecodeLinearGpu, HasTheBitsOfQuantizerAndProduct) {
  for (const Format& format : kFormats) {
    for (const auto& [n, k] : std::vector<std::pair<int64_t, int64_t>>{{1, 32},
                                                                       {16, 64},
                                                                       {17, 96},
                                                                       {100, 160},
                                                                       {33, 1000},
                                                                       {48, 8},
                                                                       {70, 4096},
                                                                       {100, 4096 + 32},
                                                                       {4096 + 16, 1024},
                                                                       {40, 8192}}) {
      expect_linear_alike(format, n, k);
      if (HasFailure()) return;
    }
  }
  expect_linear_alike(kFormats[3], 70001, 256);  // more tiles than a block of each multiprocessor
}

void expect_mlp_alike(const Format& format, int64_t f, int64_t k) {
  const QuantSpec spec = spec_from_string(format.activation);
  if (!fits(spec, k) || !fits(spec, f)) return;
  const std::string what =
      fmt::format("{} x {}, F={} K={}", format.activation, format.weight, f, k);
  const Weight gate_up = make_weight(format.weight, spec, 2 * f, k);
  const Weight down = make_weight(format.weight, spec, 48, f);
  ASSERT_TRUE(deploy::decode_gate_up_supports(gate_up.spec, spec, 2 * f, k)) << what;
  ASSERT_TRUE(deploy::decode_swiglu_supports(down.spec, spec, 48, f)) << what;
  const at::Tensor norm = normal({k}, 3, at::kFloat).cuda();
  for (const at::Tensor& x : rows_of_kinds(k)) {
    const Apart input(spec, k), middle(spec, f);
    deploy::add_norm_quantize(spec, data<float>(x), nullptr, data<float>(norm), kEps, 1, k, nullptr,
                              input.rows(), current_stream());
    const Outputs pairs = input.multiply(gate_up);
    deploy::swiglu_quantize(spec, data<float>(pairs.out), 1, f, middle.rows(), current_stream());
    const at::Tensor values = unwritten({f}, at::kFloat);
    const at::Tensor chunks = unwritten({(f + 127) / 128}, at::kFloat);
    const at::Tensor signs = unwritten({(f + 31) / 32}, at::kInt);
    const Outputs expected = middle.multiply(down);
    const auto compare = [&](const deploy::SwigluMemory& memory, const std::string& kind) {
      const deploy::SwigluRow row =
          deploy::decode_gate_up(gate_up.device(), spec, {data<float>(x), data<float>(norm), kEps},
                                 spec, memory, current_stream());
      expect_same(in_one(down, spec, row), expected, what + kind);
    };
    compare({data<float>(values)}, "");
    if (deploy::decode_takes_signs(down.spec, spec)) {
      compare({nullptr, words(signs), data<float>(chunks)}, " signs");
    }
    if (::testing::Test::HasFailure()) return;
  }
}

TEST_F(DecodeLinearGpu, GateUpAndDownHaveTheBitsOfTheirParts) {
  for (const Format& format : kFormats) {
    for (const auto& [f, k] : std::vector<std::pair<int64_t, int64_t>>{{16, 32},
                                                                       {32, 64},
                                                                       {48, 96},
                                                                       {64, 256},
                                                                       {80, 128},
                                                                       {112, 128},
                                                                       {1040, 320},
                                                                       {5632, 64},
                                                                       {11008, 128},
                                                                       {4096 + 64, 64},
                                                                       {16384, 64}}) {
      expect_mlp_alike(format, f, k);
      if (HasFailure()) return;
    }
  }
}

TEST_F(DecodeLinearGpu, ARowThatIsNotFiniteGivesNaN) {
  for (const char* grid : {"int1", "int4"}) {
    const QuantSpec spec = spec_from_string(std::string(grid) + ".hadamard.trust");
    const Weight w = make_weight(grid, spec, 32, 256);
    const at::Tensor x = normal({256}, 1, at::kFloat).cuda();
    x[17] = std::numeric_limits<float>::infinity();
    const at::Tensor out = in_one(w, spec, deploy::GivenRow{data<float>(x)}).out;
    EXPECT_TRUE(out.isnan().all().item<bool>()) << grid;
  }
}

TEST_F(DecodeLinearGpu, SaysWhatItDoesNotTake) {
  const auto spec = [](const char* text) { return spec_from_string(text); };
  const QuantSpec int4 = spec("int4.hadamard.trust");
  EXPECT_FALSE(deploy::decode_linear_supports(spec("int8.ste"), int4, 64, 64));
  EXPECT_FALSE(deploy::decode_linear_supports(spec("fp4.ste"), int4, 64, 64));
  EXPECT_FALSE(deploy::decode_linear_supports(spec("int4_4of8.ste"), int4, 64, 64));
  EXPECT_FALSE(deploy::decode_linear_supports(spec("int4.ste"), spec("none"), 64, 64));
  EXPECT_FALSE(deploy::decode_linear_supports(spec("int4.ste"), spec("int4.ste"), 64, 60));
  EXPECT_FALSE(deploy::decode_linear_supports(spec("int4.ste"), int4, 64, 8192 + 128));
  EXPECT_FALSE(deploy::decode_swiglu_supports(spec("int4.ste"), int4, 64, 16384 + 128));
  EXPECT_FALSE(deploy::decode_swiglu_supports(spec("int8.ste"), int4, 64, 64));
  EXPECT_FALSE(deploy::decode_gate_up_supports(spec("int4.ste"), int4, 48, 64));
  EXPECT_FALSE(deploy::decode_gate_up_supports(spec("int4.ste"), int4, 2 * 16384 + 32, 64));
  const Weight w = make_weight("int8", int4, 16, 64);
  const at::Tensor x = unwritten({64}, at::kFloat);
  EXPECT_QUEST_ERROR(deploy::decode_linear(w.device(), int4, deploy::GivenRow{data<float>(x)},
                                           {data<float>(x)}, current_stream()),
                     ErrorKind::kUsage, "take packed_gemm");
}

}  // namespace
}  // namespace quest
