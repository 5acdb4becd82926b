// Every level against the scalar definition (quest/quant), bit for bit, on awkward shapes and rows.
#include "quest/kernels/hadamard_quantize.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/philox.h"
#include "quest/base/testing.h"
#include "quest/kernels/golden_implementations.h"
#include "quest/quant/hadamard.h"
#include "quest/quant/quantizer.h"

namespace quest::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Every grid, estimator and transform that has codes.
std::vector<QuantSpec> all_specs() {
  std::vector<std::string> formats = {"ternary", "fp4", "int4_4of8"};
  for (int bits = 1; bits <= 8; ++bits) formats.push_back("int" + std::to_string(bits));
  for (int bits = 1; bits <= 4; ++bits) {
    formats.push_back("gauss" + std::to_string(bits));
    formats.push_back("gauss" + std::to_string(bits) + "_converged");
  }
  std::vector<QuantSpec> specs;
  for (const std::string& format : formats) {
    for (const char* transform : {"", ".hadamard"}) {
      for (const char* estimator : {".trust", ".trust_s0.5", ".clip", ".clip1.3", ".ste"}) {
        specs.push_back(spec_from_string(format + transform + estimator));
      }
    }
  }
  specs.push_back(spec_from_string("fp4.trust_halfgap"));
  specs.push_back(spec_from_string("fp4.hadamard.trust_halfgap_s1.5"));
  return specs;
}

std::string describe(const QuantSpec& spec, int64_t m, int64_t k, IsaLevel level) {
  return to_string(spec) + " M " + std::to_string(m) + " K " + std::to_string(k) + " " +
         std::string(isa_level_name(level));
}

// Rows of every kind, in turn: ordinary, zero, huge, tiny, denormal, outlier, large mean, equal
// magnitudes (ties of pairs and levels), on decision boundaries, heavy tails.
std::vector<float> make_rows(int64_t m, int64_t k, uint64_t seed) {
  const Philox random(seed);
  std::vector<float> x(static_cast<size_t>(m * k));
  for (int64_t r = 0; r < m; ++r) {
    for (int64_t i = 0; i < k; ++i) {
      const uint64_t at = static_cast<uint64_t>(r * k + i);
      const float n = static_cast<float>(random.normal(at));
      float& value = x[static_cast<size_t>(at)];
      switch ((r + static_cast<int64_t>(seed)) % 10) {
        case 0:
          value = n;
          break;
        case 1:
          value = 0.0f;
          break;
        case 2:
          value = n * 1e15f;
          break;
        case 3:
          value = n * 1e-9f;
          break;
        case 4:
          value = n * 1e-40f;
          break;
        case 5:
          value = i == k / 2 ? 1000.0f : n * 0.01f;
          break;
        case 6:
          value = n + 100.0f;
          break;
        case 7:
          value = (at % 3 == 0) ? -2.0f : 2.0f;
          break;
        case 8:
          value = static_cast<float>(static_cast<int>(at % 9) - 4) * 0.5f;
          break;
        default:
          value = n * n * n * n * n;
          break;
      }
    }
  }
  return x;
}

template <class T>
std::vector<T> convert(const std::vector<float>& x) {
  std::vector<T> y;
  y.reserve(x.size());
  for (const float value : x) y.push_back(T(value));
  return y;
}

// A buffer with a guard behind it: kernels must not write past their outputs.
template <class T>
struct Guarded {
  static constexpr size_t kGuard = 64;
  explicit Guarded(size_t n) : size(n), bytes(n * sizeof(T) + kGuard, 0xA5) {}
  T* data() { return reinterpret_cast<T*>(bytes.data()); }
  T at(size_t i) const {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    return value;
  }
  bool guard_is_whole() const {
    for (size_t i = size * sizeof(T); i < bytes.size(); ++i) {
      if (bytes[i] != 0xA5) return false;
    }
    return true;
  }
  bool equals(const T* wanted) const {
    return size == 0 || std::memcmp(bytes.data(), wanted, size * sizeof(T)) == 0;
  }
  size_t size;
  std::vector<uint8_t> bytes;
};

template <class T>
void check_quantize(const QuantSpec& spec, int64_t m, int64_t k, IsaLevel level) {
  SCOPED_TRACE(describe(spec, m, k, level) + (sizeof(T) == 2 ? " bfloat16" : " float"));
  const std::vector<T> x = convert<T>(make_rows(m, k, static_cast<uint64_t>(k % 10)));
  const size_t total = static_cast<size_t>(m * k), rows = static_cast<size_t>(m);
  const size_t row_size = static_cast<size_t>(k), mask_size = (row_size + 7) / 8;
  Guarded<int8_t> codes(total), codes_alone(total);
  Guarded<float> units(rows), units_alone(rows);
  Guarded<uint8_t> mask(rows * mask_size);
  EXPECT_EQ(hadamard_quantize(spec, x.data(), m, k, codes.data(), units.data(), mask.data(), level),
            -1);
  EXPECT_EQ(hadamard_quantize(spec, x.data(), m, k, codes_alone.data(), units_alone.data(), nullptr,
                              level),
            -1);

  std::vector<int8_t> wanted_codes(total);
  std::vector<float> wanted_units(rows), values(total), row(row_size);
  std::vector<uint8_t> wanted_mask(rows * mask_size);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t i = 0; i < row_size; ++i) row[i] = static_cast<float>(x[r * row_size + i]);
    wanted_units[r] = quantize_row<float>(spec, row,
                                          {.codes = {&wanted_codes[r * row_size], row_size},
                                           .mask = {&wanted_mask[r * mask_size], mask_size},
                                           .values = {&values[r * row_size], row_size}});
  }
  EXPECT_TRUE(codes.equals(wanted_codes.data()));
  EXPECT_TRUE(units.equals(wanted_units.data()));
  EXPECT_TRUE(mask.equals(wanted_mask.data()));
  EXPECT_TRUE(codes_alone.equals(wanted_codes.data()));
  EXPECT_TRUE(units_alone.equals(wanted_units.data()));
  EXPECT_TRUE(codes.guard_is_whole() && units.guard_is_whole() && mask.guard_is_whole());

  Guarded<T> decoded(total);
  dequantize_rows(spec, wanted_codes.data(), wanted_units.data(), m, k, decoded.data(), level);
  EXPECT_TRUE(decoded.equals(convert<T>(values).data()));
  EXPECT_TRUE(decoded.guard_is_whole());
}

TEST(HadamardQuantize, EveryLevelEqualsTheDefinition) {
  const std::vector<int64_t> with_transform = {16, 48, 80, 96, 128, 640, 1792};
  const std::vector<int64_t> without = {1, 7, 8, 31, 33, 128, 255, 257};
  for (const QuantSpec& spec : all_specs()) {
    for (const int64_t k : spec.hadamard ? with_transform : without) {
      if (spec.grid == Grid::kUniform4of8 && k % 8 != 0) continue;
      for (const IsaLevel level : available_isa_levels()) {
        for (const int64_t m : {0, 1, 3, 17}) check_quantize<float>(spec, m, k, level);
        check_quantize<bfloat16>(spec, 11, k, level);
      }
    }
  }
}

TEST(HadamardQuantize, LongRows) {
  for (const char* text : {"int4.hadamard.trust", "int1.hadamard.clip1.3", "fp4.hadamard.trust",
                           "int4_4of8.hadamard.trust", "int8.trust"}) {
    for (const IsaLevel level : available_isa_levels()) {
      check_quantize<float>(spec_from_string(text), 10, 11008, level);
      check_quantize<bfloat16>(spec_from_string(text), 3, 11008, level);
    }
  }
}

TEST(HadamardQuantize, ReportsTheFirstRowThatIsNotFiniteAndGoesOn) {
  const int64_t m = 6, k = 144;
  const QuantSpec spec = spec_from_string("int4.hadamard.trust");
  std::vector<float> clean = make_rows(m, k, 0);
  for (const IsaLevel level : available_isa_levels()) {
    for (const float poison : {std::nanf(""), kInfinity, -kInfinity, 3e38f}) {
      SCOPED_TRACE(std::string(isa_level_name(level)) + " " + std::to_string(poison));
      std::vector<float> x = clean;
      x[2 * k + 143] = poison;
      x[4 * k] = poison;
      std::vector<int8_t> codes(m * k), wanted(m * k);
      std::vector<float> units(m), wanted_units(m);
      std::vector<uint8_t> mask(m * k / 8);
      EXPECT_EQ(
          hadamard_quantize(spec, x.data(), m, k, codes.data(), units.data(), mask.data(), level),
          2);
      EXPECT_EQ(hadamard_quantize(spec, clean.data(), m, k, wanted.data(), wanted_units.data(),
                                  mask.data(), level),
                -1);
      for (const int64_t row : {0, 1, 3, 5}) {
        EXPECT_EQ(std::memcmp(&codes[row * k], &wanted[row * k], k), 0) << row;
        EXPECT_EQ(units[row], wanted_units[row]);
      }
    }
  }
}

template <class T>
void check_backward(const QuantSpec& spec, int64_t m, int64_t k, IsaLevel level) {
  SCOPED_TRACE(describe(spec, m, k, level) + (sizeof(T) == 2 ? " bfloat16" : " float"));
  const size_t row_size = static_cast<size_t>(k), mask_size = (row_size + 7) / 8;
  const std::vector<T> grad = convert<T>(make_rows(m, k, 3));
  const Philox random(7);
  std::vector<uint8_t> mask(static_cast<size_t>(m) * mask_size);
  for (size_t i = 0; i < mask.size(); ++i) mask[i] = static_cast<uint8_t>(random.below(i, 256));
  for (const bool masked : {true, false}) {
    std::vector<T> wanted;
    for (size_t r = 0; r < static_cast<size_t>(m); ++r) {
      std::vector<float> row(row_size);
      for (size_t i = 0; i < row_size; ++i) row[i] = static_cast<float>(grad[r * row_size + i]);
      std::span<const uint8_t> bits;
      if (masked) bits = {&mask[r * mask_size], mask_size};
      quantize_row_backward<float>(spec, bits, row, row);
      for (const float value : row) wanted.push_back(T(value));
    }
    Guarded<T> out(grad.size());
    mask_hadamard(spec, grad.data(), masked ? mask.data() : nullptr, m, k, out.data(), level);
    EXPECT_TRUE(out.equals(wanted.data()));
    EXPECT_TRUE(out.guard_is_whole());
    std::vector<T> in_place = grad;
    mask_hadamard(spec, in_place.data(), masked ? mask.data() : nullptr, m, k, in_place.data(),
                  level);
    EXPECT_TRUE(out.equals(in_place.data()));
    if (!masked && spec.hadamard) {
      Guarded<T> rotated(grad.size());
      hadamard_rows(grad.data(), m, k, rotated.data(), level);
      EXPECT_TRUE(rotated.equals(wanted.data()));
    }
  }
}

TEST(MaskHadamard, EveryLevelEqualsTheDefinition) {
  for (const IsaLevel level : available_isa_levels()) {
    for (const int64_t m : {0, 1, 3, 17}) {
      for (const int64_t k : {16, 48, 80, 96, 128, 192, 640, 1792, 11008}) {
        check_backward<float>(spec_from_string("int4.hadamard.trust"), m, k, level);
        check_backward<bfloat16>(spec_from_string("none.hadamard"), m, k, level);
      }
      for (const int64_t k : {1, 7, 31, 33, 255, 257}) {
        check_backward<float>(spec_from_string("int4.trust"), m, k, level);
        check_backward<bfloat16>(spec_from_string("int4.trust"), m, k, level);
      }
    }
  }
}

// bfloat16 conversion of the vector levels on every kind of value, through a transform that does
// nothing.
TEST(MaskHadamard, RoundsToBfloat16AsTheTypeDoes) {
  const Philox random(11);
  const int64_t n = 4096 + 5;
  std::vector<float> units(static_cast<size_t>(n));
  for (size_t i = 0; i < units.size(); ++i) units[i] = std::bit_cast<float>(random.block(i)[0]);
  units[0] = std::nanf("");
  units[1] = std::bit_cast<float>(0x7f800001u);  // a NaN whose upper half alone would be infinity
  units[2] = kInfinity;
  units[3] = std::bit_cast<float>(0x7f7fffffu);  // rounds up to infinity
  units[4] = -0.0f;
  const std::vector<int8_t> ones(static_cast<size_t>(n), 1);
  const QuantSpec spec = spec_from_string("ternary.ste");
  for (const IsaLevel level : available_isa_levels()) {
    for (size_t i = 0; i < units.size(); ++i) {
      bfloat16 out[17];
      dequantize_rows(spec, ones.data(), &units[i], 1, 17, out, level);
      const bfloat16 wanted(1.0f * units[i]);
      ASSERT_EQ(out[0].bits, wanted.bits) << isa_level_name(level) << " " << units[i];
      ASSERT_EQ(out[16].bits, wanted.bits) << isa_level_name(level) << " " << units[i];
    }
  }
}

TEST(DequantizeRows, WithoutUnitsGivesTheNumbers) {
  std::vector<int8_t> codes(256);
  for (int i = 0; i < 256; ++i) codes[static_cast<size_t>(i)] = static_cast<int8_t>(i - 128);
  for (const IsaLevel level : available_isa_levels()) {
    std::vector<float> numbers(256);
    dequantize_rows(spec_from_string("int8.trust"), codes.data(), nullptr, 1, 256, numbers.data(),
                    level);
    for (int i = 0; i < 256; ++i) ASSERT_EQ(numbers[static_cast<size_t>(i)], 2 * (i - 128) + 1);
    std::vector<int8_t> indices(16);
    for (int i = 0; i < 16; ++i) indices[static_cast<size_t>(i)] = static_cast<int8_t>(i);
    dequantize_rows(spec_from_string("gauss4.trust"), indices.data(), nullptr, 1, 16,
                    numbers.data(), level);
    for (size_t i = 0; i < 16; ++i) ASSERT_EQ(numbers[i], gaussian_levels(4, false)[i]);
  }
}

TEST(HadamardQuantize, RefusesWhatItCannotDo) {
  std::vector<float> x(136), units(1);
  std::vector<int8_t> codes(136);
  const auto quantize = [&](const char* text, int64_t k) {
    hadamard_quantize(spec_from_string(text), x.data(), 1, k, codes.data(), units.data(), nullptr);
  };
  EXPECT_QUEST_ERROR(quantize("none.hadamard", 128), ErrorKind::kUsage, "has no codes");
  EXPECT_QUEST_ERROR(quantize("masked_4of8", 128), ErrorKind::kUsage, "has no codes");
  EXPECT_QUEST_ERROR(quantize("int4.hadamard.trust", 136), ErrorKind::kUsage, "136");
  EXPECT_QUEST_ERROR(quantize("int4_4of8.trust", 12), ErrorKind::kUsage, "multiple of 8");
  EXPECT_QUEST_ERROR(quantize("int4.trust", 0), ErrorKind::kUsage, "0 values");
  EXPECT_QUEST_ERROR(hadamard_rows(x.data(), 1, 8, x.data()), ErrorKind::kUsage, "8 values");
}

TEST(HadamardQuantize, PlanNamesALevelThatExists) {
  EXPECT_STREQ(hadamard_quantize_plan(IsaLevel::kScalar), "scalar");
#if defined(__x86_64__)
  EXPECT_STREQ(hadamard_quantize_plan(IsaLevel::kAvx2), "avx2");
  EXPECT_STREQ(hadamard_quantize_plan(IsaLevel::kAmx), "avx512");
#endif
}

// Each thread has its own scratch.
TEST(HadamardQuantize, ThreadsDoNotDisturbEachOther) {
  const int64_t m = 64, k = 640;
  const QuantSpec spec = spec_from_string("int4.hadamard.trust");
  const std::vector<float> x = make_rows(m, k, 0);
  std::vector<int8_t> wanted(static_cast<size_t>(m * k)), codes(wanted.size());
  std::vector<float> units(static_cast<size_t>(m));
  hadamard_quantize(spec, x.data(), m, k, wanted.data(), units.data(), nullptr);
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const int64_t first = t * m / 4;
      hadamard_quantize(spec, &x[static_cast<size_t>(first * k)], m / 4, k,
                        &codes[static_cast<size_t>(first * k)], &units[static_cast<size_t>(first)],
                        nullptr);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(codes, wanted);
}

TEST(GoldenImplementations, EveryLevelPassesTheGoldenFolder) {
  const auto implementations = quantizer_implementations();
  ASSERT_FALSE(implementations.empty());
  int passed = 0;
  for (const GoldenCase& result :
       run_quantizer_golden(std::string(QUEST_SOURCE_DIR) + "/tests/golden", implementations)) {
    EXPECT_NE(result.status, GoldenStatus::kFail) << result.name << ": " << result.note;
    if (result.status == GoldenStatus::kPass) ++passed;
  }
  EXPECT_GE(passed, 70);
}

}  // namespace
}  // namespace quest::kernels
