// Philox4x32-10 (Salmon et al., SC 2011): a counter-based random number generator.
//
// A draw is a pure function of (seed, stream, index): no state to save, the same on any device and
// for any number of threads or ranks.
#pragma once

#include <array>
#include <cstdint>

namespace quest {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

class Philox {
 public:
  explicit Philox(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  std::array<uint32_t, 4> block(uint64_t index) const;
  double uniform(uint64_t index) const;              // [0, 1), 53 bits
  double normal(uint64_t index) const;               // N(0, 1), Box-Muller
  uint64_t below(uint64_t index, uint64_t n) const;  // [0, n), n > 0

 private:
  uint64_t seed_;
  uint64_t stream_;
};

}  // namespace quest
