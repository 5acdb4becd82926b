#include "quest/quant/code_tiles.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "quest/base/error.h"

namespace quest {
namespace {

constexpr int64_t kLine = 64;                             // bytes
constexpr int64_t kBlockValues = kTileRows * kTileBlock;  // of one block of one row tile
constexpr std::array<int, 4> kPieces = {8, 4, 2, 1};

// FP4's numbers by stored value (levels.cpp has them as floats).
constexpr std::array<int8_t, 15> kFp4Numbers = {-12, -8, -6, -4, -3, -2, -1, 0,
                                                1,   2,  3,  4,  6,  8,  12};

// Calls piece(p, shift, first line) for the pieces of a value of `bits` bits: p bits each, which
// are the bits from `shift` on.
template <class F>
void for_each_piece(int bits, F&& piece) {
  int shift = 0;
  for (const int p : kPieces) {
    if ((bits & p) == 0) continue;
    piece(p, shift, shift);  // a piece of p bits takes p lines
    shift += p;
  }
}

// values (16,32) to block_bytes.
void pack_block(int bits, const uint8_t* values, uint8_t* bytes) {
  for_each_piece(bits, [&](int p, int shift, int first_line) {
    const unsigned mask = (1u << p) - 1;
    for (int line = 0; line < p; ++line) {
      uint8_t* out = bytes + kLine * (first_line + line);
      for (int64_t r = 0; r < kTileRows; ++r) {
        const uint8_t* row = values + r * kTileBlock + line * (32 / p);
        for (int64_t i = 0; i < 4; ++i) {
          unsigned byte = 0;
          for (int j = 0; j < 8 / p; ++j) byte |= (row[4 * j + i] >> shift & mask) << (j * p);
          out[4 * r + i] = static_cast<uint8_t>(byte);
        }
      }
    }
  });
}

void unpack_block(int bits, const uint8_t* bytes, uint8_t* values) {
  std::memset(values, 0, kBlockValues);
  for_each_piece(bits, [&](int p, int shift, int first_line) {
    const unsigned mask = (1u << p) - 1;
    for (int line = 0; line < p; ++line) {
      const uint8_t* in = bytes + kLine * (first_line + line);
      for (int64_t r = 0; r < kTileRows; ++r) {
        uint8_t* row = values + r * kTileBlock + line * (32 / p);
        for (int64_t i = 0; i < 4; ++i) {
          const unsigned byte = in[4 * r + i];
          for (int j = 0; j < 8 / p; ++j) {
            uint8_t& value = row[4 * j + i];
            value = static_cast<uint8_t>(value | (byte >> (j * p) & mask) << shift);
          }
        }
      }
    }
  });
}

uint8_t* block_begin(const CodeTiles& tiles, uint8_t* bytes, int64_t row_tile, int64_t block) {
  return bytes + row_tile * tiles.tile_bytes() + block * tiles.block_bytes();
}

// Rows and columns of the matrix in this block of this row tile.
struct BlockExtent {
  int64_t rows, columns;
};
BlockExtent extent(const CodeTiles& tiles, int64_t row_tile, int64_t block) {
  return {std::min(kTileRows, tiles.n - row_tile * kTileRows),
          std::min(kTileBlock, tiles.k - block * kTileBlock)};
}

}  // namespace

void pack_code_tiles(const CodeTiles& tiles, const uint8_t* values, uint8_t* bytes) {
  QUEST_ASSERT(tiles.bits >= 1 && tiles.bits <= 8, "{} bits", tiles.bits);
  std::array<uint8_t, kBlockValues> block;
  for (int64_t t = 0; t < tiles.row_tiles(); ++t) {
    for (int64_t b = 0; b < tiles.blocks(); ++b) {
      const BlockExtent size = extent(tiles, t, b);
      block.fill(0);
      for (int64_t r = 0; r < size.rows; ++r) {
        std::memcpy(block.data() + r * kTileBlock,
                    values + (t * kTileRows + r) * tiles.k + b * kTileBlock,
                    static_cast<size_t>(size.columns));
      }
      pack_block(tiles.bits, block.data(), block_begin(tiles, bytes, t, b));
    }
  }
}

void unpack_code_tiles(const CodeTiles& tiles, const uint8_t* bytes, uint8_t* values) {
  QUEST_ASSERT(tiles.bits >= 1 && tiles.bits <= 8, "{} bits", tiles.bits);
  std::array<uint8_t, kBlockValues> block;
  for (int64_t t = 0; t < tiles.row_tiles(); ++t) {
    for (int64_t b = 0; b < tiles.blocks(); ++b) {
      unpack_code_block(tiles, bytes, t, b, block.data());
      const BlockExtent size = extent(tiles, t, b);
      for (int64_t r = 0; r < size.rows; ++r) {
        std::memcpy(values + (t * kTileRows + r) * tiles.k + b * kTileBlock,
                    block.data() + r * kTileBlock, static_cast<size_t>(size.columns));
      }
    }
  }
}

void unpack_code_block(const CodeTiles& tiles, const uint8_t* bytes, int64_t row_tile,
                       int64_t block, uint8_t* values) {
  unpack_block(tiles.bits, bytes + row_tile * tiles.tile_bytes() + block * tiles.block_bytes(),
               values);
}

StoredFormat stored_format(const QuantSpec& spec) {
  const CodeFormat codes = code_format(spec);  // throws for grids without codes
  StoredFormat format;
  format.bits = spec.bits;
  format.max_number = codes.max_number;
  switch (spec.grid) {
    case Grid::kUniform:
    case Grid::kUniform4of8:
      format.multiplier = 2;
      format.offset = -((1 << spec.bits) - 1);
      break;
    case Grid::kTernary:
      format.offset = -1;
      break;
    case Grid::kFp4:
      format.is_affine = false;
      format.numbers = kFp4Numbers;
      break;
    default:
      format.is_affine = false;
      format.levels = codes.levels;
  }
  return format;
}

uint8_t stored_code(const QuantSpec& spec, int8_t code) {
  const StoredFormat format = stored_format(spec);
  int stored = -1;
  if (!format.levels.empty()) {
    if (code >= 0 && static_cast<size_t>(code) < format.levels.size()) stored = code;
  } else if (!format.is_affine) {
    const auto found = std::find(format.numbers.begin(), format.numbers.end(), code);
    if (found != format.numbers.end()) stored = static_cast<int>(found - format.numbers.begin());
  } else {
    const CodeFormat codes = code_format(spec);
    const int number = codes.multiplier * code + codes.offset;
    const int scaled = number - format.offset;
    if (std::abs(number) <= format.max_number && scaled % format.multiplier == 0) {
      stored = scaled / format.multiplier;
    }
  }
  QUEST_CHECK(stored >= 0, ErrorKind::kUsage, "grid {} has no code {}", to_string(spec), code);
  return static_cast<uint8_t>(stored);
}

int8_t code_of_stored(const QuantSpec& spec, uint8_t stored) {
  const StoredFormat format = stored_format(spec);
  size_t count = size_t{1} << format.bits;
  if (!format.levels.empty()) count = format.levels.size();
  if (!format.numbers.empty()) count = format.numbers.size();
  if (spec.grid == Grid::kTernary) count = 3;
  QUEST_CHECK(stored < count, ErrorKind::kData,
              "the stored value {} is none of the {} that grid {} has", stored, count,
              to_string(spec));
  if (!format.levels.empty()) return static_cast<int8_t>(stored);
  if (!format.is_affine) return format.numbers[stored];
  const CodeFormat codes = code_format(spec);
  const int number = format.multiplier * stored + format.offset;
  return static_cast<int8_t>((number - codes.offset) / codes.multiplier);
}

SparseTiles sparse_tiles(int64_t n, int64_t k) {
  QUEST_CHECK(k % 8 == 0, ErrorKind::kUsage, "4:8 sparse needs a K that is a multiple of 8, got {}",
              k);
  return {{.bits = 4, .n = n, .k = k / 2}, {.bits = 4, .n = n, .k = k / 8}};
}

void pack_sparse_tiles(const SparseTiles& tiles, const int8_t* codes, uint8_t* kept,
                       uint8_t* pairs) {
  const int64_t n = tiles.pairs.n, groups = tiles.pairs.k;
  std::vector<uint8_t> values(static_cast<size_t>(n * groups * 4));
  std::vector<uint8_t> indices(static_cast<size_t>(n * groups));
  for (size_t g = 0; g < indices.size(); ++g) {
    unsigned found = 0, index = 0;
    for (unsigned j = 0; j < 4; ++j) {
      const int8_t first = codes[8 * g + 2 * j], second = codes[8 * g + 2 * j + 1];
      if (first == 0 && second == 0) continue;
      QUEST_ASSERT(found < 2 && first % 2 != 0 && second % 2 != 0, "no 4:8 group");
      index |= j << (2 * found);
      values[4 * g + 2 * found] = static_cast<uint8_t>((first + 15) / 2);
      values[4 * g + 2 * found + 1] = static_cast<uint8_t>((second + 15) / 2);
      ++found;
    }
    QUEST_ASSERT(found == 2, "{} pairs kept of a 4:8 group", found);
    indices[g] = static_cast<uint8_t>(index);
  }
  pack_code_tiles(tiles.kept, values.data(), kept);
  pack_code_tiles(tiles.pairs, indices.data(), pairs);
}

void unpack_sparse_tiles(const SparseTiles& tiles, const uint8_t* kept, const uint8_t* pairs,
                         int8_t* codes) {
  const int64_t n = tiles.pairs.n, groups = tiles.pairs.k;
  std::vector<uint8_t> values(static_cast<size_t>(n * groups * 4));
  std::vector<uint8_t> indices(static_cast<size_t>(n * groups));
  unpack_code_tiles(tiles.kept, kept, values.data());
  unpack_code_tiles(tiles.pairs, pairs, indices.data());
  std::memset(codes, 0, indices.size() * 8);
  for (size_t g = 0; g < indices.size(); ++g) {
    const unsigned first = indices[g] & 3u, second = indices[g] >> 2;
    QUEST_CHECK(first < second, ErrorKind::kData,
                "the pairs {} and {} of group {} of row {} are no 4:8 pattern", first, second,
                g % static_cast<size_t>(groups), g / static_cast<size_t>(groups));
    for (size_t i = 0; i < 4; ++i) {
      const size_t column = 2 * (i < 2 ? first : second) + i % 2;
      codes[8 * g + column] = static_cast<int8_t>(2 * values[4 * g + i] - 15);
    }
  }
}

}  // namespace quest
