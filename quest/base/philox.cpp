#include "quest/base/philox.h"

#include <cmath>
#include <numbers>

#include "quest/base/error.h"
#include "quest/base/philox_body.h"
#include "quest/base/portable_math.h"

namespace quest {

namespace {

using philox::join;
using philox::to_unit_interval;

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
  const philox::Words words =
      philox::rounds({{counter[0], counter[1], counter[2], counter[3]}}, key[0], key[1]);
  return std::to_array(words.word);
}

std::array<uint32_t, 4> Philox::block(uint64_t index) const {
  return std::to_array(philox::block(seed_, stream_, index).word);
}

double Philox::uniform(uint64_t index) const { return philox::uniform(seed_, stream_, index); }

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
