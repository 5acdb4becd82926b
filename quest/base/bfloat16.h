// bfloat16: the upper half of an IEEE float. Conversion from float rounds to nearest, ties to even;
// NaN stays NaN. Layout-compatible with at::BFloat16 and CUDA's __nv_bfloat16.
#pragma once

#include <bit>
#include <cstdint>

namespace quest {

struct bfloat16 {
  uint16_t bits = 0;

  bfloat16() = default;
  explicit bfloat16(float value) {
    const uint32_t u = std::bit_cast<uint32_t>(value);
    if ((u & 0x7fffffffu) > 0x7f800000u) {
      bits = static_cast<uint16_t>((u >> 16) | 0x40u);
    } else {
      bits = static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    }
  }
  explicit operator float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
};
static_assert(sizeof(bfloat16) == 2);

// Rounds a float to the nearest bfloat16 value and back.
inline float round_to_bfloat16(float value) { return static_cast<float>(bfloat16(value)); }

}  // namespace quest
