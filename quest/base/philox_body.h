// The body of Philox (philox.h), constexpr so that GPU code draws the same numbers: nvcc compiles
// constexpr functions for the device (--expt-relaxed-constexpr). Other code includes philox.h.
#pragma once

#include <cstdint>

namespace quest::philox {

struct Words {
  uint32_t word[4];
};

constexpr Words rounds(Words counter, uint32_t key0, uint32_t key1) {
  // Multipliers and Weyl increments of the paper's table 2.
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * counter.word[0];
    const uint64_t product1 = kMultiplier1 * counter.word[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0,
                static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1,
                static_cast<uint32_t>(product0)}};
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return counter;
}

constexpr Words block(uint64_t seed, uint64_t stream, uint64_t index) {
  return rounds({{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                  static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)}},
                static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
}

constexpr uint64_t join(uint32_t high, uint32_t low) {
  return (static_cast<uint64_t>(high) << 32) | low;
}
constexpr double to_unit_interval(uint64_t bits) {
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

// Philox(seed, stream).uniform(index)
constexpr double uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  const Words words = block(seed, stream, index);
  return to_unit_interval(join(words.word[0], words.word[1]));
}

}  // namespace quest::philox
