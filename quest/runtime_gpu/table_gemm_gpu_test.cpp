// The GPU's embedding, head and argmax (quest/kernels/cuda/table_gemm.h) against the CPU's. Skipped
// where no GPU can be used.
#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "quest/kernels/cuda/table_gemm.h"
#include "quest/kernels/lane_order.h"
#include "quest/kernels/packed_gemm_testing.h"
#include "quest/kernels/table_gemm.h"
#include "quest/runtime_gpu/device_bytes_testing.h"

namespace quest {
namespace {

using kernels::TableForm;
using testing::AlignedBytes;
using testing::device_copy;
using testing::device_data;
using testing::host_copy;
using testing::poisoned_device;
using testing::same_bits;
namespace gpu = kernels::cuda;

class TableGemmGpu : public testing::GpuTest {};

constexpr TableForm kForms[] = {TableForm::kBf16, TableForm::kInt8, TableForm::kInt4};
const char* name_of(TableForm form) {
  return form == TableForm::kBf16 ? "bf16" : form == TableForm::kInt8 ? "int8" : "int4";
}

// A table on both sides.
struct Table {
  Table(TableForm form, int64_t rows, int64_t columns, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> draw;
    host.form = form;
    host.rows = rows;
    host.columns = columns;
    const int64_t groups = (columns + kTileBlock - 1) / kTileBlock;
    for (int64_t i = 0; i < rows; ++i) row_units.push_back(std::fabs(draw(random)) * 0.01f);
    for (int64_t i = 0; i < rows * groups; ++i) {
      group_units.emplace_back(std::fabs(draw(random)) * 0.01f);
    }
    at::Tensor codes_on_device;
    if (form == TableForm::kBf16) {
      for (int64_t i = 0; i < rows * columns; ++i) weight.emplace_back(draw(random));
      memory = device_copy(weight);
    } else {
      const bool is_int4 = form == TableForm::kInt4;
      std::vector<uint8_t> u(static_cast<size_t>(rows * columns));
      for (uint8_t& x : u) x = static_cast<uint8_t>(random() % (is_int4 ? 16 : 256));
      const CodeTiles tiles{.bits = is_int4 ? 4 : 8, .n = rows, .k = columns};
      codes = AlignedBytes(tiles.bytes());
      pack_code_tiles(tiles, u.data(), codes.data());
      std::vector<uint8_t> lanes(static_cast<size_t>(kernels::lane_bytes(tiles)));
      kernels::to_lanes(tiles, codes.data(), lanes.data(),
                        is_int4 ? kernels::LaneOrder::kGroups : kernels::LaneOrder::kRows);
      memory = device_copy(lanes);
    }
    std::vector<bfloat16> lane_units(static_cast<size_t>(kernels::lane_unit_count(rows, columns)));
    kernels::to_lane_units(group_units.data(), rows, columns, lane_units.data());
    device_row_units = device_copy(row_units);
    device_group_units = device_copy(lane_units);
    host.weight = weight.data();
    host.codes = codes.data();
    host.row_units = row_units.data();
    host.group_units = group_units.data();
    device = {form,
              rows,
              columns,
              memory.data_ptr(),
              device_data<float>(device_row_units),
              device_data<bfloat16>(device_group_units)};
  }
  kernels::TableWeight host;
  gpu::DeviceTable device;
  AlignedBytes codes;
  std::vector<float> row_units;
  std::vector<bfloat16> group_units, weight;
  at::Tensor memory, device_row_units, device_group_units;
};

std::vector<float> cpu_product(const kernels::TableWeight& table, const std::vector<float>& x,
                               int64_t m, int64_t ldx, IsaLevel level) {
  AlignedBytes prepared(kernels::table_activation_bytes(table, m, level));
  kernels::prepare_table_activations(table, x.data(), ldx, m, prepared.data(), level);
  std::vector<float> out(static_cast<size_t>(m * table.rows));
  kernels::table_gemm(table, prepared.data(), m, 0, m, 0, table.rows, out.data(), table.rows,
                      level);
  return out;
}

std::vector<float> gpu_product(const gpu::DeviceTable& table, const at::Tensor& x, int64_t m,
                               int64_t ldx) {
  const at::Tensor workspace = poisoned_device<uint8_t>(gpu::table_workspace_bytes(table, m));
  const at::Tensor out = poisoned_device<float>(m * table.rows);
  gpu::table_gemm(table, device_data<float>(x), ldx, m, workspace.data_ptr(),
                  device_data<float>(out), table.rows, ops::current_stream());
  return host_copy<float>(out);
}

void expect_bits_of_the_cpu(TableForm form, int64_t v, int64_t c,
                            const std::vector<int64_t>& row_counts, IsaLevel level) {
  const Table t(form, v, c, static_cast<unsigned>(v + c));
  const int64_t most = *std::max_element(row_counts.begin(), row_counts.end()), ldx = c + 3;
  std::mt19937 random(1);
  std::normal_distribution<float> draw;
  std::vector<float> x(static_cast<size_t>(most * ldx));
  for (float& value : x) value = draw(random);
  if (most > 3) {  // rows of zeros, of one spike, of denormal numbers
    std::fill_n(x.begin() + ldx, ldx, 0.0f);
    x[static_cast<size_t>(2 * ldx)] = 1e6f;
    for (int64_t i = 0; i < ldx; ++i) x[static_cast<size_t>(3 * ldx + i)] *= 1e-42f;
  }
  const std::vector<float> expected = cpu_product(t.host, x, most, ldx, level);
  const at::Tensor device_x = device_copy(x);
  for (const int64_t m : row_counts) {
    ASSERT_TRUE(same_bits(gpu_product(t.device, device_x, m, ldx), expected, m * v))
        << name_of(form) << " V=" << v << " C=" << c << " M=" << m;
  }
}

TEST_F(TableGemmGpu, HasTheBitsOfTheDefinitionOnAwkwardSizes) {
  for (const TableForm form : kForms) {
    for (const int64_t v : {1, 16, 17, 100}) {
      for (const int64_t c : {1, 16, 31, 32, 50, 64, 96, 128, 160, 257, 1024, 1100}) {
        expect_bits_of_the_cpu(form, v, c, {1, 2, 3, 4, 7, 8, 9, 16, 33, 64, 70},
                               IsaLevel::kScalar);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_F(TableGemmGpu, HasTheBitsOfTheCpuOnSizesOfModels) {
  for (const TableForm form : kForms) {
    expect_bits_of_the_cpu(form, 4096, 4096, {1, 8, 32, 64}, isa_level());
    expect_bits_of_the_cpu(form, 32000, 640, {1, 5}, isa_level());
    expect_bits_of_the_cpu(form, 70, 8192, {1, 16, 33}, isa_level());
    if (HasFatalFailure()) return;
  }
}

TEST_F(TableGemmGpu, ARowThatIsNotFiniteIsNan) {
  for (const TableForm form : {TableForm::kInt8, TableForm::kInt4}) {
    const Table t(form, 40, 96, 4);
    std::vector<float> x(4 * 96, 0.5f);
    x[96 + 7] = std::numeric_limits<float>::quiet_NaN();
    x[2 * 96 + 95] = -std::numeric_limits<float>::infinity();
    const std::vector<float> out = gpu_product(t.device, device_copy(x), 4, 96);
    for (size_t i = 0; i < out.size(); ++i) {
      ASSERT_EQ(std::isnan(out[i]), i / 40 == 1 || i / 40 == 2) << name_of(form) << " " << i;
    }
  }
}

TEST_F(TableGemmGpu, RowsOfTheEmbedding) {
  for (const TableForm form : kForms) {
    for (const auto& [v, c] : {std::pair{1, 32}, {17, 96}, {100, 640}, {40, 257}, {33, 4096}}) {
      const Table t(form, v, c, 8);
      std::vector<int32_t> tokens = {v - 1, 0, v / 2, v - 1, -1, v};
      const auto m = static_cast<int64_t>(tokens.size());
      std::vector<float> expected(static_cast<size_t>(m * c));
      for (int64_t i = 0; i < 4; ++i) {
        kernels::table_row(t.host, tokens[static_cast<size_t>(i)], expected.data() + i * c);
      }
      std::vector<bfloat16> rounded;
      for (const float x : expected) rounded.emplace_back(x);
      const at::Tensor device_tokens = device_copy(tokens);
      const at::Tensor out = poisoned_device<float>(m * c), half = poisoned_device<bfloat16>(m * c);
      gpu::table_rows<float>(t.device, device_data<int32_t>(device_tokens), m,
                             device_data<float>(out), ops::current_stream());
      gpu::table_rows<bfloat16>(t.device, device_data<int32_t>(device_tokens), m,
                                device_data<bfloat16>(half), ops::current_stream());
      const std::vector<float> got = host_copy<float>(out);
      ASSERT_TRUE(same_bits(got, expected, 4 * c)) << name_of(form) << " C=" << c;
      ASSERT_TRUE(same_bits(host_copy<bfloat16>(half), rounded, 4 * c)) << name_of(form);
      for (int64_t i = 4 * c; i < m * c; ++i) {
        ASSERT_TRUE(std::isnan(got[static_cast<size_t>(i)])) << "a token outside the table";
      }
    }
  }
}

std::vector<int32_t> gpu_argmax(const std::vector<float>& logits, int64_t m, int64_t v,
                                int64_t ld) {
  const at::Tensor x = device_copy(logits), out = poisoned_device<int32_t>(m);
  gpu::argmax_rows(device_data<float>(x), m, v, ld, device_data<int32_t>(out),
                   ops::current_stream());
  return host_copy<int32_t>(out);
}

TEST_F(TableGemmGpu, ArgmaxIsTheFirstOfTheLargest) {
  std::mt19937 random(2);
  for (const int64_t v : {1, 2, 31, 1024, 1025, 32000}) {
    const int64_t m = 9, ld = v + 5;
    std::vector<float> logits(static_cast<size_t>(m * ld));
    for (float& x : logits) x = static_cast<float>(static_cast<int>(random() % 200) - 190);
    for (int64_t row = 0; row < m; ++row) {  // past the end of a row: larger than all
      for (int64_t i = v; i < ld; ++i) logits[static_cast<size_t>(row * ld + i)] = 1e9f;
    }
    const std::vector<int32_t> got = gpu_argmax(logits, m, v, ld);
    for (int64_t row = 0; row < m; ++row) {
      const auto first = logits.begin() + row * ld;
      EXPECT_EQ(got[static_cast<size_t>(row)], std::max_element(first, first + v) - first)
          << "V=" << v << " row " << row;
    }
  }
}

TEST_F(TableGemmGpu, ArgmaxOfZerosInfinitiesAndNan) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> logits = {-1.0f, -0.0f, 0.0f,  -2.0f,  // -0 equals 0
                                     -inf,  -inf,  -inf,  -inf,   //
                                     1.0f,  inf,   3.0f,  inf,    //
                                     1.0f,  nan,   3.0f,  2.0f,   //
                                     -3.0f, -2.0f, -2.5f, -2.0f,  //
                                     -nan,  1.0f,  1.0f,  1.0f};
  EXPECT_EQ(gpu_argmax(logits, 6, 4, 4), (std::vector<int32_t>{1, 0, 1, -1, 1, -1}));
}

}  // namespace
}  // namespace quest
