// AMX tiles on any CPU, for the tests of the AMX kernels' loops and padding: a tile is an array, an
// instruction a loop. Tests only; header only.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include <gtest/gtest.h>

#include "quest/base/bfloat16.h"
#include "quest/kernels/gemm_bf16.h"
#include "quest/kernels/gemm_bf16_levels.h"
#include "quest/kernels/gemm_fixed_point_levels.h"

namespace quest::testing {

struct EmulatedTiles {
  static inline uint8_t tile[8][16][64];
  static inline bool configured = false;

  static void begin() { configured = true; }
  static void end() { configured = false; }
  template <int kTile>
  static void zero() {
    std::memset(tile[kTile], 0, sizeof(tile[kTile]));
  }
  template <int kTile>
  static void load(const void* memory, int64_t stride) {
    for (int64_t r = 0; r < 16; ++r) {
      std::memcpy(tile[kTile][r], static_cast<const char*>(memory) + r * stride, 64);
    }
  }
  template <int kTile>
  static void store(void* memory, int64_t stride) {
    for (int64_t r = 0; r < 16; ++r) {
      std::memcpy(static_cast<char*>(memory) + r * stride, tile[kTile][r], 64);
    }
  }
  template <int kSums, int kA, int kW>
  static void add_products() {
    add_byte_products<uint8_t>(kSums, kA, kW);
  }
  template <int kSums, int kA, int kB>
  static void add_signed_products() {
    add_byte_products<int8_t>(kSums, kA, kB);
  }
  template <class B>
  static void add_byte_products(int sums, int a, int b) {
    ASSERT_TRUE(configured);
    for (int r = 0; r < 16; ++r) {
      for (int n = 0; n < 16; ++n) {
        int32_t sum;
        std::memcpy(&sum, &tile[sums][r][4 * n], 4);
        for (int kk = 0; kk < 64; ++kk) {
          sum +=
              static_cast<int8_t>(tile[a][r][kk]) * static_cast<B>(tile[b][kk / 4][4 * n + kk % 4]);
        }
        std::memcpy(&tile[sums][r][4 * n], &sum, 4);
      }
    }
  }

  template <int kSums, int kA, int kB>
  static void add_bf16_products() {
    ASSERT_TRUE(configured);
    const auto value = [](const uint8_t* bytes) {
      bfloat16 x;
      std::memcpy(&x, bytes, 2);
      return static_cast<float>(x);
    };
    float b[32][16];
    for (int k = 0; k < 32; ++k) {
      for (int n = 0; n < 16; ++n) b[k][n] = value(&tile[kB][k / 2][4 * n + 2 * (k % 2)]);
    }
    for (int r = 0; r < 16; ++r) {
      float sums[16];
      std::memcpy(sums, tile[kSums][r], 64);
      for (int k = 0; k < 32; ++k) {
        const float a = value(&tile[kA][r][2 * k]);
        for (int n = 0; n < 16; ++n) sums[n] += a * b[k][n];
      }
      std::memcpy(tile[kSums][r], sums, 64);
    }
  }

  // What packing needs: see x86/gemm_bf16_amx_kernel.h.
  static void transpose(const void* source, int64_t stride, void* tile_out) {
    for (int64_t r = 0; r < 16; ++r) {
      for (int64_t c = 0; c < 16; ++c) {
        std::memcpy(static_cast<char*>(tile_out) + 64 * r + 4 * c,
                    static_cast<const char*>(source) + c * stride + 4 * r, 4);
      }
    }
  }
  static void interleave(const bfloat16* source, int64_t stride, bfloat16* first,
                         bfloat16* second) {
    for (int64_t k = 0; k < 32; ++k) {
      const auto* row =
          reinterpret_cast<const bfloat16*>(reinterpret_cast<const char*>(source) + k * stride);
      for (int64_t j = 0; j < 32; ++j) {
        // In one expression, GCC 12 with -fsanitize=undefined drops the stores to `second`.
        bfloat16* tile_out = j < 16 ? first : second;
        tile_out[k / 2 * 32 + j % 16 * 2 + k % 2] = row[j];
      }
    }
  }
  static void split(float x, bfloat16* out) {
    const kernels::Bf16Pieces pieces = kernels::split_bf16_reference(x);
    out[0] = pieces.high;
    out[kernels::detail::kStepElements] = pieces.middle;
    out[2 * kernels::detail::kStepElements] = pieces.low;
  }
  static void split_line(const float* x, bfloat16* out) {
    for (int i = 0; i < 32; ++i) split(x[i], out + i);
  }
  static void split_pairs(const float* x, int64_t stride, bfloat16* out) {
    for (int i = 0; i < 32; ++i) split(x[i % 2 * stride + i / 2], out + i);
  }
  // What packing needs: see x86/gemm_fixed_point_amx_kernel.h.
  static void digits(float x, float inverse, int8_t* out) {
    const float q = std::isnan(x * inverse) ? 0.0f : std::nearbyint(x * inverse);
    const auto digits = kernels::fixed_point_digits_reference(static_cast<int32_t>(q));
    out[0] = digits.high;
    out[kernels::detail::kFixedPointTileBytes] = digits.middle;
    out[2 * kernels::detail::kFixedPointTileBytes] = digits.low;
  }
  static void digits_line(const float* x, const float* scales, float inverse, int8_t* line) {
    for (int i = 0; i < 64; ++i) {
      digits(scales == nullptr ? x[i] : x[i] * scales[i], inverse, line + i);
    }
  }
  static void digits_quads(const float* x, int64_t stride, const float* scales,
                           const float* inverses, int8_t* line) {
    for (int i = 0; i < 64; ++i) {
      const float value = x[i % 4 * stride + i / 4];
      digits(scales == nullptr ? value : value * scales[i % 4], inverses[i / 4], line + i);
    }
  }
  static void code_quads(const int8_t* codes, int64_t stride, int8_t* line) {
    for (int i = 0; i < 64; ++i) line[i] = codes[i % 4 * stride + i / 4];
  }

  static void round_row(const float* sums, bfloat16* out) {
    for (int i = 0; i < 32; ++i) out[i] = bfloat16(sums[i]);
  }
};

}  // namespace quest::testing
