// The GPU's products of packed weights (quest/kernels/cuda/packed_gemm.h) against the CPU's.
// Skipped where no GPU can be used.
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "quest/base/testing.h"
#include "quest/kernels/cuda/packed_gemm.h"
#include "quest/kernels/hadamard_quantize.h"
#include "quest/kernels/packed_gemm.h"
#include "quest/runtime_gpu/device_weight_testing.h"

namespace quest {
namespace {

using testing::AlignedBytes;
using testing::device_copy;
using testing::device_data;
using testing::host_copy;
using testing::poisoned_device;
using testing::random_codes;
using testing::same_bits;
using Weight = testing::DeviceWeight;
namespace gpu = kernels::cuda;

class PackedGemmGpu : public testing::GpuTest {};

constexpr int64_t kRows = gpu::kMaxPackedRows;
const std::vector<int64_t> kRowCounts = {1, 2, 7, 8, 9, 16, 33, 64};

struct Result {
  std::vector<float> out;
  std::vector<int32_t> acc;
};

Result cpu_product(const Weight& w, const QuantSpec& activation, const std::vector<int8_t>& codes,
                   const std::vector<float>& units) {
  const auto m = static_cast<int64_t>(units.size());
  const kernels::PackedPlan plan = kernels::choose_packed_plan(w.spec, activation, m, w.host.k);
  AlignedBytes prepared(kernels::activation_bytes(plan, m, w.host.k));
  kernels::prepare_activations(plan, codes.data(), m, w.host.k, prepared.data());
  const auto size = static_cast<size_t>(m * w.host.n);
  Result r{std::vector<float>(size), std::vector<int32_t>(size)};
  kernels::packed_gemm(plan, w.host.view(), {prepared.data(), units.data(), m}, 0, m, 0, w.host.n,
                       r.out.data(), w.host.n, r.acc.data());
  return r;
}

void expect_bits_of_the_cpu(const std::string& w_text, const std::string& a_text, int64_t n,
                            int64_t k, const std::vector<int64_t>& row_counts) {
  const std::string what = fmt::format("{} x {}, N={} K={}", a_text, w_text, n, k);
  Weight w(w_text, n, k, static_cast<unsigned>(n * 31 + k));
  const QuantSpec activation = spec_from_string(a_text);
  ASSERT_TRUE(gpu::packed_gemm_supports(w.spec, activation, k)) << what;
  if (gpu::needs_number_sums(w.spec, activation)) w.make_sums();
  const std::vector<int8_t> codes = random_codes(activation, kRows, k, w.random);
  std::vector<float> units;
  std::uniform_real_distribution<float> unit(0.001f, 0.1f);
  for (int64_t i = 0; i < kRows; ++i) units.push_back(unit(w.random));
  const Result expected = cpu_product(w, activation, codes, units);
  std::vector<bfloat16> rounded;
  for (const float x : expected.out) rounded.emplace_back(x);
  const at::Tensor device_codes = device_copy(codes), device_units = device_copy(units);
  for (const int64_t m : row_counts) {
    const at::Tensor out = poisoned_device<float>(m * n), acc = poisoned_device<int32_t>(m * n);
    const at::Tensor half = poisoned_device<bfloat16>(m * n);
    gpu::packed_gemm<float>(w.device(), activation, device_data<int8_t>(device_codes),
                            device_data<float>(device_units), m, device_data<float>(out),
                            ops::current_stream(), device_data<int32_t>(acc));
    gpu::packed_gemm<bfloat16>(w.device(), activation, device_data<int8_t>(device_codes),
                               device_data<float>(device_units), m, device_data<bfloat16>(half),
                               ops::current_stream());
    ASSERT_TRUE(same_bits(host_copy<int32_t>(acc), expected.acc, m * n)) << what << " M=" << m;
    ASSERT_TRUE(same_bits(host_copy<float>(out), expected.out, m * n)) << what << " M=" << m;
    ASSERT_TRUE(same_bits(host_copy<bfloat16>(half), rounded, m * n)) << what << " M=" << m;
  }
}

std::vector<std::pair<std::string, std::string>> format_pairs() {
  std::vector<std::pair<std::string, std::string>> pairs;
  for (int bits = 1; bits <= 8; ++bits) {
    const std::string name = fmt::format("int{}.ste", bits);
    pairs.emplace_back(name, name);
    if (bits != 8) pairs.emplace_back(name, "int8.ste");
    if (bits != 1) pairs.emplace_back(name, "int1.ste");
    if (bits != 4) pairs.emplace_back(name, "int4.ste");
  }
  for (const char* w : {"fp4.ste", "ternary.ste"}) {
    for (const char* a : {"int4.ste", "int8.ste", "fp4.ste", "ternary.ste", "int7.ste"}) {
      pairs.emplace_back(w, a);
    }
  }
  return pairs;
}

TEST_F(PackedGemmGpu, HasTheBitsOfTheCpuOnAwkwardSizes) {
  for (const auto& [w, a] : format_pairs()) {
    for (const auto& [n, k] : {std::pair{1, 32},
                               {16, 64},
                               {17, 96},
                               {16, 128},
                               {100, 160},
                               {100, 1024},
                               {17, 4096 + 32},
                               {33, 50},
                               {1, 7}}) {
      expect_bits_of_the_cpu(w, a, n, k, kRowCounts);
      if (HasFatalFailure()) return;
    }
  }
}

// More tiles than blocks run at once, slabs of activations, both kinds of blocks.
TEST_F(PackedGemmGpu, HasTheBitsOfTheCpuOnSizesOfModels) {
  for (const auto& [w, a] : {std::pair{"int1.ste", "int1.ste"},
                             {"int2.ste", "int2.ste"},
                             {"int3.ste", "int4.ste"},
                             {"int4.ste", "int4.ste"},
                             {"fp4.ste", "fp4.ste"},
                             {"int8.ste", "int8.ste"}}) {
    expect_bits_of_the_cpu(w, a, 4096, 4096 + 32, {1, 9, 33, 64});
    expect_bits_of_the_cpu(w, a, 4096 + 16, 1024, {2, 16, 64});
    expect_bits_of_the_cpu(w, a, 160, 11008, {1, 16, 17, 64});
    if (HasFatalFailure()) return;
  }
  expect_bits_of_the_cpu("int2.ste", "int1.ste", 70001, 256, {1, 64});
}

TEST_F(PackedGemmGpu, SaysWhatItDoesNotMultiply) {
  const auto spec = [](const char* text) { return spec_from_string(text); };
  EXPECT_FALSE(gpu::packed_gemm_supports(spec("int4_4of8.ste"), spec("int4.ste"), 128));
  EXPECT_FALSE(gpu::packed_gemm_supports(spec("gauss4.ste"), spec("int4.ste"), 128));
  EXPECT_FALSE(gpu::packed_gemm_supports(spec("int4.ste"), spec("none"), 128));
  EXPECT_FALSE(gpu::packed_gemm_supports(spec("int8.ste"), spec("int8.ste"), 40000));
  EXPECT_FALSE(gpu::packed_gemm_supports(spec("int1.ste"), spec("int1.ste"), 70000));
  EXPECT_TRUE(gpu::packed_gemm_supports(spec("int8.ste"), spec("int8.ste"), 30000));
  EXPECT_EQ(gpu::packed_gemm_plan(spec("gauss4.ste"), spec("int4.ste"), 1), "none");
  EXPECT_EQ(gpu::packed_gemm_plan(spec("int1.ste"), spec("int1.ste"), 1),
            "lane order, mma of bits, population count");
  EXPECT_EQ(gpu::packed_gemm_plan(spec("int2.ste"), spec("int4.ste"), 16),
            "lane order, mma u8 x s8, 2 bits in place");
  EXPECT_EQ(gpu::packed_gemm_plan(spec("int2.ste"), spec("int4.ste"), 17),
            "lane order, mma u8 x s8, 2 bits unpacked in registers");
  Weight w("int4.ste", 16, 64, 1);
  EXPECT_QUEST_ERROR(gpu::packed_gemm<float>(w.device(), spec("int4.ste"), nullptr, nullptr, 65,
                                             nullptr, ops::current_stream()),
                     ErrorKind::kUsage, "65 rows, at most 64");
  EXPECT_QUEST_ERROR(gpu::packed_gemm<float>(w.device(), spec("none"), nullptr, nullptr, 1, nullptr,
                                             ops::current_stream()),
                     ErrorKind::kUsage, "unpack the weight");
  Weight eight("int8.ste", 16, 64, 1);
  EXPECT_QUEST_ERROR(gpu::unpack_numbers(eight.device(), nullptr, ops::current_stream()),
                     ErrorKind::kUsage, "do not fit int8");
}

TEST_F(PackedGemmGpu, SumsOfNumbers) {
  for (const char* name :
       {"int1.ste", "int3.ste", "int4.ste", "int7.ste", "int8.ste", "ternary.ste", "fp4.ste"}) {
    for (const auto& [n, k] : {std::pair{1, 32}, {17, 100}, {40, 1000}, {100, 4096}}) {
      Weight w(name, n, k, 3);
      w.make_sums();
      const CodeFormat format = code_format(w.spec);
      std::vector<int32_t> expected;
      for (int64_t row = 0; row < n; ++row) {
        int32_t sum = 0;
        for (int64_t i = 0; i < k; ++i) {
          sum += format.multiplier * w.host.codes[static_cast<size_t>(row * k + i)] + format.offset;
        }
        expected.push_back(sum);
      }
      ASSERT_TRUE(same_bits(host_copy<int32_t>(w.sums), expected, n)) << name << " N=" << n;
    }
  }
}

TEST_F(PackedGemmGpu, UnpacksNumbersAndValues) {
  std::vector<std::string> names = {"ternary.ste",          "fp4.ste",
                                    "gauss1.ste",           "gauss3.ste",
                                    "gauss4_converged.ste", "int4_4of8.ste"};
  for (int bits = 1; bits <= 8; ++bits) names.push_back(fmt::format("int{}.ste", bits));
  for (const std::string& name : names) {
    for (const auto& [n, k] :
         {std::pair{1, 32}, {16, 64}, {17, 96}, {100, 160}, {33, 1000}, {5, 50}, {48, 4096 + 32}}) {
      if (name == "int4_4of8.ste" && k % 8 != 0) continue;
      const std::string what = fmt::format("{} N={} K={}", name, n, k);
      const Weight w(name, n, k, 9);
      const int64_t size = int64_t{n} * k;
      std::vector<float> values(static_cast<size_t>(size));
      kernels::dequantize_rows<float>(w.spec, w.host.codes.data(), w.host.units.data(), n, k,
                                      values.data(), IsaLevel::kScalar);
      std::vector<bfloat16> rounded;
      for (const float x : values) rounded.emplace_back(x);
      const at::Tensor got = poisoned_device<float>(size), half = poisoned_device<bfloat16>(size);
      gpu::unpack_values<float>(w.device(), device_data<float>(got), ops::current_stream());
      gpu::unpack_values<bfloat16>(w.device(), device_data<bfloat16>(half), ops::current_stream());
      ASSERT_TRUE(same_bits(host_copy<float>(got), values, size)) << what;
      ASSERT_TRUE(same_bits(host_copy<bfloat16>(half), rounded, size)) << what;
      if (!gpu::unpack_numbers_supports(w.spec)) {
        EXPECT_TRUE(name == "int8.ste" || name.starts_with("gauss")) << name;
        continue;
      }
      const at::Tensor numbers = poisoned_device<int8_t>(size);
      gpu::unpack_numbers(w.device(), device_data<int8_t>(numbers), ops::current_stream());
      ASSERT_TRUE(same_bits(host_copy<int8_t>(numbers), w.host.codes, size)) << what;
    }
  }
}

}  // namespace
}  // namespace quest
