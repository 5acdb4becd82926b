// The definition of packed_gemm and packed_gemm_float: what every level must give, bit for bit.
#include <algorithm>
#include <cmath>
#include <vector>

#include "quest/kernels/packed_gemm_task.h"

namespace quest::kernels::detail {
namespace {

constexpr int64_t kBlockValues = kTileRows * kTileBlock;

// Calls f(block, stored values (16,32)) for the blocks of columns of one row tile.
template <class F>
void for_each_block(const CodeTiles& tiles, const uint8_t* bytes, int64_t row_tile, F&& f) {
  uint8_t values[kBlockValues];
  for (int64_t block = 0; block < tiles.blocks(); ++block) {
    unpack_code_block(tiles, bytes, row_tile, block, values);
    f(block, values);
  }
}

// Calls set(r, k, stored value) for the values of 16 weight rows that are not dropped, k < K.
template <class F>
void for_each_value(const PackedWeight& w, int64_t row_tile, F&& set) {
  if (w.spec.grid != Grid::kUniform4of8) {
    for_each_block(w.tiles, w.bytes, row_tile, [&](int64_t block, const uint8_t* values) {
      const int64_t k0 = block * kTileBlock;
      for (int64_t i = 0; i < kBlockValues; ++i) {
        if (k0 + i % kTileBlock < w.k) set(i / kTileBlock, k0 + i % kTileBlock, values[i]);
      }
    });
    return;
  }
  const SparseTiles tiles = sparse_tiles(w.n, w.k);
  const int64_t groups = tiles.pairs.k;
  std::vector<uint8_t> pairs(static_cast<size_t>(kTileRows * groups));
  for_each_block(tiles.pairs, w.pairs, row_tile, [&](int64_t block, const uint8_t* values) {
    for (int64_t i = 0; i < kBlockValues; ++i) {
      const int64_t group = block * kTileBlock + i % kTileBlock;
      if (group < groups) pairs[i / kTileBlock * groups + group] = values[i];
    }
  });
  for_each_block(tiles.kept, w.bytes, row_tile, [&](int64_t block, const uint8_t* values) {
    for (int64_t i = 0; i < kBlockValues; ++i) {
      const int64_t r = i / kTileBlock, kept = block * kTileBlock + i % kTileBlock;
      if (kept >= tiles.kept.k) continue;
      const int pair = pairs[r * groups + kept / 4];
      const int which = kept % 4 < 2 ? pair & 3 : pair >> 2;
      set(r, kept / 4 * 8 + 2 * which + kept % 2, values[i]);
    }
  });
}

}  // namespace

void packed_gemm_scalar(const QuantSpec& activation, const PackedWeight& w, const int8_t* codes,
                        const float* a_units, int64_t m0, int64_t m1, int64_t n0, int64_t n1,
                        float* out, int64_t ldo, int32_t* acc) {
  const CodeFormat a_format = code_format(activation);
  const StoredFormat w_format = stored_format(w.spec);
  std::vector<int32_t> numbers(static_cast<size_t>(kTileRows * w.k));
  for (int64_t n = n0; n < n1; n += kTileRows) {
    std::fill(numbers.begin(), numbers.end(), 0);  // dropped values
    for_each_value(w, n / kTileRows, [&](int64_t r, int64_t k, uint8_t u) {
      numbers[r * w.k + k] =
          w_format.is_affine ? w_format.multiplier * u + w_format.offset : w_format.numbers[u];
    });
    for (int64_t m = m0; m < m1; ++m) {
      for (int64_t r = 0; r < std::min(kTileRows, n1 - n); ++r) {
        int32_t sum = 0;
        for (int64_t k = 0; k < w.k; ++k) {
          sum +=
              (a_format.multiplier * codes[m * w.k + k] + a_format.offset) * numbers[r * w.k + k];
        }
        if (acc != nullptr) acc[m * ldo + n + r] = sum;
        if (out != nullptr) {
          out[m * ldo + n + r] = static_cast<float>(sum) * (a_units[m] * w.units[n + r]);
        }
      }
    }
  }
}

void packed_gemm_float_scalar(const PackedWeight& w, const float* x, int64_t ldx, int64_t m0,
                              int64_t m1, int64_t n0, int64_t n1, float* out, int64_t ldo) {
  const StoredFormat format = stored_format(w.spec);
  const auto number = [&](uint8_t u) {
    if (!format.levels.empty()) return format.levels[u];
    return static_cast<float>(format.is_affine ? format.multiplier * u + format.offset
                                               : format.numbers[u]);
  };
  std::vector<float> numbers(static_cast<size_t>(kTileRows * w.k));
  for (int64_t n = n0; n < n1; n += kTileRows) {
    std::fill(numbers.begin(), numbers.end(), 0.0f);
    for_each_value(w, n / kTileRows,
                   [&](int64_t r, int64_t k, uint8_t u) { numbers[r * w.k + k] = number(u); });
    for (int64_t m = m0; m < m1; ++m) {
      for (int64_t r = 0; r < std::min(kTileRows, n1 - n); ++r) {
        float sums[4] = {};
        for (int64_t k = 0; k < w.k; ++k) {
          sums[k % 4] = std::fma(x[m * ldx + k], numbers[r * w.k + k], sums[k % 4]);
        }
        out[m * ldo + n + r] = ((sums[0] + sums[1]) + (sums[2] + sums[3])) * w.units[n + r];
      }
    }
  }
}

}  // namespace quest::kernels::detail
