#include "quest/kernels/table_gemm.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "quest/base/error.h"
#include "quest/base/integer_math.h"
#include "quest/kernels/table_gemm_task.h"

namespace quest::kernels {
namespace {

using detail::ActivationLayout;
using detail::effective_level;
using detail::OutputRange;

constexpr int64_t kMinRowsForTiles = 5;  // of x, each of which is two rows of codes
constexpr int64_t kAccBytes = int64_t{128} << 10;
constexpr int64_t kMaxRows = 256;      // of x in one block of sums
constexpr int64_t kMaxColumns = 1024;  // of the table
constexpr int64_t kTermRows = 4;       // of x in the largest strip of codes

int64_t groups_of(const TableWeight& table) { return divide_up(table.columns, kTileBlock); }

// How the codes of x are multiplied: as activations without offset of a packed product.
PackedPlan code_plan(const TableWeight& table, int64_t m, IsaLevel level) {
  PackedPlan plan;
  plan.level = effective_level(level);
  plan.activation = {.grid = Grid::kUniform, .bits = 7};
  if (plan.level == IsaLevel::kScalar) {
    plan.method = PackedMethod::kDefinition;
  } else if (plan.level == IsaLevel::kAmx && table.form == TableForm::kInt8 &&
             m >= kMinRowsForTiles) {
    plan.method = PackedMethod::kTiles;
  } else {
    plan.method = PackedMethod::kDot;
  }
  return plan;
}

// Where prepared activations have what. kBf16: rows of x alone.
struct TableLayout {
  int64_t units = 0, group_terms = 0, codes = 0, bytes = 0;
};
TableLayout table_layout(const TableWeight& table, const PackedPlan& plan, int64_t m) {
  TableLayout layout;
  if (table.form == TableForm::kBf16) {
    layout.bytes = 4 * m * round_up(table.columns, 16);
    return layout;
  }
  layout.group_terms = round_up(4 * m, 64);
  layout.codes = layout.group_terms + round_up(4 * round_up(m, kTermRows) * groups_of(table), 64);
  layout.bytes = layout.codes + activation_bytes(plan, 2 * m, table.columns);
  return layout;
}

// kInt8: columns in blocks whose sums stay in the cache.
void int8_product(const TableWeight& table, const PackedPlan& plan, const uint8_t* prepared,
                  int64_t m, const OutputRange& range) {
  const TableLayout layout = table_layout(table, plan, m);
  const ActivationLayout strips = detail::activation_layout(plan, 2 * m, table.columns);
  const uint8_t* activations = prepared + layout.codes;
  const auto* units = reinterpret_cast<const float*>(prepared);

  const int64_t rows = std::min(kMaxRows, range.m1 - range.m0);
  const int64_t columns = std::min(kMaxColumns, kAccBytes / 4 / (2 * rows) / 32 * 32);
  static thread_local std::vector<int32_t> sums;
  static thread_local std::vector<uint32_t> row_terms;
  sums.resize(static_cast<size_t>(2 * rows * columns));
  row_terms.resize(static_cast<size_t>(2 * rows));
  detail::PackedTask task;
  task.w.bits = 8;
  task.w.bytes = table.codes;
  task.w.blocks = groups_of(table);
  task.w.tile_bytes = task.w.blocks * 64 * task.w.bits;
  task.a = activations + strips.strips_offset;
  task.strip = strips.strip;
  task.strip_bytes = strips.strip_bytes;
  task.row_terms = row_terms.data();
  task.ldo = columns;
  for (int64_t m_block = range.m0; m_block < range.m1; m_block += rows) {
    const int64_t m_end = std::min(m_block + rows, range.m1);
    task.m0 = 2 * m_block;
    task.m1 = 2 * m_end;
    for (int64_t row = task.m0; row < task.m1; ++row) {
      int32_t sum;
      std::memcpy(&sum, activations + 4 * row, 4);
      row_terms[static_cast<size_t>(row - task.m0)] = static_cast<uint32_t>(-128 * sum);
    }
    for (int64_t v = range.n0; v < range.n1; v += columns) {
      task.n0 = v;
      task.n1 = std::min(v + columns, range.n1);
      task.acc = sums.data() - task.m0 * columns - v;
      detail::run_packed_task(plan.method, plan.level, task);
      for (int64_t row = m_block; row < m_end; ++row) {
        const int32_t* high = sums.data() + 2 * (row - m_block) * columns;
        const int32_t* low = high + columns;
        for (int64_t i = 0; i < task.n1 - v; ++i) {
          const double total = 256.0 * high[i] + low[i];  // exact
          range.out[row * range.ldo + v + i] =
              static_cast<float>(total) * (units[row] * table.row_units[v + i]);
        }
      }
    }
  }
}

[[maybe_unused]] void int4_product(const TableWeight& table, const PackedPlan& plan,
                                   const uint8_t* prepared, int64_t m, const OutputRange& range) {
  const TableLayout layout = table_layout(table, plan, m);
  const ActivationLayout strips = detail::activation_layout(plan, 2 * m, table.columns);
  detail::TableGroupTask task{range};
  task.codes = table.codes;
  task.rows = table.rows;
  task.groups = groups_of(table);
  task.group_units = table.group_units;
  task.strips = prepared + layout.codes + strips.strips_offset;
  task.strip = strips.strip;
  task.strip_bytes = strips.strip_bytes;
  task.group_terms = reinterpret_cast<const int32_t*>(prepared + layout.group_terms);
  task.units = reinterpret_cast<const float*>(prepared);
#ifdef __x86_64__
  if (plan.level >= IsaLevel::kAvx512Vnni) return detail::table_groups_avx512vnni(task);
  if (plan.level == IsaLevel::kAvx512) return detail::table_groups_avx512(task);
  detail::table_groups_avx2(task);
#endif
}

[[maybe_unused]] void bf16_product(const TableWeight& table, IsaLevel level, const float* x,
                                   const OutputRange& range) {
  detail::TableRowsTask task{range};
  task.weight = table.weight;
  task.columns = table.columns;
  task.x = x;
  task.ldx = round_up(table.columns, 16);
#ifdef __x86_64__
  if (level >= IsaLevel::kAvx512) return detail::table_rows_avx512(task);
  detail::table_rows_avx2(task);
#endif
}

const char* form_name(TableForm form) {
  switch (form) {
    case TableForm::kInt8:
      return "int8";
    case TableForm::kInt4:
      return "int4";
    default:
      return "bf16";
  }
}

}  // namespace

int64_t table_activation_bytes(const TableWeight& table, int64_t m, IsaLevel level) {
  return table_layout(table, code_plan(table, m, level), m).bytes;
}

void prepare_table_activations(const TableWeight& table, const float* x, int64_t ldx, int64_t m,
                               uint8_t* prepared, IsaLevel level) {
  prepare_table_activation_rows(table, x, ldx, m, 0, m, prepared, level);
}

void prepare_table_activation_rows(const TableWeight& table, const float* x, int64_t ldx, int64_t m,
                                   int64_t m0, int64_t m1, uint8_t* prepared, IsaLevel level) {
  const PackedPlan plan = code_plan(table, m, level);
  const TableLayout layout = table_layout(table, plan, m);
  const int64_t columns = table.columns;
  if (table.form == TableForm::kBf16) {
    const int64_t stride = round_up(columns, 16);
    auto* rows = reinterpret_cast<float*>(prepared);
    for (int64_t row = m0; row < m1; ++row) {
      std::copy_n(x + row * ldx, columns, rows + row * stride);
      std::fill(rows + row * stride + columns, rows + (row + 1) * stride, 0.0f);
    }
    return;
  }
  auto* units = reinterpret_cast<float*>(prepared);
  auto* group_terms = reinterpret_cast<int32_t*>(prepared + layout.group_terms);
  const int64_t groups = groups_of(table);
  std::vector<int8_t> codes(static_cast<size_t>(2 * (m1 - m0) * columns));
  for (int64_t row = m0; row < m1; ++row) {
    int8_t* high = codes.data() + 2 * (row - m0) * columns;
    detail::split_row(x + row * ldx, columns, units + row, high, high + columns,
                      group_terms + row * groups);
  }
  if (m1 == m) {
    std::fill(group_terms + m * groups, group_terms + round_up(m, kTermRows) * groups, 0);
  }
  prepare_activation_rows(plan, codes.data() - 2 * m0 * columns, 2 * m, columns, 2 * m0, 2 * m1,
                          prepared + layout.codes);
}

void table_gemm(const TableWeight& table, const uint8_t* prepared, int64_t m, int64_t m0,
                int64_t m1, int64_t v0, int64_t v1, float* out, int64_t ldo, IsaLevel level) {
  const OutputRange range{m0, m1, v0, v1, out, ldo};
  detail::check_range("table_gemm", range, m, table.rows);
  QUEST_CHECK(table.form != TableForm::kInt8 || table.columns <= (int64_t{1} << 17),
              ErrorKind::kUsage, "table_gemm: rows of {} columns, at most {}", table.columns,
              int64_t{1} << 17);
  if (range.is_empty()) return;
  const PackedPlan plan = code_plan(table, m, level);
  if (plan.level == IsaLevel::kScalar) {
    const TableLayout layout = table_layout(table, plan, m);
    const auto* numbers = reinterpret_cast<const float*>(prepared);  // units, or x
    const int8_t* codes = nullptr;
    if (table.form != TableForm::kBf16) {
      const ActivationLayout rows = detail::activation_layout(plan, 2 * m, table.columns);
      codes = reinterpret_cast<const int8_t*>(prepared + layout.codes + rows.strips_offset);
    }
    return detail::table_gemm_scalar(table, numbers, codes, numbers, round_up(table.columns, 16),
                                     range);
  }
  switch (table.form) {
    case TableForm::kInt8:
      return int8_product(table, plan, prepared, m, range);
    case TableForm::kInt4:
      return int4_product(table, plan, prepared, m, range);
    case TableForm::kBf16:
      return bf16_product(table, plan.level, reinterpret_cast<const float*>(prepared), range);
  }
}

void table_row(const TableWeight& table, int64_t v, float* out) {
  QUEST_ASSERT(v >= 0 && v < table.rows, "row {} of {}", v, table.rows);
  if (table.form == TableForm::kBf16) {
    const bfloat16* row = table.weight + v * table.columns;
    for (int64_t c = 0; c < table.columns; ++c) out[c] = static_cast<float>(row[c]);
    return;
  }
  // A line of 64 bytes holds 4 bytes of each of 16 rows; a byte is one column, or two, 4 apart.
  const bool is_int8 = table.form == TableForm::kInt8;
  const int64_t groups = groups_of(table);
  const int64_t block_bytes = is_int8 ? 512 : 256;
  const uint8_t* tile = table.codes + v / kTileRows * groups * block_bytes + 4 * (v % kTileRows);
  for (int64_t c = 0; c < table.columns; ++c) {
    const int64_t group = c / 4 % 8;
    const int64_t line = is_int8 ? group : group / 2;
    const int u = tile[c / kTileBlock * block_bytes + 64 * line + c % 4];
    if (is_int8) {
      out[c] = table.row_units[v] * static_cast<float>(u - 128);
    } else {
      const auto unit = static_cast<float>(table.group_units[v * groups + c / kTileBlock]);
      out[c] = unit * static_cast<float>((u >> (group % 2 * 4) & 15) - 8);
    }
  }
}

std::string table_plan_text(const TableWeight& table, int64_t m, IsaLevel level) {
  std::string text = form_name(table.form);
  if (table.form == TableForm::kBf16) {
    return text + " rows, " +
           std::string(isa_level_name(std::min(effective_level(level), IsaLevel::kAvx512)));
  }
  return text + " " + packed_plan_text(code_plan(table, m, level));
}

}  // namespace quest::kernels
