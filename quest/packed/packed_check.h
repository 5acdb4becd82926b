// Proofs on the values of a packed model's tensors, for a file that is not trusted: what shapes and
// checksums cannot say.
//
// Each throws kData with `where` (file and tensor) in front. Thread rules: pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "quest/base/bfloat16.h"
#include "quest/base/thread_pool.h"
#include "quest/packed/packed_model.h"

namespace quest {

// Stored values that the grid has (ternary: not 3, FP4: not 15; pairs: first < second), and zeros
// in rows and columns past the end. tensor.spec has codes.
void check_packed_codes(const PackedTensor& tensor, const std::string& where, ThreadPool& pool);
// Zeros past the end of tiles of any values.
void check_tile_padding(const CodeTiles& tiles, std::span<const uint8_t> bytes,
                        const std::string& where);
// 0 <= sum <= k * top value (FP4: the sum of numbers, of either sign), so that no product that uses
// it leaves 64 bits; equal to the codes' only by the checksum and `quest verify`.
void check_value_sums(const PackedTensor& tensor, const std::string& where);
void check_units(std::span<const float> units, const std::string& where);  // finite, not negative
void check_units(std::span<const bfloat16> units, const std::string& where);  // the same
void check_finite(std::span<const float> values, const std::string& where);
void check_finite(std::span<const bfloat16> values, const std::string& where, ThreadPool& pool);

}  // namespace quest
