#include "quest/kernels/packed_gemm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/testing.h"
#include "quest/kernels/packed_gemm_task.h"
#include "quest/kernels/packed_gemm_testing.h"
#ifdef __x86_64__
#include "quest/kernels/emulated_tiles_testing.h"
#include "quest/kernels/x86/packed_gemm_amx_kernel.h"
#endif

namespace quest::kernels {
namespace {

using ::quest::testing::AlignedBytes;
using ::quest::testing::random_codes;
using ::quest::testing::RandomWeight;

struct Shape {
  int64_t m, n, k;
};

QuantSpec spec(const std::string& text) { return spec_from_string(text); }

// Every kind of kernel and correction: equal widths, mixed ones, tables, dropped values.
std::vector<std::pair<std::string, std::string>> format_pairs() {
  std::vector<std::pair<std::string, std::string>> pairs;
  for (int bits = 1; bits <= 8; ++bits) {
    const std::string name = "int" + std::to_string(bits) + ".ste";
    pairs.emplace_back(name, name);
    if (bits != 8) pairs.emplace_back(name, "int8.ste");
    if (bits != 1) pairs.emplace_back(name, "int1.ste");
    if (bits != 4) pairs.emplace_back(name, "int4.ste");
  }
  for (const char* w : {"fp4.ste", "ternary.ste", "int4_4of8.ste"}) {
    for (const char* a : {"int4.ste", "int8.ste", "fp4.ste", "ternary.ste", "int7.ste"}) {
      pairs.emplace_back(w, a);
    }
  }
  pairs.emplace_back("int4.ste", "fp4.ste");
  pairs.emplace_back("int2.ste", "ternary.ste");
  return pairs;
}

struct Problem {
  Problem(const std::string& w_text, const std::string& a_text, Shape s, unsigned seed)
      : random(seed),
        activation(spec(a_text)),
        shape(s),
        a(random_codes(activation, s.m, s.k, random)),
        w(spec(w_text), random_codes(spec(w_text), s.n, s.k, random), s.n, s.k, random),
        name(fmt::format("{} x {}, M={} N={} K={}", a_text, w_text, s.m, s.n, s.k)) {
    std::uniform_real_distribution<float> unit(0.001f, 0.1f);
    for (int64_t i = 0; i < s.m; ++i) a_units.push_back(unit(random));
  }

  // From the codes, in 64 bits.
  std::vector<int32_t> reference() const {
    const CodeFormat a_format = code_format(activation);
    const CodeFormat w_format = code_format(w.spec);
    std::vector<int32_t> sums;
    for (int64_t m = 0; m < shape.m; ++m) {
      for (int64_t n = 0; n < shape.n; ++n) {
        int64_t sum = 0;
        for (int64_t k = 0; k < shape.k; ++k) {
          const int64_t x = a_format.multiplier * a[m * shape.k + k] + a_format.offset;
          sum += x * (w_format.multiplier * w.codes[n * shape.k + k] + w_format.offset);
        }
        EXPECT_EQ(sum, static_cast<int32_t>(sum));
        sums.push_back(static_cast<int32_t>(sum));
      }
    }
    return sums;
  }

  std::mt19937 random;
  QuantSpec activation;
  Shape shape;
  std::vector<int8_t> a;
  RandomWeight w;
  std::vector<float> a_units;
  std::string name;
};

struct Result {
  std::vector<float> out;
  std::vector<int32_t> acc;
};

AlignedBytes prepare(const PackedPlan& plan, const Problem& p) {
  AlignedBytes prepared(activation_bytes(plan, p.shape.m, p.shape.k));
  prepare_activations(plan, p.a.data(), p.shape.m, p.shape.k, prepared.data());
  return prepared;
}

// Whole, or columns in pieces of `columns` and rows in pieces of `rows`.
Result product(const PackedPlan& plan, const Problem& p, int64_t rows = 1 << 20,
               int64_t columns = 1 << 20) {
  const AlignedBytes prepared = prepare(plan, p);
  const auto size = static_cast<size_t>(p.shape.m * p.shape.n);
  Result result{std::vector<float>(size, -1.0f), std::vector<int32_t>(size, -1)};
  for (int64_t m = 0; m < p.shape.m; m += rows) {
    for (int64_t n = 0; n < p.shape.n; n += columns) {
      packed_gemm(plan, p.w.view(), {prepared.data(), p.a_units.data(), p.shape.m}, m,
                  std::min(m + rows, p.shape.m), n, std::min(n + columns, p.shape.n),
                  result.out.data(), p.shape.n, result.acc.data());
    }
  }
  return result;
}

void expect_exact(const Result& result, const Problem& p, const PackedPlan& plan) {
  const std::vector<int32_t> sums = p.reference();
  for (int64_t i = 0; i < static_cast<int64_t>(sums.size()); ++i) {
    const int64_t m = i / p.shape.n, n = i % p.shape.n;
    ASSERT_EQ(result.acc[i], sums[i])
        << packed_plan_text(plan) << ", " << p.name << ", row " << m << " column " << n;
    const float expected = static_cast<float>(sums[i]) * (p.a_units[m] * p.w.units[n]);
    ASSERT_EQ(result.out[i], expected) << packed_plan_text(plan) << ", " << p.name;
  }
}

PackedPlan plan_of(const Problem& p, IsaLevel level) {
  return choose_packed_plan(p.w.spec, p.activation, p.shape.m, p.shape.k, level);
}

// A K that the weight's grid allows.
int64_t allowed_k(const std::string& weight, int64_t k) {
  return weight.find("4of8") == std::string::npos ? k : (k + 7) / 8 * 8;
}

class PackedGemm : public ::testing::TestWithParam<IsaLevel> {
 protected:
  void SetUp() override {
    const std::vector<IsaLevel> levels = available_isa_levels();
    if (std::find(levels.begin(), levels.end(), GetParam()) == levels.end()) {
      GTEST_SKIP() << "this CPU has no " << isa_level_name(GetParam());
    }
  }
};

TEST_P(PackedGemm, EqualsTheExactSumOnAwkwardSizes) {
  const std::vector<int64_t> ms = {1, 2, 3, 4, 5, 8, 9, 31, 33};
  const std::vector<int64_t> ns = {1, 15, 16, 17, 63, 257};
  const std::vector<int64_t> ks = {8, 16, 32, 48, 64, 80, 96, 128, 264, 640, 1104};
  std::mt19937 random(3);
  for (const auto& [w, a] : format_pairs()) {
    for (const int64_t m : ms) {
      const Shape shape{m, ns[random() % ns.size()], allowed_k(w, ks[random() % ks.size()])};
      const Problem p(w, a, shape, static_cast<unsigned>(random()));
      const PackedPlan plan = plan_of(p, GetParam());
      expect_exact(product(plan, p), p, plan);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(PackedGemm, EveryTailOfKIsExact) {
  for (const auto& [w, a] : format_pairs()) {
    for (int64_t k = 1; k <= 140; k += k < 12 ? 1 : 7) {
      if (allowed_k(w, k) != k) continue;
      const Problem p(w, a, {k % 3 + 1, 34, k}, static_cast<unsigned>(k));
      const PackedPlan plan = plan_of(p, GetParam());
      expect_exact(product(plan, p), p, plan);
      if (HasFatalFailure()) return;
    }
  }
}

// More strips than are computed at once anywhere.
TEST_P(PackedGemm, ManyRowsAreExact) {
  for (const auto& [w, a] : format_pairs()) {
    const Problem p(w, a, {149, 35, 328}, 12);
    const PackedPlan plan = plan_of(p, GetParam());
    expect_exact(product(plan, p), p, plan);
    if (HasFatalFailure()) return;
  }
}

// Where narrow or saturating sums would go wrong first, and K beyond a panel of the AMX kernel.
TEST_P(PackedGemm, ExactWhenAllCodesAreExtreme) {
  for (const auto& [w, a] : format_pairs()) {
    for (const int64_t m : {1, 10}) {
      for (const int which : {0, 1, 2, 3}) {
        Problem p(w, a, {m, m == 1 ? 18 : 3, allowed_k(w, 2056)}, 1);
        const auto fill = [](const QuantSpec& s, bool high, std::vector<int8_t>& codes) {
          const StoredFormat format = stored_format(s);
          size_t top = (size_t{1} << format.bits) - 1;
          if (!format.numbers.empty()) top = format.numbers.size() - 1;
          if (s.grid == Grid::kTernary) top = 2;
          const int8_t code = code_of_stored(s, static_cast<uint8_t>(high ? top : 0));
          for (int8_t& c : codes) {
            if (s.grid != Grid::kUniform4of8 || c != 0) c = code;
          }
        };
        std::vector<int8_t> codes = p.w.codes;
        fill(p.activation, (which & 1) != 0, p.a);
        fill(p.w.spec, (which & 2) != 0, codes);
        p.w = RandomWeight(p.w.spec, codes, p.shape.n, p.shape.k, p.random);
        const PackedPlan plan = plan_of(p, GetParam());
        expect_exact(product(plan, p), p, plan);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(PackedGemm, PiecesEqualTheWhole) {
  for (const auto& [w, a] : format_pairs()) {
    for (const int64_t m : {3, 43}) {
      const Problem p(w, a, {m, 131, 192}, 5);
      const PackedPlan plan = plan_of(p, GetParam());
      const Result whole = product(plan, p), pieces = product(plan, p, 2, 48);
      ASSERT_EQ(whole.acc, pieces.acc) << p.name;
      ASSERT_EQ(whole.out, pieces.out) << p.name;
    }
  }
}

// The sums of stored values are a convenience: without them they are computed.
TEST_P(PackedGemm, WeightSumsAreComputedWhereTheyAreMissing) {
  for (const char* w : {"int1.ste", "int4.ste", "int8.ste", "ternary.ste"}) {
    for (const int64_t m : {1, 12}) {
      Problem p(w, "int8.ste", {m, 37, 100}, 6);
      p.w.value_sums.clear();
      const PackedPlan plan = plan_of(p, GetParam());
      expect_exact(product(plan, p), p, plan);
    }
  }
}

TEST_P(PackedGemm, OutputsThatAreNotWantedAreNotWritten) {
  const Problem p("int4.ste", "int4.ste", {3, 40, 64}, 7);
  const PackedPlan plan = plan_of(p, GetParam());
  const AlignedBytes prepared = prepare(plan, p);
  std::vector<float> out(3 * 50, -7.0f);
  packed_gemm(plan, p.w.view(), {prepared.data(), p.a_units.data(), 3}, 1, 3, 16, 40, out.data(),
              50);
  const Result whole = product(plan, p);
  for (int64_t i = 0; i < 150; ++i) {
    const int64_t m = i / 50, n = i % 50;
    const bool inside = m >= 1 && n >= 16 && n < 40;
    ASSERT_EQ(out[i], inside ? whole.out[m * 40 + n] : -7.0f) << m << " " << n;
  }
}

std::vector<float> random_floats(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw;
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(draw(random));
  return values;
}

// The stated order of the sum, from the codes.
std::vector<float> float_reference(const RandomWeight& w, const float* x, int64_t ldx, int64_t m) {
  const CodeFormat format = code_format(w.spec);
  std::vector<float> out;
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t n = 0; n < w.n; ++n) {
      float s[4] = {};
      for (int64_t k = 0; k < w.k; ++k) {
        const int8_t code = w.codes[n * w.k + k];
        const float number = format.is_integer
                                 ? static_cast<float>(format.multiplier * code + format.offset)
                                 : format.levels[static_cast<size_t>(code)];
        s[k % 4] = std::fma(x[row * ldx + k], number, s[k % 4]);
      }
      out.push_back(((s[0] + s[1]) + (s[2] + s[3])) * w.units[n]);
    }
  }
  return out;
}

// More rows than share a panel, tails of K.
TEST_P(PackedGemm, FloatActivationsOfManyRowsGiveTheStatedBits) {
  std::mt19937 random(13);
  for (const std::string text :
       {"int1.ste", "int2.ste", "int3.ste", "int4.ste", "int5.ste", "int8.ste", "fp4.ste",
        "ternary.ste", "gauss4.ste", "gauss2.ste", "int4_4of8.ste"}) {
    for (const int64_t k : {257, 301, 514, 1000}) {
      const int64_t m = 103, n = 35, columns = allowed_k(text, k);
      const RandomWeight w(spec(text), random_codes(spec(text), n, columns, random), n, columns,
                           random);
      const std::vector<float> x = random_floats(m * columns, static_cast<unsigned>(k));
      const std::vector<float> expected = float_reference(w, x.data(), columns, m);
      std::vector<float> out(expected.size());
      packed_gemm_float(w.view(), x.data(), columns, 0, m, 0, n, out.data(), n, GetParam());
      ASSERT_EQ(std::memcmp(out.data(), expected.data(), out.size() * 4), 0) << text << " K=" << k;
    }
  }
}

TEST_P(PackedGemm, FloatActivationsGiveTheStatedBits) {
  std::vector<std::string> weights = {"fp4.ste", "ternary.ste", "int4_4of8.ste"};
  for (int bits = 1; bits <= 8; ++bits) weights.push_back("int" + std::to_string(bits) + ".ste");
  for (int bits = 1; bits <= 4; ++bits) {
    weights.push_back("gauss" + std::to_string(bits) + ".ste");
    weights.push_back("gauss" + std::to_string(bits) + "_converged.ste");
  }
  std::mt19937 random(8);
  const std::vector<int64_t> ns = {1, 15, 16, 17, 63, 100};
  for (const std::string& text : weights) {
    for (const int64_t m : {1, 2, 3, 5, 8, 31}) {
      for (const int64_t k : {8, 16, 40, 96, 264, 640}) {
        const int64_t n = ns[random() % ns.size()];
        const RandomWeight w(spec(text), random_codes(spec(text), n, k, random), n, k, random);
        const std::vector<float> x = random_floats(m * (k + 3), static_cast<unsigned>(random()));
        const std::vector<float> expected = float_reference(w, x.data(), k + 3, m);
        std::vector<float> out(expected.size());
        packed_gemm_float(w.view(), x.data(), k + 3, 0, m, 0, n, out.data(), n, GetParam());
        ASSERT_EQ(std::memcmp(out.data(), expected.data(), out.size() * 4), 0)
            << text << " M=" << m << " N=" << n << " K=" << k;
        std::fill(out.begin(), out.end(), 0.0f);
        for (int64_t n0 = 0; n0 < n; n0 += 48) {
          packed_gemm_float(w.view(), x.data(), k + 3, 0, m, n0, std::min(n0 + 48, n), out.data(),
                            n, GetParam());
        }
        ASSERT_EQ(std::memcmp(out.data(), expected.data(), out.size() * 4), 0) << text << " pieces";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, PackedGemm,
                         ::testing::Values(IsaLevel::kScalar, IsaLevel::kAvx2, IsaLevel::kAvx512,
                                           IsaLevel::kAvx512Vnni, IsaLevel::kAmx),
                         [](const auto& p) { return std::string(isa_level_name(p.param)); });

TEST(PackedGemmErrors, ImpossibleFormatsAndSizesAreRefused) {
  const QuantSpec int8 = spec("int8.ste"), none = spec("none");
  EXPECT_QUEST_ERROR(choose_packed_plan(int8, int8, 1, 33026), ErrorKind::kUsage, "at most 33025");
  EXPECT_NO_THROW(choose_packed_plan(int8, int8, 1, 33025));
  EXPECT_QUEST_ERROR(choose_packed_plan(none, int8, 1, 32), ErrorKind::kUsage, "no codes");
  EXPECT_QUEST_ERROR(choose_packed_plan(spec("int4_4of8.ste"), int8, 1, 12), ErrorKind::kUsage,
                     "multiple of 8");
  const Problem p("int4.ste", "int4.ste", {1, 20, 32}, 1);
  const PackedPlan plan = plan_of(p, isa_level());
  float out = 0;
  EXPECT_QUEST_ERROR(packed_gemm(plan, p.w.view(), {}, 0, 0, 0, 21, &out, 1), ErrorKind::kUsage,
                     "[0, 21) of 20");
  EXPECT_QUEST_ERROR(packed_gemm(plan, p.w.view(), {}, 0, 0, 8, 20, &out, 1), ErrorKind::kUsage,
                     "multiple of 16");
}

TEST(PackedGemmPlans, AreChosenByFormatsRowsAndLevel) {
  const auto text = [](const char* w, const char* a, int64_t m, IsaLevel level) {
    return packed_plan_text(choose_packed_plan(spec(w), spec(a), m, 64, level));
  };
  EXPECT_EQ(text("int1.ste", "int1.ste", 1, IsaLevel::kScalar), "definition, scalar");
#ifdef __x86_64__
  EXPECT_EQ(text("int1.ste", "int1.ste", 1, IsaLevel::kAmx), "popcount, avx512vnni");
  EXPECT_EQ(text("int1.ste", "int1.ste", 512, IsaLevel::kAmx), "tiles, amx");
  EXPECT_EQ(text("int1.ste", "int1.ste", 512, IsaLevel::kAvx2), "popcount, avx2");
  EXPECT_EQ(text("int4.ste", "int4.ste", 1, IsaLevel::kAmx), "dot, avx512vnni");
  EXPECT_EQ(text("int4.ste", "int4.ste", 512, IsaLevel::kAvx512Vnni), "dot, avx512vnni");
  EXPECT_EQ(text("gauss4.ste", "gauss4.ste", 1, IsaLevel::kAmx), "float, avx512");
  EXPECT_EQ(text("int4.ste", "none", 1, IsaLevel::kAvx2), "float, avx2");
  EXPECT_EQ(text("int4_4of8.ste", "int4.ste", 1, IsaLevel::kAvx2),
            "dot, avx2, 4:8 by selection of codes");
  EXPECT_EQ(text("int4_4of8.ste", "int4.ste", 9, IsaLevel::kAvx2),
            "dot, avx2, 4:8 spread out in the cache");
#endif
}

#ifdef __x86_64__
using testing::EmulatedTiles;

// The AMX kernel's loops, unpacking and padding, through packed_gemm's own task.
TEST(PackedGemmAmxKernel, EqualsTheExactSumWithEmulatedTiles) {
  for (const auto& [w, a] : format_pairs()) {
    // The last has several panels along K, the last of them not full.
    for (const Shape& s :
         {Shape{1, 1, 8}, {31, 33, 64}, {33, 48, 96}, {70, 17, 200}, {33, 17, 1104}}) {
      const Problem p(w, a, s, 11);
      PackedPlan plan = plan_of(p, IsaLevel::kAmx);
      plan.method = PackedMethod::kTiles;
      const AlignedBytes prepared = prepare(plan, p);
      const detail::ActivationLayout layout = detail::activation_layout(plan, s.m, s.k);
      std::vector<int32_t> acc(static_cast<size_t>(s.m * s.n));
      const std::vector<uint32_t> no_terms(static_cast<size_t>(s.m));
      detail::PackedTask task;
      task.w = detail::weight_tiles(p.w.view());
      task.a = prepared.data() + layout.strips_offset;
      task.strip = layout.strip;
      task.strip_bytes = layout.strip_bytes;
      task.row_terms = no_terms.data();
      task.m1 = s.m;
      task.n1 = s.n;
      task.acc = acc.data();
      task.ldo = s.n;
      detail::run_amx_panels<EmulatedTiles>(task);
      EXPECT_FALSE(EmulatedTiles::configured);
      // S = sum_k u' c, from the codes.
      const CodeFormat format = code_format(p.w.spec);
      const detail::ValueMap map = detail::value_map(p.w.spec);
      for (int64_t i = 0; i < s.m * s.n; ++i) {
        int32_t sum = 0;
        for (int64_t k = 0; k < s.k; ++k) {
          const int number = format.multiplier * p.w.codes[i % s.n * s.k + k] + format.offset;
          sum += (number - map.offset) / map.multiplier * p.a[i / s.n * s.k + k];
        }
        ASSERT_EQ(acc[i], sum) << p.name << " row " << i / s.n << " column " << i % s.n;
      }
    }
  }
}
#endif

}  // namespace
}  // namespace quest::kernels
