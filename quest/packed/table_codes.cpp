#include "quest/packed/table_codes.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "quest/base/error.h"

namespace quest {
namespace {

// Below this, 1 / unit could overflow; such values are as good as zero.
constexpr float kTiny = 1e-30f;

float largest_magnitude(std::span<const float> x) {
  float largest = 0;
  bool finite = true;
  for (const float value : x) {
    largest = std::max(largest, std::abs(value));
    finite = finite && std::isfinite(value);
  }
  QUEST_CHECK(finite, ErrorKind::kNumeric, "a row of the table holds a value that is not finite");
  return largest;
}

// To the nearest whole number, ties to even; |x| < 2^22. Without a call, so that loops vectorize.
float round_whole(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return (x + kMagic) - kMagic;
}

float whole_between(float x, float low, float high) {
  return round_whole(std::min(std::max(x, low), high));
}

// The 4-bit values of one group with this unit and their squared error.
float quantize_group(const float* x, float unit, uint8_t* values) {
  const float inverse = 1.0f / unit;
  std::array<float, kTableGroup> squares;
  for (size_t i = 0; i < kTableGroup; ++i) {
    const float number = whole_between(x[i] * inverse, -8, 7);
    values[i] = static_cast<uint8_t>(static_cast<int>(number) + 8);
    const float error = number * unit - x[i];
    squares[i] = error * error;
  }
  float sum = 0;
  for (const float square : squares) sum += square;
  return sum;
}

}  // namespace

float quantize_int8_row(std::span<const float> x, uint8_t* values) {
  const float largest = largest_magnitude(x);
  if (largest < kTiny) {
    std::fill_n(values, x.size(), uint8_t{128});
    return 0;
  }
  const float unit = largest / 127;
  for (size_t i = 0; i < x.size(); ++i) {
    values[i] = static_cast<uint8_t>(static_cast<int>(whole_between(x[i] / unit, -127, 127)) + 128);
  }
  return unit;
}

void quantize_int4_row(std::span<const float> x, uint8_t* values, bfloat16* units) {
  QUEST_ASSERT(x.size() % kTableGroup == 0, "{} columns", x.size());
  for (size_t group = 0; group < x.size() / kTableGroup; ++group) {
    const auto part = x.subspan(group * kTableGroup, kTableGroup);
    uint8_t* best = values + group * kTableGroup;
    const float largest = largest_magnitude(part);
    units[group] = bfloat16(0.0f);
    std::fill_n(best, kTableGroup, uint8_t{8});
    if (largest < kTiny) continue;
    float least = std::numeric_limits<float>::infinity();
    for (int quarter = 24; quarter <= 36; ++quarter) {
      const bfloat16 unit(largest * (4.0f / static_cast<float>(quarter)));
      std::array<uint8_t, kTableGroup> candidate;
      const float error = quantize_group(part.data(), static_cast<float>(unit), candidate.data());
      if (!(error < least)) continue;
      least = error;
      units[group] = unit;
      std::copy(candidate.begin(), candidate.end(), best);
    }
  }
}

void dequantize_table_row(const PackedTable& table, int64_t row, std::span<float> out) {
  const auto r = static_cast<size_t>(row), columns = static_cast<size_t>(table.columns);
  QUEST_ASSERT(row >= 0 && row < table.rows && out.size() == columns, "row {}", row);
  if (table.format == TableFormat::kBf16) {
    for (size_t k = 0; k < columns; ++k) out[k] = static_cast<float>(table.weight[r * columns + k]);
    return;
  }
  std::array<uint8_t, kTileRows * kTileBlock> block;
  for (int64_t b = 0; b < table.tiles.blocks(); ++b) {
    unpack_code_block(table.tiles, table.codes.data(), row / kTileRows, b, block.data());
    const uint8_t* values = block.data() + row % kTileRows * kTileBlock;
    const int64_t begin = b * kTileBlock, end = std::min(table.columns, begin + kTileBlock);
    for (int64_t k = begin; k < end; ++k) {
      const int value = values[k - begin];
      const auto group = static_cast<size_t>((row * table.columns + k) / kTableGroup);
      out[static_cast<size_t>(k)] =
          table.format == TableFormat::kInt8
              ? table.row_units[r] * static_cast<float>(value - 128)
              : static_cast<float>(table.group_units[group]) * static_cast<float>(value - 8);
    }
  }
}

}  // namespace quest
