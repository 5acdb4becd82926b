#include "quest/quant/code_tiles.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/philox.h"
#include "quest/base/testing.h"

namespace quest {
namespace {

std::vector<uint8_t> random_values(int64_t count, int bits, uint64_t seed) {
  const Philox random(seed);
  std::vector<uint8_t> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<uint8_t>(random.uniform(i) * (1 << bits));
  }
  return values;
}

// The formula of the header, one value at a time: the bits of `stored` in the bytes, read from the
// place that the formula names.
uint8_t value_by_formula(const CodeTiles& tiles, const std::vector<uint8_t>& bytes, int64_t row,
                         int64_t column) {
  const int64_t begin = row / 16 * tiles.tile_bytes() + column / 32 * 64 * tiles.bits;
  const int64_t r = row % 16, c = column % 32;
  unsigned value = 0;
  int shift = 0;
  for (const int p : {8, 4, 2, 1}) {
    if ((tiles.bits & p) == 0) continue;
    const int64_t l = c / (32 / p), j = c % (32 / p) / 4, i = c % 4;
    const unsigned byte = bytes[static_cast<size_t>(begin + 64 * (shift + l) + 4 * r + i)];
    value |= (byte >> (j * p) & ((1u << p) - 1)) << shift;
    shift += p;
  }
  return static_cast<uint8_t>(value);
}

const std::vector<int64_t> kSizes = {1, 15, 16, 17, 31, 32, 33, 255, 257};

TEST(CodeTiles, RoundTripAndFormulaAtEveryWidthAndSize) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (const int64_t n : {1, 15, 16, 17, 33}) {
      for (const int64_t k : kSizes) {
        SCOPED_TRACE(std::to_string(bits) + " bits, " + std::to_string(n) + " x " +
                     std::to_string(k));
        const CodeTiles tiles{.bits = bits, .n = n, .k = k};
        const std::vector<uint8_t> values =
            random_values(n * k, bits, static_cast<uint64_t>(1000 * n + k));
        std::vector<uint8_t> bytes(static_cast<size_t>(tiles.bytes()), 0xff);
        pack_code_tiles(tiles, values.data(), bytes.data());
        std::vector<uint8_t> back(values.size(), 0xff);
        unpack_code_tiles(tiles, bytes.data(), back.data());
        ASSERT_EQ(back, values);
        int64_t wrong = 0;
        for (int64_t row = 0; row < tiles.row_tiles() * 16; ++row) {
          for (int64_t column = 0; column < tiles.padded_k(); ++column) {
            const bool inside = row < n && column < k;
            const uint8_t expected = inside ? values[static_cast<size_t>(row * k + column)] : 0;
            wrong += value_by_formula(tiles, bytes, row, column) != expected;
          }
        }
        ASSERT_EQ(wrong, 0);
      }
    }
  }
}

TEST(CodeTiles, BytesAreWhatTheHeaderSays) {
  // 3 bits: a piece of 2 in two lines of 16 columns, then a piece of 1 in one line of 32.
  const CodeTiles tiles{.bits = 3, .n = 16, .k = 32};
  ASSERT_EQ(tiles.bytes(), 192);
  std::vector<uint8_t> values(16 * 32, 0);
  values[5 * 32 + 22] = 0b110;  // row 5, column 22: line 1, j = 1, i = 2; and line 0, j = 5, i = 2
  std::vector<uint8_t> bytes(192, 0xff);
  pack_code_tiles(tiles, values.data(), bytes.data());
  for (size_t i = 0; i < bytes.size(); ++i) {
    const unsigned expected = i == 64 + 22 ? 0b10u << 2 : i == 128 + 22 ? 1u << 5 : 0u;
    EXPECT_EQ(bytes[i], expected) << i;
  }
}

TEST(CodeTiles, OneBlockOfMany) {
  const CodeTiles tiles{.bits = 5, .n = 40, .k = 100};
  const std::vector<uint8_t> values = random_values(40 * 100, 5, 7);
  std::vector<uint8_t> bytes(static_cast<size_t>(tiles.bytes()));
  pack_code_tiles(tiles, values.data(), bytes.data());
  std::vector<uint8_t> block(16 * 32, 0xff);
  unpack_code_block(tiles, bytes.data(), 2, 3, block.data());  // rows 32 to 39, columns 96 to 99
  for (size_t r = 0; r < 16; ++r) {
    for (size_t c = 0; c < 32; ++c) {
      const uint8_t expected = r < 8 && c < 4 ? values[(32 + r) * 100 + 96 + c] : uint8_t{0};
      EXPECT_EQ(block[r * 32 + c], expected) << r << ' ' << c;
    }
  }
}

// Every grid with codes.
std::vector<QuantSpec> specs_with_codes() {
  std::vector<QuantSpec> specs;
  for (const char* text :
       {"int1.ste", "int2.ste", "int3.ste", "int4.ste", "int5.ste", "int6.ste", "int7.ste",
        "int8.ste", "ternary.ste", "fp4.ste", "gauss1.ste", "gauss2.ste", "gauss3.ste",
        "gauss4.ste", "gauss1_converged.ste", "gauss4_converged.ste", "int4_4of8.ste"}) {
    specs.push_back(spec_from_string(text));
  }
  return specs;
}

// The number of a code, from quantizer.h, which knows nothing of stored values.
double number_of_code(const QuantSpec& spec, int8_t code) {
  const CodeFormat format = code_format(spec);
  if (!format.is_integer) return static_cast<double>(format.levels[static_cast<size_t>(code)]);
  return format.multiplier * code + format.offset;
}

double number_of_stored(const QuantSpec& spec, uint8_t stored) {
  const StoredFormat format = stored_format(spec);
  if (!format.levels.empty()) return static_cast<double>(format.levels[stored]);
  if (!format.is_affine) return format.numbers[stored];
  return format.multiplier * stored + format.offset;
}

TEST(StoredCodes, EveryCodeThatTheQuantizerMakesAndNoOther) {
  for (const QuantSpec& spec : specs_with_codes()) {
    SCOPED_TRACE(to_string(spec));
    // The quantizer itself says which codes there are: a row that sweeps the range.
    std::vector<float> row(1 << 14);
    for (size_t i = 0; i < row.size(); ++i) {
      row[i] = -1.0f + 2.0f * static_cast<float>(i) / static_cast<float>(row.size() - 1);
      row[i] = std::pow(row[i], 9.0f);  // long tails: the outermost codes occur
    }
    std::vector<int8_t> codes(row.size());
    quantize_row<float>(spec, row, {.codes = codes});
    std::set<int8_t> made(codes.begin(), codes.end());
    if (spec.grid == Grid::kUniform4of8) made.erase(0);  // dropped: not a value of the grid

    std::set<uint8_t> stored;
    for (int code = -128; code < 128; ++code) {
      const auto c = static_cast<int8_t>(code);
      if (made.count(c) == 0) {
        EXPECT_QUEST_ERROR(stored_code(spec, c), ErrorKind::kUsage, "has no code");
        continue;
      }
      const uint8_t u = stored_code(spec, c);
      EXPECT_LT(u, 1 << stored_format(spec).bits);
      EXPECT_TRUE(stored.insert(u).second);
      EXPECT_EQ(code_of_stored(spec, u), c);
      EXPECT_EQ(number_of_stored(spec, u), number_of_code(spec, c));
    }
    // The rest of the byte is refused.
    for (int u = 0; u < 256; ++u) {
      if (stored.count(static_cast<uint8_t>(u)) != 0) continue;
      EXPECT_QUEST_ERROR(code_of_stored(spec, static_cast<uint8_t>(u)), ErrorKind::kData,
                         "stored value");
    }
    if (spec.grid == Grid::kTernary) {
      EXPECT_EQ(stored.size(), 3u);
    } else {
      EXPECT_EQ(stored.size(), spec.grid == Grid::kFp4 ? 15u : size_t{1} << spec.bits);
    }
  }
}

TEST(StoredCodes, GridsWithoutCodesAreRefused) {
  for (const char* text : {"none", "masked_4of8"}) {
    EXPECT_QUEST_ERROR(stored_format(spec_from_string(text)), ErrorKind::kUsage, "no codes");
  }
}

TEST(StoredCodes, StoredValuesRiseWithTheNumber) {
  for (const QuantSpec& spec : specs_with_codes()) {
    const int count = spec.grid == Grid::kTernary ? 3
                      : spec.grid == Grid::kFp4   ? 15
                                                  : 1 << spec.bits;
    for (int u = 1; u < count; ++u) {
      EXPECT_LT(number_of_stored(spec, static_cast<uint8_t>(u - 1)),
                number_of_stored(spec, static_cast<uint8_t>(u)));
    }
  }
}

TEST(SparseTiles, RoundTripOfWhatTheQuantizerMakes) {
  const QuantSpec spec = spec_from_string("int4_4of8.ste");
  for (const int64_t n : {1, 16, 17}) {
    for (const int64_t k : {8, 16, 32, 248, 256, 264}) {
      const SparseTiles tiles = sparse_tiles(n, k);
      EXPECT_EQ(tiles.kept.k, k / 2);
      EXPECT_EQ(tiles.pairs.k, k / 8);
      const Philox random(static_cast<uint64_t>(n * k));
      std::vector<int8_t> codes(static_cast<size_t>(n * k));
      for (int64_t r = 0; r < n; ++r) {
        std::vector<float> row(static_cast<size_t>(k));
        for (size_t i = 0; i < row.size(); ++i) {
          row[i] = static_cast<float>(random.normal(static_cast<uint64_t>(r * k) + i));
        }
        quantize_row<float>(
            spec, row, {.codes = std::span(codes).subspan(static_cast<size_t>(r * k), row.size())});
      }
      std::vector<uint8_t> kept(static_cast<size_t>(tiles.kept.bytes()));
      std::vector<uint8_t> pairs(static_cast<size_t>(tiles.pairs.bytes()));
      pack_sparse_tiles(tiles, codes.data(), kept.data(), pairs.data());
      std::vector<int8_t> back(codes.size(), 77);
      unpack_sparse_tiles(tiles, kept.data(), pairs.data(), back.data());
      ASSERT_EQ(back, codes) << n << ' ' << k;
    }
  }
}

TEST(SparseTiles, TheBytesOfOneGroup) {
  const SparseTiles tiles = sparse_tiles(1, 8);
  const std::vector<int8_t> codes = {0, 0, -15, 3, 0, 0, 1, 15};  // pairs 1 and 3
  std::vector<uint8_t> kept(static_cast<size_t>(tiles.kept.bytes()));
  std::vector<uint8_t> pairs(static_cast<size_t>(tiles.pairs.bytes()));
  pack_sparse_tiles(tiles, codes.data(), kept.data(), pairs.data());
  EXPECT_EQ(kept[0], 0);
  EXPECT_EQ(kept[1], 9);
  EXPECT_EQ(kept[2], 8);
  EXPECT_EQ(kept[3], 15);
  EXPECT_EQ(pairs[0], 1 + 4 * 3);
}

TEST(SparseTiles, ImpossiblePairsAreRefused) {
  const SparseTiles tiles = sparse_tiles(2, 16);
  std::vector<uint8_t> kept(static_cast<size_t>(tiles.kept.bytes()));
  for (unsigned value = 0; value < 16; ++value) {
    const std::vector<uint8_t> indices = {4, 4, 4, static_cast<uint8_t>(value)};
    std::vector<uint8_t> pairs(static_cast<size_t>(tiles.pairs.bytes()));
    pack_code_tiles(tiles.pairs, indices.data(), pairs.data());
    std::vector<int8_t> codes(32);
    if ((value & 3) < value >> 2) {
      EXPECT_NO_THROW(unpack_sparse_tiles(tiles, kept.data(), pairs.data(), codes.data()));
    } else {
      EXPECT_QUEST_ERROR(unpack_sparse_tiles(tiles, kept.data(), pairs.data(), codes.data()),
                         ErrorKind::kData, "group 1 of row 1");
    }
  }
}

TEST(SparseTiles, SizesThatHaveNoGroupsAreRefused) {
  EXPECT_QUEST_ERROR(sparse_tiles(4, 12), ErrorKind::kUsage, "multiple of 8");
}

}  // namespace
}  // namespace quest
