#include "quest/kernels/table_gemm.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/testing.h"
#include "quest/kernels/packed_gemm_testing.h"

namespace quest::kernels {
namespace {

using ::quest::testing::AlignedBytes;

struct RandomTable {
  RandomTable(TableForm form, int64_t rows, int64_t columns, unsigned seed)
      : random(seed), u(static_cast<size_t>(rows * columns)) {
    table.form = form;
    table.rows = rows;
    table.columns = columns;
    std::normal_distribution<float> draw;
    const int64_t groups = (columns + kTileBlock - 1) / kTileBlock;
    for (int64_t i = 0; i < rows; ++i) row_units.push_back(std::fabs(draw(random)) * 0.01f);
    for (int64_t i = 0; i < rows * groups; ++i) {
      group_units.emplace_back(std::fabs(draw(random)) * 0.01f);
    }
    for (int64_t i = 0; i < rows * columns; ++i) weight.emplace_back(draw(random));
    for (uint8_t& value : u)
      value = static_cast<uint8_t>(random() % (form == TableForm::kInt4 ? 16 : 256));
    const CodeTiles tiles{.bits = form == TableForm::kInt4 ? 4 : 8, .n = rows, .k = columns};
    codes = AlignedBytes(tiles.bytes());
    pack_code_tiles(tiles, u.data(), codes.data());
    table.weight = weight.data();
    table.codes = codes.data();
    table.row_units = row_units.data();
    table.group_units = group_units.data();
  }

  double number(int64_t v, int64_t c) const {
    const int64_t groups = (table.columns + kTileBlock - 1) / kTileBlock;
    const int code = u[static_cast<size_t>(v * table.columns + c)];
    if (table.form == TableForm::kInt8) return double{row_units[v]} * (code - 128);
    if (table.form == TableForm::kInt4) {
      return double{static_cast<float>(group_units[v * groups + c / kTileBlock])} * (code - 8);
    }
    return static_cast<float>(weight[static_cast<size_t>(v * table.columns + c)]);
  }

  std::mt19937 random;
  TableWeight table;
  std::vector<uint8_t> u;
  AlignedBytes codes;
  std::vector<float> row_units;
  std::vector<bfloat16> group_units, weight;
};

std::vector<float> random_rows(int64_t m, int64_t ldx, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw;
  std::vector<float> x(static_cast<size_t>(m * ldx));
  for (float& value : x) value = draw(random);
  return x;
}

std::vector<float> product(const TableWeight& table, const std::vector<float>& x, int64_t m,
                           IsaLevel level, int64_t rows = 1 << 20, int64_t columns = 1 << 20) {
  const int64_t ldx = static_cast<int64_t>(x.size()) / m;
  AlignedBytes prepared(table_activation_bytes(table, m, level));
  if (rows >= m) {
    prepare_table_activations(table, x.data(), ldx, m, prepared.data(), level);
  }
  for (int64_t m0 = 0; rows < m && m0 < m; m0 += kPreparedRows) {
    prepare_table_activation_rows(table, x.data(), ldx, m, m0, std::min(m0 + kPreparedRows, m),
                                  prepared.data(), level);
  }
  std::vector<float> out(static_cast<size_t>(m * table.rows), -1.0f);
  for (int64_t m0 = 0; m0 < m; m0 += rows) {
    for (int64_t v = 0; v < table.rows; v += columns) {
      table_gemm(table, prepared.data(), m, m0, std::min(m0 + rows, m), v,
                 std::min(v + columns, table.rows), out.data(), table.rows, level);
    }
  }
  return out;
}

bool same_bits(const std::vector<float>& x, const std::vector<float>& y) {
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * 4) == 0;
}

constexpr TableForm kForms[] = {TableForm::kBf16, TableForm::kInt8, TableForm::kInt4};

class TableGemm : public ::testing::TestWithParam<IsaLevel> {
 protected:
  void SetUp() override {
    const std::vector<IsaLevel> levels = available_isa_levels();
    if (std::find(levels.begin(), levels.end(), GetParam()) == levels.end()) {
      GTEST_SKIP() << "this CPU has no " << isa_level_name(GetParam());
    }
  }
};

TEST_P(TableGemm, EqualsTheDefinitionOnAwkwardSizes) {
  std::mt19937 random(1);
  const std::vector<int64_t> rows = {1, 3, 15, 16, 17, 63, 100, 257};
  for (const TableForm form : kForms) {
    for (const int64_t m : {1, 2, 3, 4, 5, 8, 9, 33}) {
      for (const int64_t columns : {1, 16, 31, 32, 33, 64, 80, 128, 200, 640}) {
        const RandomTable t(form, rows[random() % rows.size()], columns,
                            static_cast<unsigned>(random()));
        const std::vector<float> x = random_rows(m, columns + 2, static_cast<unsigned>(random()));
        const std::vector<float> expected = product(t.table, x, m, IsaLevel::kScalar);
        ASSERT_TRUE(same_bits(product(t.table, x, m, GetParam()), expected))
            << table_plan_text(t.table, m, GetParam()) << " M=" << m << " V=" << t.table.rows
            << " C=" << columns;
        ASSERT_TRUE(same_bits(product(t.table, x, m, GetParam(), 3, 48), expected))
            << "pieces of " << table_plan_text(t.table, m, GetParam());
      }
    }
  }
}

TEST_P(TableGemm, LongRowsAndManyColumns) {
  for (const TableForm form : kForms) {
    const RandomTable t(form, 1100, 2080, 3);
    const std::vector<float> x = random_rows(2, 2080, 4);
    EXPECT_TRUE(
        same_bits(product(t.table, x, 2, GetParam()), product(t.table, x, 2, IsaLevel::kScalar)));
  }
}

// The largest sums: all codes at their ends, all activations equal.
TEST_P(TableGemm, ExtremesAreExact) {
  for (const TableForm form : {TableForm::kInt8, TableForm::kInt4}) {
    for (const uint8_t u : {0, 15, 255}) {
      for (const float sign : {-1.0f, 1.0f}) {
        RandomTable t(form, 20, 2048, 5);
        std::fill(t.u.begin(), t.u.end(),
                  form == TableForm::kInt4 ? static_cast<uint8_t>(u & 15) : u);
        const CodeTiles tiles{.bits = form == TableForm::kInt4 ? 4 : 8, .n = 20, .k = 2048};
        pack_code_tiles(tiles, t.u.data(), t.codes.data());
        const std::vector<float> x(3 * 2048, sign);
        EXPECT_TRUE(same_bits(product(t.table, x, 3, GetParam()),
                              product(t.table, x, 3, IsaLevel::kScalar)));
      }
    }
  }
}

TEST_P(TableGemm, ZeroTinyAndNonFiniteRows) {
  for (const TableForm form : {TableForm::kInt8, TableForm::kInt4}) {
    const RandomTable t(form, 40, 64, 6);
    std::vector<float> x = random_rows(5, 64, 7);
    for (int i = 0; i < 64; ++i) {
      x[i] = 0;
      x[64 + i] = 1e-44f;
      x[128 + i] *= 1e37f;
    }
    x[3 * 64 + 5] = std::numeric_limits<float>::infinity();
    x[4 * 64 + 9] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> out = product(t.table, x, 5, GetParam());
    for (int v = 0; v < 40; ++v) {
      EXPECT_EQ(out[v], 0.0f);
      EXPECT_TRUE(std::isfinite(out[40 + v]));
      EXPECT_TRUE(std::isnan(out[3 * 40 + v]) && std::isnan(out[4 * 40 + v]));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, TableGemm,
                         ::testing::Values(IsaLevel::kScalar, IsaLevel::kAvx2, IsaLevel::kAvx512,
                                           IsaLevel::kAvx512Vnni, IsaLevel::kAmx),
                         [](const auto& p) { return std::string(isa_level_name(p.param)); });

// The definition against the formula in double precision.
TEST(TableGemmDefinition, IsCloseToTheExactProduct) {
  for (const TableForm form : kForms) {
    const RandomTable t(form, 50, 160, 8);
    const std::vector<float> x = random_rows(3, 160, 9);
    const std::vector<float> out = product(t.table, x, 3, IsaLevel::kScalar);
    for (int64_t m = 0; m < 3; ++m) {
      float largest = 0;
      for (int64_t c = 0; c < 160; ++c) largest = std::max(largest, std::fabs(x[m * 160 + c]));
      for (int64_t v = 0; v < 50; ++v) {
        // Half a step of q in each term, and FP32 rounding.
        double sum = 0, bound = 0;
        for (int64_t c = 0; c < 160; ++c) {
          sum += double{x[m * 160 + c]} * t.number(v, c);
          bound += std::fabs(t.number(v, c)) * largest;
        }
        bound *= form == TableForm::kBf16 ? 2e-6 : 0.51 / 32639 + 2e-6;
        EXPECT_NEAR(out[m * 50 + v], sum, bound);
      }
    }
  }
}

TEST(TableRow, IsTheTable) {
  for (const TableForm form : kForms) {
    const RandomTable t(form, 37, 100, 10);
    std::vector<float> row(100);
    for (const int64_t v : {0, 1, 15, 16, 36}) {
      table_row(t.table, v, row.data());
      for (int64_t c = 0; c < 100; ++c) {
        EXPECT_EQ(row[c], static_cast<float>(t.number(v, c))) << v << " " << c;
      }
    }
  }
}

TEST(TableGemmErrors, RangesOutsideAreRefused) {
  const RandomTable t(TableForm::kInt8, 37, 100, 10);
  float out = 0;
  EXPECT_QUEST_ERROR(table_gemm(t.table, nullptr, 1, 0, 1, 8, 37, &out, 37), ErrorKind::kUsage,
                     "multiple of 16");
  EXPECT_QUEST_ERROR(table_gemm(t.table, nullptr, 1, 0, 1, 0, 38, &out, 37), ErrorKind::kUsage,
                     "[0, 38) of 37");
}

}  // namespace
}  // namespace quest::kernels
