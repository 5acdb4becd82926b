#include "quest/base/philox.h"

#include <cmath>
#include <numbers>

#include "quest/base/error.h"
#include "quest/base/portable_math.h"

namespace quest {

namespace {

uint64_t join(uint32_t high, uint32_t low) { return (static_cast<uint64_t>(high) << 32) | low; }

double to_unit_interval(uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

// The upper 64 bits of a 64 x 64-bit product, from 32-bit halves.
uint64_t multiply_high(uint64_t a, uint64_t b) {
  const uint64_t a_low = a & 0xffffffffu, a_high = a >> 32;
  const uint64_t b_low = b & 0xffffffffu, b_high = b >> 32;
  const uint64_t middle = a_high * b_low + ((a_low * b_low) >> 32);
  const uint64_t carry = (middle & 0xffffffffu) + a_low * b_high;
  return a_high * b_high + (middle >> 32) + (carry >> 32);
}

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  // Multipliers and Weyl increments of the paper's table 2.
  constexpr uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = kMultiplier0 * counter[0];
    const uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

std::array<uint32_t, 4> Philox::block(uint64_t index) const {
  return philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                     static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)},
                    {static_cast<uint32_t>(seed_), static_cast<uint32_t>(seed_ >> 32)});
}

double Philox::uniform(uint64_t index) const {
  const auto words = block(index);
  return to_unit_interval(join(words[0], words[1]));
}

double Philox::normal(uint64_t index) const {
  const auto words = block(index);
  // 1 - u lies in (0, 1], so the logarithm is finite.
  const double radius =
      std::sqrt(-2.0 * portable::log(1.0 - to_unit_interval(join(words[0], words[1]))));
  const double angle = 2.0 * std::numbers::pi * to_unit_interval(join(words[2], words[3]));
  return radius * portable::sin_cos(angle).cos;
}

uint64_t Philox::below(uint64_t index, uint64_t n) const {
  QUEST_ASSERT(n > 0);
  // floor(x * n / 2^128) of the 128-bit draw x: its bias is below 2^-64, and there is nothing to
  // reject.
  const auto words = block(index);
  const uint64_t high = join(words[0], words[1]), low = join(words[2], words[3]);
  const uint64_t sum = high * n + multiply_high(low, n);
  return multiply_high(high, n) + (sum < high * n ? 1 : 0);
}

}  // namespace quest
