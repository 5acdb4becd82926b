#include "quest/packed/packed_check.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "quest/base/error.h"

namespace quest {
namespace {

using Block = std::array<uint8_t, kTileRows * kTileBlock>;

// The first byte in which a field of `bits` bits is all ones, or -1: ternary 3, FP4 15.
int64_t find_all_ones(std::span<const uint8_t> bytes, int bits) {
  unsigned found = 0;
  const auto hit = [bits](unsigned byte) {
    unsigned ones = byte & byte >> 1;  // bit i: bits i and i + 1
    if (bits == 4) ones &= ones >> 2;
    return ones & (bits == 4 ? 0x11u : 0x55u);
  };
  for (const uint8_t byte : bytes) found |= hit(byte);  // vectorizes
  if (found == 0) return -1;
  const auto at =
      std::find_if(bytes.begin(), bytes.end(), [&](uint8_t byte) { return hit(byte) != 0; });
  return at - bytes.begin();
}

// Proves what `check(value, row, column)` says of every value inside the matrix.
template <class Check>
void for_values_of_tile(const CodeTiles& tiles, std::span<const uint8_t> bytes, int64_t row_tile,
                        Check&& check) {
  Block block;
  for (int64_t b = 0; b < tiles.blocks(); ++b) {
    unpack_code_block(tiles, bytes.data(), row_tile, b, block.data());
    const int64_t rows = std::min(kTileRows, tiles.n - row_tile * kTileRows);
    const int64_t columns = std::min(kTileBlock, tiles.k - b * kTileBlock);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        check(block[static_cast<size_t>(r * kTileBlock + c)], row_tile * kTileRows + r,
              b * kTileBlock + c);
      }
    }
  }
}

// Sizes of pieces that threads share: results do not depend on them.
constexpr int64_t kPiece = int64_t{1} << 18;

// Calls check(begin, end) for pieces of [0, size).
template <class Check>
void in_pieces(int64_t size, ThreadPool& pool, Check&& check) {
  pool.parallel_for((size + kPiece - 1) / kPiece, [&](int64_t i) {
    check(static_cast<size_t>(i * kPiece), static_cast<size_t>(std::min(size, (i + 1) * kPiece)));
  });
}

bool is_finite(bfloat16 value) { return (value.bits & 0x7f80u) != 0x7f80u; }

void check_pairs(const CodeTiles& tiles, std::span<const uint8_t> bytes, const std::string& where,
                 ThreadPool& pool) {
  pool.parallel_for(tiles.row_tiles(), [&](int64_t t) {
    for_values_of_tile(tiles, bytes, t, [&](uint8_t value, int64_t row, int64_t group) {
      QUEST_CHECK((value & 3u) < (value >> 2), ErrorKind::kData,
                  "{}: row {}, group {}: the kept pairs {} and {} are no 4:8 pattern: the file is "
                  "damaged",
                  where, row, group, value & 3, value >> 2);
    });
  });
}

}  // namespace

void check_packed_codes(const PackedTensor& tensor, const std::string& where, ThreadPool& pool) {
  const bool is_ternary = tensor.spec.grid == Grid::kTernary;
  if (is_ternary || tensor.spec.grid == Grid::kFp4) {
    const int bits = is_ternary ? 2 : 4;
    in_pieces(static_cast<int64_t>(tensor.codes.size()), pool, [&](size_t begin, size_t end) {
      const int64_t at = find_all_ones(tensor.codes.subspan(begin, end - begin), bits);
      QUEST_CHECK(at < 0, ErrorKind::kData,
                  "{}.codes: byte {} holds the value {}, which the grid {} does not have: the file "
                  "is damaged",
                  where, static_cast<int64_t>(begin) + at, (1 << bits) - 1, to_string(tensor.spec));
    });
  }
  check_tile_padding(tensor.tiles, tensor.codes, where + ".codes");
  if (tensor.spec.grid == Grid::kUniform4of8) {
    const CodeTiles pairs = sparse_tiles(tensor.n, tensor.k).pairs;
    check_pairs(pairs, tensor.pairs, where + ".pairs", pool);
    check_tile_padding(pairs, tensor.pairs, where + ".pairs");
  }
}

void check_tile_padding(const CodeTiles& tiles, std::span<const uint8_t> bytes,
                        const std::string& where) {
  const int64_t rows_left = tiles.n % kTileRows, columns_left = tiles.k % kTileBlock;
  Block block;
  const auto check_block = [&](int64_t t, int64_t b) {
    unpack_code_block(tiles, bytes.data(), t, b, block.data());
    const int64_t rows = std::min(kTileRows, tiles.n - t * kTileRows);
    const int64_t columns = std::min(kTileBlock, tiles.k - b * kTileBlock);
    for (int64_t i = 0; i < kTileRows * kTileBlock; ++i) {
      const bool inside = i / kTileBlock < rows && i % kTileBlock < columns;
      QUEST_CHECK(inside || block[static_cast<size_t>(i)] == 0, ErrorKind::kData,
                  "{}: values past the last row or column are not zero: the file is damaged",
                  where);
    }
  };
  if (rows_left != 0) {
    for (int64_t b = 0; b < tiles.blocks(); ++b) check_block(tiles.row_tiles() - 1, b);
  }
  if (columns_left != 0) {
    for (int64_t t = 0; t < tiles.row_tiles(); ++t) check_block(t, tiles.blocks() - 1);
  }
}

void check_value_sums(const PackedTensor& tensor, const std::string& where) {
  const StoredFormat format = stored_format(tensor.spec);
  const bool of_numbers = !format.is_affine;
  const int64_t top = of_numbers ? format.max_number : (1 << format.bits) - 1;
  const int64_t columns = tensor.spec.grid == Grid::kUniform4of8 ? tensor.k / 2 : tensor.k;
  for (size_t r = 0; r < tensor.value_sums.size(); ++r) {
    const int64_t sum = tensor.value_sums[r];
    const int64_t least = of_numbers ? -columns * top : 0;
    QUEST_CHECK(sum >= least && sum <= columns * top, ErrorKind::kData,
                "{}.value_sums: row {} is {}, which {} values of {} bits cannot sum to: the file "
                "is damaged",
                where, r, sum, columns, format.bits);
  }
}

void check_units(std::span<const float> units, const std::string& where) {
  for (size_t r = 0; r < units.size(); ++r) {
    QUEST_CHECK(std::isfinite(units[r]) && !std::signbit(units[r]), ErrorKind::kData,
                "{}: unit {} is {}, it must be finite and not negative: the file is damaged", where,
                r, units[r]);
  }
}

void check_units(std::span<const bfloat16> units, const std::string& where) {
  for (size_t r = 0; r < units.size(); ++r) {
    QUEST_CHECK(is_finite(units[r]) && (units[r].bits & 0x8000u) == 0, ErrorKind::kData,
                "{}: unit {} is {}, it must be finite and not negative: the file is damaged", where,
                r, static_cast<float>(units[r]));
  }
}

void check_finite(std::span<const float> values, const std::string& where) {
  for (size_t i = 0; i < values.size(); ++i) {
    QUEST_CHECK(std::isfinite(values[i]), ErrorKind::kData,
                "{}: value {} is {}: the file is damaged", where, i, values[i]);
  }
}

void check_finite(std::span<const bfloat16> values, const std::string& where, ThreadPool& pool) {
  in_pieces(static_cast<int64_t>(values.size()), pool, [&](size_t begin, size_t end) {
    int wrong = 0;
    for (size_t i = begin; i < end; ++i) wrong |= !is_finite(values[i]);  // vectorizes
    QUEST_CHECK(wrong == 0, ErrorKind::kData,
                "{}: a value of {} to {} is not finite: the file is damaged", where, begin,
                end - 1);
  });
}

}  // namespace quest
