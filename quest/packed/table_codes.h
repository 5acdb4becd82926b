// The codes of embedding and head: 8 bits with a unit per row, or 4 bits with a unit for each 32
// columns (packed_model.h has the formats).
//
//   std::vector<uint8_t> values(c);
//   float unit = quantize_int8_row(row, values.data());
//   dequantize_table_row(model.embedding(), token, row);
//
// Thread rules: pure.
#pragma once

#include <cstdint>
#include <span>

#include "quest/base/bfloat16.h"
#include "quest/packed/packed_model.h"

namespace quest {

inline constexpr int64_t kTableGroup = 32;  // columns of one unit of an int4 table

// unit = max|x| / 127, value = round(x / unit) + 128 (1 to 255); a row of zeros has unit 0. Throws
// kNumeric for a value that is not finite.
float quantize_int8_row(std::span<const float> x, uint8_t* values);
// value = clamp(round(x / unit), -8, 7) + 8. Of the units max|x| / d, d = 6, 6.25, ... 9, rounded
// to bfloat16, the one of least squared error (of equal ones the first); a group of zeros has unit
// 0. x.size() is a multiple of 32; units: one for each 32. Throws kNumeric.
void quantize_int4_row(std::span<const float> x, uint8_t* values, bfloat16* units);

// Row `row` of the table as numbers: unit * (u - 128), unit * (u - 8), in float. out: `columns`.
void dequantize_table_row(const PackedTable& table, int64_t row, std::span<float> out);

}  // namespace quest
