// Tile order of packed codes: the bytes of a deployable weight matrix, the same for every
// instruction-set level.
//
// A weight matrix (N,K) is stored as unsigned values u of b bits, 1 to 8 (stored_code below). It is
// cut into tiles of 16 rows and, along K, blocks of 32 columns; rows and columns past the end hold
// u = 0. A tile is one after the other all of its blocks; a block is 64 b bytes: the value's bits
// in pieces of 8, 4, 2 and 1 bits (b = 3: a piece of 2 and one of 1; b = 7: 4, 2, 1), the widest
// first and holding the lowest bits. A piece of p bits is p lines of 64 bytes. In line l, byte 4 r
// + i holds, of row r of the tile, at bits [j p, (j + 1) p) the piece of column
//   k = 32 block + l (32 / p) + 4 j + i          0 <= r < 16, 0 <= i < 4, 0 <= j < 8 / p
// So a lane of 32 bits is one row and four neighbouring columns lie in one byte each, which is what
// vpdpbusd, vpmaddubsw and AMX tiles add up, and what popcount needs as well.
//
//   CodeTiles t{.bits = 3, .n = 70, .k = 640};
//   std::vector<uint8_t> bytes(t.bytes());
//   pack_code_tiles(t, values, bytes.data());          // values (N,K) uint8, row-major
//   unpack_code_tiles(t, bytes.data(), values);        // the inverse
//
// Thread rules: pure.
#pragma once

#include <cstdint>
#include <span>

#include "quest/quant/quantizer.h"

namespace quest {

inline constexpr int64_t kTileRows = 16;
inline constexpr int64_t kTileBlock = 32;  // columns

struct CodeTiles {
  int bits = 0;  // 1 to 8
  int64_t n = 0, k = 0;

  int64_t row_tiles() const { return (n + kTileRows - 1) / kTileRows; }
  int64_t blocks() const { return (k + kTileBlock - 1) / kTileBlock; }
  int64_t padded_k() const { return blocks() * kTileBlock; }
  int64_t block_bytes() const { return int64_t{64} * bits; }
  int64_t tile_bytes() const { return blocks() * block_bytes(); }
  int64_t bytes() const { return row_tiles() * tile_bytes(); }
};

// values (N,K) row-major, each below 2^bits. bytes: tiles.bytes() of them.
void pack_code_tiles(const CodeTiles& tiles, const uint8_t* values, uint8_t* bytes);
void unpack_code_tiles(const CodeTiles& tiles, const uint8_t* bytes, uint8_t* values);
// One block of one row tile: values (16, 32). The definition that kernels' unpacking equals.
void unpack_code_block(const CodeTiles& tiles, const uint8_t* bytes, int64_t row_tile,
                       int64_t block, uint8_t* values);

// How a grid's codes (quantizer.h) become stored values of how many bits, and stored values
// numbers.
//   uniform b bits   u = (number + 2^b - 1) / 2, number = 2 u - (2^b - 1)
//   ternary          u = number + 1, 2 bits
//   FP4              u = index of the number in -12 -8 -6 -4 -3 -2 -1 0 1 2 3 4 6 8 12 (15 of 16)
//   Gaussian         u = code (an index of levels)
//   4:8              see sparse_tiles below: kept values as 4-bit uniform
struct StoredFormat {
  int bits = 0;
  bool is_affine = true;  // number = multiplier * u + offset
  int multiplier = 1, offset = 0;
  int max_number = 0;  // of integer grids
  std::span<const int8_t>
      numbers;  // if !is_affine and the grid is integer (FP4): number = numbers[u]
  std::span<const float> levels;  // Gaussian: number = levels[u]
};
// Throws kUsage for grids without codes.
StoredFormat stored_format(const QuantSpec& spec);
// Throws kUsage for a code that the grid does not have (of the 4:8 grid: 0, a dropped value).
uint8_t stored_code(const QuantSpec& spec, int8_t code);
// The inverse. Throws kData for a value that the grid does not have (ternary 3, FP4 15): packed
// files are distrusted.
int8_t code_of_stored(const QuantSpec& spec, uint8_t stored);

// 4:8 sparse: of each 8 columns the 4 values of the 2 kept pairs, in order, as 4-bit tiles of a
// matrix (N, K/2); and which pairs, first + 4 * second with first < second, as 4-bit tiles of (N,
// K/8). A dropped value is number 0, which the 4-bit grid itself does not have.
struct SparseTiles {
  CodeTiles kept;   // 4 bits, (N, K/2)
  CodeTiles pairs;  // 4 bits, (N, K/8)
};
SparseTiles sparse_tiles(int64_t n, int64_t k);  // throws kUsage if K % 8 != 0
// codes (N,K): odd numbers, 0 where dropped; exactly 2 pairs of each group kept. A kept pair never
// holds a 0.
void pack_sparse_tiles(const SparseTiles& tiles, const int8_t* codes, uint8_t* kept,
                       uint8_t* pairs);
// Throws kData if a pair index is not possible (first >= second).
void unpack_sparse_tiles(const SparseTiles& tiles, const uint8_t* kept, const uint8_t* pairs,
                         int8_t* codes);

}  // namespace quest
