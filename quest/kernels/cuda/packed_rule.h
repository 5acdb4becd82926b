// What the kernels of packed_gemm.h must know of the formats of a product: plain data, passed to
// kernels by value.
#pragma once

#include <cstdint>

#include "quest/quant/quant_spec.h"

namespace quest::kernels::cuda {

// How a packed weight is multiplied: 1 to 8, bits of an affine grid; or
inline constexpr int kPackedFp4 = 9;        // 4 bits that index a table of numbers
inline constexpr int kPackedOneBit = 10;    // W1A1, by bits
inline constexpr int kPackedGaussian = 11;  // a table of levels: unpack_values alone
inline constexpr int kPackedSparse = 12;    // 4:8: unpacked only
constexpr int packed_bits(int kind) {
  return kind == kPackedFp4 || kind == kPackedSparse ? 4 : kind == kPackedOneBit ? 1 : kind;
}

struct PackedRule {
  int kind = 0, bits = 0;
  // number = w_multiplier * u + w_offset, or numbers[u], or levels[u]
  int w_multiplier = 1, w_offset = 0;
  int8_t numbers[16] = {};
  float levels[16] = {};
  // number of an activation = a_multiplier * code + a_offset. W1A1: of the bit.
  int a_multiplier = 1, a_offset = 0;
};

// The weight alone. Throws kUsage for grids without codes.
PackedRule weight_rule(const QuantSpec& weight);
// Throws kUsage, saying `operation`, where packed_gemm_supports() is false or m is not in
// [0, kMaxPackedRows].
PackedRule product_rule(const QuantSpec& weight, const QuantSpec& activation, int64_t m, int64_t k);
// The same product by codes, never by bits of W1A1. Grids of integers, not 4:8.
PackedRule code_rule(const QuantSpec& weight, const QuantSpec& activation);
// Throws kUsage where unpack_numbers_supports() is false.
void check_numbers_fit(const QuantSpec& weight);
// Throws kUsage for grids that number_sums() is not for.
void check_has_sums(const QuantSpec& weight);
// Asserts that they are given.
void check_has_number_sums(const QuantSpec& weight, const void* sums);

// Throws kUsage, saying `operation` and the layer's sizes, unless `supports`.
void check_decode_linear(bool supports, const char* operation, const QuantSpec& weight,
                         const QuantSpec& activation, int64_t n, int64_t k);

// Throws kUsage for a C that the sums of integer tables (table_gemm.h) do not allow.
void check_table_columns(int64_t columns);

}  // namespace quest::kernels::cuda
