// The definition of table_gemm: what every level must give, bit for bit.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "quest/kernels/table_gemm_task.h"

namespace quest::kernels::detail {
namespace {

// sum over columns [first, last) of q (u - zero).
int64_t exact_sum(const int8_t* high, const int8_t* low, const uint8_t* u, int zero, int64_t first,
                  int64_t last) {
  int64_t sum = 0;
  for (int64_t c = first; c < last; ++c) sum += (256 * high[c] + low[c]) * (u[c] - zero);
  return sum;
}

float bf16_product(const float* x, const bfloat16* w, int64_t columns) {
  float s[16] = {};
  for (int64_t c = 0; c < columns; ++c) {
    s[c % 16] = std::fma(x[c], static_cast<float>(w[c]), s[c % 16]);
  }
  for (int half = 8; half >= 1; half /= 2) {
    for (int i = 0; i < half; ++i) s[i] += s[i + half];
  }
  return s[0];
}

}  // namespace

void split_row(const float* x, int64_t columns, float* unit, int8_t* high, int8_t* low,
               int32_t* group_terms) {
  float largest = 0;
  bool finite = true;
  for (int64_t c = 0; c < columns; ++c) {
    largest = std::max(largest, std::fabs(x[c]));
    finite = finite && std::fabs(x[c]) <= std::numeric_limits<float>::max();
  }
  *unit = finite ? largest / 32639.0f : std::numeric_limits<float>::quiet_NaN();
  float inverse = finite && largest > 0 ? 32639.0f / largest : 0.0f;
  if (inverse > std::numeric_limits<float>::max()) inverse = 0.0f;  // a row of denormal numbers
  for (int64_t c = 0; c < columns; ++c) {
    // Adding and subtracting 1.5 * 2^23 rounds half to even.
    const float scaled = finite ? x[c] * inverse : 0.0f;
    const auto q = static_cast<int32_t>((scaled + 12582912.0f) - 12582912.0f);
    const int32_t rest = ((q + 128) & 255) - 128;
    low[c] = static_cast<int8_t>(rest);
    high[c] = static_cast<int8_t>((q - rest) / 256);
    if (c % kTileBlock == 0) group_terms[c / kTileBlock] = 0;
    group_terms[c / kTileBlock] -= 8 * q;
  }
}

void table_gemm_scalar(const TableWeight& table, const float* units, const int8_t* codes,
                       const float* x, int64_t ldx, const OutputRange& range) {
  const int64_t columns = table.columns;
  if (table.form == TableForm::kBf16) {
    for (int64_t m = range.m0; m < range.m1; ++m) {
      for (int64_t v = range.n0; v < range.n1; ++v) {
        range.out[m * range.ldo + v] =
            bf16_product(x + m * ldx, table.weight + v * columns, columns);
      }
    }
    return;
  }
  const bool is_int8 = table.form == TableForm::kInt8;
  const CodeTiles tiles{.bits = is_int8 ? 8 : 4, .n = table.rows, .k = columns};
  std::vector<uint8_t> u(static_cast<size_t>(kTileRows * tiles.padded_k()));
  uint8_t block[kTileRows * kTileBlock];
  for (int64_t v = range.n0; v < range.n1; ++v) {
    if (v % kTileRows == 0) {
      for (int64_t b = 0; b < tiles.blocks(); ++b) {
        unpack_code_block(tiles, table.codes, v / kTileRows, b, block);
        for (int64_t r = 0; r < kTileRows; ++r) {
          std::copy_n(block + r * kTileBlock, kTileBlock,
                      u.data() + r * tiles.padded_k() + b * kTileBlock);
        }
      }
    }
    const uint8_t* row = u.data() + v % kTileRows * tiles.padded_k();
    for (int64_t m = range.m0; m < range.m1; ++m) {
      const int8_t* high = codes + 2 * m * columns;
      const int8_t* low = high + columns;
      if (is_int8) {
        const auto sum = static_cast<float>(exact_sum(high, low, row, 128, 0, columns));
        range.out[m * range.ldo + v] = sum * (units[m] * table.row_units[v]);
        continue;
      }
      float s = 0;
      for (int64_t g = 0; g < tiles.blocks(); ++g) {
        const int64_t last = std::min(columns, (g + 1) * kTileBlock);
        const auto sum = static_cast<float>(exact_sum(high, low, row, 8, g * kTileBlock, last));
        s = std::fma(sum, static_cast<float>(table.group_units[v * tiles.blocks() + g]), s);
      }
      range.out[m * range.ldo + v] = s * units[m];
    }
  }
}

}  // namespace quest::kernels::detail
