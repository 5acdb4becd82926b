// A pseudo-random permutation of [0, n), computed index by index without a table.
//
// A Feistel network over the smallest even number of bits that holds n - 1, keyed by (seed, epoch),
// with cycle walking: results outside [0, n) are permuted again (fewer than 4 rounds on average).
//
//   Permutation order(n, seed, epoch);
//   int64_t first = order(0);
//
// Source: J. Black and P. Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002.
#pragma once

#include <array>
#include <cstdint>

namespace quest {

class Permutation {
 public:
  // n >= 1.
  Permutation(int64_t n, uint64_t seed, uint64_t epoch);
  int64_t size() const { return n_; }
  // A bijection of [0, n).
  int64_t operator()(int64_t index) const;

 private:
  static constexpr int kRounds = 8;
  int64_t n_;
  int half_bits_;
  std::array<uint64_t, kRounds> keys_;
};

}  // namespace quest
