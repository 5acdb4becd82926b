// Random packed weights and activations, for tests and benchmarks. Header only.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "quest/kernels/packed_gemm.h"

namespace quest::testing {

struct AlignedBytes {
  explicit AlignedBytes(int64_t size = 0)
      : bytes(static_cast<uint8_t*>(
                  std::aligned_alloc(64, static_cast<size_t>((size + 127) / 64 * 64))),
              &std::free) {}
  uint8_t* data() const { return bytes.get(); }

 private:
  std::unique_ptr<uint8_t, void (*)(void*)> bytes;
};

inline unsigned stored_values(const QuantSpec& spec) {
  const StoredFormat format = stored_format(spec);
  if (!format.levels.empty()) return static_cast<unsigned>(format.levels.size());
  if (!format.numbers.empty()) return static_cast<unsigned>(format.numbers.size());
  return spec.grid == Grid::kTernary ? 3 : 1u << format.bits;
}

// Codes that the grid has, as hadamard_quantize writes them.
inline std::vector<int8_t> random_codes(const QuantSpec& spec, int64_t rows, int64_t k,
                                        std::mt19937& random) {
  std::vector<int8_t> codes(static_cast<size_t>(rows * k)), all;
  for (unsigned u = 0; u < stored_values(spec); ++u) {
    all.push_back(code_of_stored(spec, static_cast<uint8_t>(u)));
  }
  for (int8_t& code : codes) code = all[random() % all.size()];
  if (spec.grid != Grid::kUniform4of8) return codes;
  for (size_t g = 0; g < codes.size(); g += 8) {
    const unsigned first = random() % 4, second = (first + 1 + random() % 3) % 4;
    for (unsigned j = 0; j < 4; ++j) {
      if (j != first && j != second) codes[g + 2 * j] = codes[g + 2 * j + 1] = 0;
    }
  }
  return codes;
}

struct RandomWeight {
  RandomWeight(const QuantSpec& weight_spec, std::vector<int8_t> codes_nk, int64_t rows,
               int64_t columns, std::mt19937& random)
      : spec(weight_spec), codes(std::move(codes_nk)), n(rows), k(columns) {
    if (spec.grid == Grid::kUniform4of8) {
      const SparseTiles sparse = sparse_tiles(n, k);
      tiles = sparse.kept;
      bytes = AlignedBytes(tiles.bytes());
      pairs = AlignedBytes(sparse.pairs.bytes());
      pack_sparse_tiles(sparse, codes.data(), bytes.data(), pairs.data());
    } else {
      tiles = {.bits = spec.bits, .n = n, .k = k};
      bytes = AlignedBytes(tiles.bytes());
      bool known[256] = {};
      uint8_t stored_of_code[256] = {};
      std::vector<uint8_t> stored;
      for (const int8_t c : codes) {
        if (!known[c + 128]) stored_of_code[c + 128] = stored_code(spec, c);
        known[c + 128] = true;
        stored.push_back(stored_of_code[c + 128]);
      }
      for (int64_t row = 0; row < n; ++row) {
        int32_t sum = 0;
        for (int64_t i = 0; i < k; ++i) sum += stored[static_cast<size_t>(row * k + i)];
        value_sums.push_back(sum);
      }
      pack_code_tiles(tiles, stored.data(), bytes.data());
    }
    std::uniform_real_distribution<float> unit(0.001f, 0.1f);
    for (int64_t i = 0; i < n; ++i) units.push_back(unit(random));
  }

  kernels::PackedWeight view() const {
    kernels::PackedWeight w;
    w.spec = spec;
    w.tiles = tiles;
    w.bytes = bytes.data();
    w.pairs = pairs.data();
    w.units = units.data();
    w.value_sums = value_sums.empty() ? nullptr : value_sums.data();
    w.n = n;
    w.k = k;
    return w;
  }

  QuantSpec spec;
  std::vector<int8_t> codes;  // (N,K)
  int64_t n, k;
  CodeTiles tiles;
  AlignedBytes bytes, pairs;
  std::vector<float> units;
  std::vector<int32_t> value_sums;
};

}  // namespace quest::testing
