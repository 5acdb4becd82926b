#include "quest/kernels/gemm_lowbit.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/testing.h"
#include "quest/kernels/gemm_lowbit_task.h"
#ifdef __x86_64__
#include "quest/kernels/emulated_tiles_testing.h"
#include "quest/kernels/x86/gemm_lowbit_amx_kernel.h"
#endif

namespace quest::kernels {
namespace {

// The kinds of codes that the grids of quest/quant produce.
enum class Codes { kOdd, kAny, kTernary };
struct Side {
  std::string name;
  CodeFormat format;
  Codes codes = Codes::kAny;
};

CodeFormat format_of(int multiplier, int offset, int max_number) {
  CodeFormat format;
  format.multiplier = multiplier;
  format.offset = offset;
  format.max_number = max_number;
  return format;
}

const Side kOneBit{"1 bit", format_of(1, 0, 1), Codes::kOdd};
const Side kFourBit{"4 bit", format_of(1, 0, 15), Codes::kOdd};
const Side kSevenBit{"7 bit", format_of(1, 0, 127), Codes::kOdd};
const Side kEightBit{"8 bit", format_of(2, 1, 255)};
const Side kFp4{"fp4", format_of(1, 0, 12)};
const Side kTernary{"ternary", format_of(1, 0, 1), Codes::kTernary};

int64_t number(const CodeFormat& format, int8_t code) {
  return int64_t{format.multiplier} * code + format.offset;
}

int largest_code(const Side& side) {
  return (side.format.max_number - side.format.offset) / side.format.multiplier;
}

std::vector<int8_t> random_codes(const Side& side, int64_t count, std::mt19937& random) {
  const int high = largest_code(side);
  const int low = side.format.multiplier == 2 ? -high - 1 : -high;
  std::uniform_int_distribution<int> draw(low, high);
  std::vector<int8_t> codes(static_cast<size_t>(count));
  for (int8_t& code : codes) {
    int value = draw(random);
    if (side.codes == Codes::kOdd && value % 2 == 0) value += value > 0 ? -1 : 1;
    code = static_cast<int8_t>(value);
  }
  return codes;
}

struct Problem {
  Side a_side, w_side;
  int64_t m, n, k;
  std::vector<int8_t> a, w;
  std::vector<float> a_units, w_units;
};

Problem make_problem(const Side& a, const Side& w, int64_t m, int64_t n, int64_t k, unsigned seed) {
  std::mt19937 random(seed);
  Problem p{a, w, m, n, k, {}, {}, {}, {}};
  p.a = random_codes(a, m * k, random);
  p.w = random_codes(w, n * k, random);
  std::uniform_real_distribution<float> unit(0.001f, 0.1f);
  for (int64_t i = 0; i < m; ++i) p.a_units.push_back(unit(random));
  for (int64_t i = 0; i < n; ++i) p.w_units.push_back(unit(random));
  return p;
}

template <class T>
std::vector<T> reference(const Problem& p) {
  std::vector<T> out(static_cast<size_t>(p.m * p.n));
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t n = 0; n < p.n; ++n) {
      int64_t acc = 0;
      for (int64_t k = 0; k < p.k; ++k) {
        acc +=
            number(p.a_side.format, p.a[m * p.k + k]) * number(p.w_side.format, p.w[n * p.k + k]);
      }
      EXPECT_EQ(acc, static_cast<int32_t>(acc));
      out[m * p.n + n] = T(static_cast<float>(acc) * (p.a_units[m] * p.w_units[n]));
    }
  }
  return out;
}

template <class T>
std::vector<T> product(const Problem& p, IsaLevel level) {
  const PackedCodes packed = pack_codes(p.w_side.format, p.w.data(), p.n, p.k, level);
  std::vector<T> out(static_cast<size_t>(p.m * p.n));
  gemm_lowbit(p.a_side.format, p.a.data(), p.a_units.data(), 0, p.m, packed, p.w_units.data(), 0,
              p.n, out.data(), p.n);
  return out;
}

template <class T>
bool same_bits(const std::vector<T>& x, const std::vector<T>& y) {
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(T)) == 0;
}

std::string describe(const Problem& p) {
  return fmt::format("{} x {}, M={} N={} K={}", p.a_side.name, p.w_side.name, p.m, p.n, p.k);
}

std::vector<std::pair<Side, Side>> side_pairs() {
  return {{kFourBit, kFourBit},   {kOneBit, kOneBit},    {kSevenBit, kSevenBit},
          {kEightBit, kEightBit}, {kFp4, kFp4},          {kTernary, kTernary},
          {kEightBit, kFourBit},  {kFourBit, kEightBit}, {kEightBit, kOneBit},
          {kSevenBit, kTernary},  {kFp4, kSevenBit}};
}

class GemmLowbit : public ::testing::TestWithParam<IsaLevel> {
 protected:
  void SetUp() override {
    const std::vector<IsaLevel> levels = available_isa_levels();
    if (std::find(levels.begin(), levels.end(), GetParam()) == levels.end()) {
      GTEST_SKIP() << "this CPU has no " << isa_level_name(GetParam());
    }
  }
};

TEST_P(GemmLowbit, EqualsTheExactSumOnAwkwardSizes) {
  const std::vector<int64_t> sizes = {1, 2, 3, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129, 255, 257};
  std::mt19937 random(7);
  std::uniform_int_distribution<size_t> pick(0, sizes.size() - 1);
  for (const auto& [a, w] : side_pairs()) {
    for (int trial = 0; trial < 12; ++trial) {
      const Problem p = make_problem(a, w, sizes[pick(random)], sizes[pick(random)],
                                     sizes[pick(random)], static_cast<unsigned>(trial));
      EXPECT_TRUE(same_bits(product<float>(p, GetParam()), reference<float>(p))) << describe(p);
      EXPECT_TRUE(same_bits(product<bfloat16>(p, GetParam()), reference<bfloat16>(p)))
          << describe(p);
    }
  }
}

TEST_P(GemmLowbit, EveryTailOfKIsExact) {
  for (const auto& [a, w] : side_pairs()) {
    for (int64_t k = 0; k <= 140; k += k < 12 ? 1 : 7) {
      const Problem p = make_problem(a, w, 7, 66, k, static_cast<unsigned>(k));
      EXPECT_TRUE(same_bits(product<float>(p, GetParam()), reference<float>(p))) << describe(p);
    }
  }
}

// Where saturating instructions would go wrong first.
TEST_P(GemmLowbit, ExactWhenAllCodesAreExtreme) {
  for (const auto& [a, w] : side_pairs()) {
    for (const bool a_low : {false, true}) {
      for (const bool w_low : {false, true}) {
        Problem p = make_problem(a, w, 5, 65, 2053, 1);
        const auto extreme = [](const Side& side, bool low) {
          const int high = largest_code(side);
          return static_cast<int8_t>(!low ? high : side.format.multiplier == 2 ? -high - 1 : -high);
        };
        std::fill(p.a.begin(), p.a.end(), extreme(a, a_low));
        std::fill(p.w.begin(), p.w.end(), extreme(w, w_low));
        EXPECT_TRUE(same_bits(product<float>(p, GetParam()), reference<float>(p))) << describe(p);
      }
    }
  }
}

TEST_P(GemmLowbit, LargestAllowedKIsExact) {
  const int64_t k = std::numeric_limits<int32_t>::max() / (255 * 255);
  Problem p = make_problem(kEightBit, kEightBit, 2, 3, k, 1);
  std::fill(p.a.begin(), p.a.end(), int8_t{127});
  std::fill(p.w.begin(), p.w.end(), int8_t{-128});
  EXPECT_TRUE(same_bits(product<float>(p, GetParam()), reference<float>(p)));
}

TEST_P(GemmLowbit, PiecesEqualTheWhole) {
  const Problem p = make_problem(kEightBit, kFourBit, 203, 257, 129, 3);
  const std::vector<float> whole = product<float>(p, GetParam());
  const PackedCodes packed = pack_codes(p.w_side.format, p.w.data(), p.n, p.k, GetParam());
  const int64_t ldo = p.n + 5;
  std::vector<float> pieces(static_cast<size_t>(p.m * ldo), -7.0f);
  for (int64_t m = 0; m < p.m; m += 50) {
    for (int64_t n = 0; n < p.n; n += 128) {
      gemm_lowbit(p.a_side.format, p.a.data(), p.a_units.data(), m, std::min(m + 50, p.m), packed,
                  p.w_units.data(), n, std::min(n + 128, p.n), pieces.data(), ldo);
    }
  }
  for (int64_t m = 0; m < p.m; ++m) {
    for (int64_t n = 0; n < ldo; ++n) {
      const float expected = n < p.n ? whole[m * p.n + n] : -7.0f;
      ASSERT_EQ(pieces[m * ldo + n], expected) << "row " << m << " column " << n;
    }
  }
}

TEST_P(GemmLowbit, CopiedAndMovedPackingsWork) {
  const Problem p = make_problem(kFourBit, kFourBit, 9, 70, 100, 4);
  PackedCodes packed = pack_codes(p.w_side.format, p.w.data(), p.n, p.k, GetParam());
  const PackedCodes copy = packed;
  const PackedCodes moved = std::move(packed);
  for (const PackedCodes* w : {&copy, &moved}) {
    std::vector<float> out(static_cast<size_t>(p.m * p.n));
    gemm_lowbit(p.a_side.format, p.a.data(), p.a_units.data(), 0, p.m, *w, p.w_units.data(), 0, p.n,
                out.data(), p.n);
    EXPECT_TRUE(same_bits(out, reference<float>(p)));
  }
}

// Overflow to infinity, and NaN that must stay NaN when rounded to bfloat16.
TEST_P(GemmLowbit, NonFiniteUnitsGoThroughTheEpilogue) {
  Problem p = make_problem(kFourBit, kFourBit, 4, 70, 33, 5);
  p.a_units = {std::numeric_limits<float>::infinity(), std::bit_cast<float>(0x7fffffffu), 3e38f,
               1e-44f};
  p.w_units[2] = 1e30f;
  EXPECT_TRUE(same_bits(product<bfloat16>(p, GetParam()), product<bfloat16>(p, IsaLevel::kScalar)));
  const std::vector<bfloat16> out = product<bfloat16>(p, GetParam());
  EXPECT_TRUE(std::isnan(static_cast<float>(out[70])));
}

INSTANTIATE_TEST_SUITE_P(Levels, GemmLowbit,
                         ::testing::Values(IsaLevel::kScalar, IsaLevel::kAvx2, IsaLevel::kAvx512,
                                           IsaLevel::kAvx512Vnni, IsaLevel::kAmx),
                         [](const auto& p) { return std::string(isa_level_name(p.param)); });

TEST(GemmLowbitErrors, ImpossibleFormatsAndSizesAreRefused) {
  const std::vector<int8_t> codes(64, 1);
  CodeFormat table;
  table.is_integer = false;
  EXPECT_QUEST_ERROR(pack_codes(table, codes.data(), 1, 4), ErrorKind::kUsage, "table of levels");
  EXPECT_QUEST_ERROR(pack_codes(format_of(1, 0, 300), codes.data(), 1, 4), ErrorKind::kUsage,
                     "does not fit");
  EXPECT_QUEST_ERROR(pack_codes(kEightBit.format, codes.data(), 0, int64_t{1} << 40),
                     ErrorKind::kUsage, "32 bits");

  const int64_t too_long = std::numeric_limits<int32_t>::max() / (255 * 255) + 1;
  const PackedCodes empty = pack_codes(kEightBit.format, nullptr, 0, too_long);
  float out = 0;
  EXPECT_QUEST_ERROR(
      gemm_lowbit(kEightBit.format, nullptr, nullptr, 0, 1, empty, nullptr, 0, 0, &out, int64_t{1}),
      ErrorKind::kUsage, "K may be at most 33025");
  const PackedCodes two = pack_codes(kFourBit.format, codes.data(), 2, 4);
  PackedCodes part = make_packed_codes(kFourBit.format, 2, 4);
  EXPECT_QUEST_ERROR(pack_rows(part, codes.data(), 0, 3), ErrorKind::kUsage, "[0, 3) of 2");
  EXPECT_QUEST_ERROR(gemm_lowbit(kFourBit.format, codes.data(), nullptr, 0, 1, two, nullptr, 0, 3,
                                 &out, int64_t{3}),
                     ErrorKind::kUsage, "[0, 3) of 2");
}

#ifdef __x86_64__
using testing::EmulatedTiles;

TEST(GemmLowbitAmxKernel, EqualsTheExactSumWithEmulatedTiles) {
  for (const auto& [a, w] : side_pairs()) {
    for (const auto& [m, n, k] : {std::array<int64_t, 3>{1, 1, 1},
                                  {31, 63, 63},
                                  {32, 64, 64},
                                  {33, 65, 65},
                                  {70, 129, 200}}) {
      const Problem p = make_problem(a, w, m, n, k, 11);
      const PackedCodes packed = pack_codes(w.format, p.w.data(), n, k, IsaLevel::kAmx);
      std::vector<float> out(static_cast<size_t>(m * n));
      detail::run_amx<EmulatedTiles>(detail::make_task(a.format, p.a.data(), p.a_units.data(), 0, m,
                                                       packed, p.w_units.data(), 0, n, out.data(),
                                                       n));
      EXPECT_TRUE(same_bits(out, reference<float>(p))) << describe(p);
      EXPECT_FALSE(EmulatedTiles::configured);
    }
  }
}
#endif

}  // namespace
}  // namespace quest::kernels
