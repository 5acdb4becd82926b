// gemm_fixed_point on AMX-INT8.
#include "quest/kernels/x86/amx_bf16_tiles.h"
#include "quest/kernels/x86/gemm_fixed_point_amx_kernel.h"

namespace quest::kernels::detail {
namespace {

// Of two vectors of words: byte 2 of all 32, then byte 1; byte 0 of all.
struct ByteOrders {
  uint8_t high_middle[64], low[64];
};
constexpr ByteOrders byte_orders() {
  ByteOrders orders{};
  for (int i = 0; i < 64; ++i) {
    orders.high_middle[i] = static_cast<uint8_t>(4 * (i % 32) + (i < 32 ? 2 : 1));
    orders.low[i] = static_cast<uint8_t>(4 * (i % 32));
  }
  return orders;
}

struct FixedPointTiles : Bf16Tiles {
  // 16 integers of which the low three bytes are the digits, low first. Adding 128 to each byte
  // with its carries, then taking it off without them, makes bytes from -128 to 127 of it.
  static __m512i digits(__m512 x, __m512 inverse) {
    const __m512i halves = _mm512_set1_epi32(0x808080);
    const __m512i q = _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse));
    return _mm512_xor_si512(_mm512_add_epi32(q, halves), halves);
  }

  static void digits_line(const float* x, const float* scales, float inverse, int8_t* line) {
    alignas(64) static constexpr ByteOrders kOrders = byte_orders();
    const __m512 factor = _mm512_set1_ps(inverse);
    __m512i words[4];
    for (int i = 0; i < 4; ++i) {
      __m512 values = _mm512_loadu_ps(x + 16 * i);
      if (scales != nullptr) values = _mm512_mul_ps(values, _mm512_loadu_ps(scales + 16 * i));
      words[i] = digits(values, factor);
    }
    const __m512i upper = _mm512_load_si512(kOrders.high_middle);
    const __m512i lower = _mm512_load_si512(kOrders.low);
    const __m512i upper0 = _mm512_permutex2var_epi8(words[0], upper, words[1]);
    const __m512i upper1 = _mm512_permutex2var_epi8(words[2], upper, words[3]);
    const __m512i lower0 = _mm512_permutex2var_epi8(words[0], lower, words[1]);
    const __m512i lower1 = _mm512_permutex2var_epi8(words[2], lower, words[3]);
    _mm512_storeu_si512(line, _mm512_shuffle_i64x2(upper0, upper1, 0x44));
    _mm512_storeu_si512(line + kFixedPointTileBytes, _mm512_shuffle_i64x2(upper0, upper1, 0xee));
    _mm512_storeu_si512(line + 2 * kFixedPointTileBytes,
                        _mm512_shuffle_i64x2(lower0, lower1, 0x44));
  }

  static void digits_quads(const float* x, int64_t stride, const float* scales,
                           const float* inverses, int8_t* line) {
    const __m512 factors = _mm512_loadu_ps(inverses);
    __m512i w[4];
    for (int i = 0; i < 4; ++i) {
      __m512 values = _mm512_loadu_ps(x + i * stride);
      if (scales != nullptr) values = _mm512_mul_ps(values, _mm512_set1_ps(scales[i]));
      w[i] = digits(values, factors);
    }
    constexpr __mmask64 kByte1 = 0x2222222222222222, kByte2 = kByte1 << 1, kByte3 = kByte1 << 2;
    const auto join = [](__m512i b0, __m512i b1, __m512i b2, __m512i b3) {
      const __m512i low = _mm512_mask_blend_epi8(kByte1, b0, b1);
      return _mm512_mask_blend_epi8(kByte3, _mm512_mask_blend_epi8(kByte2, low, b2), b3);
    };
    _mm512_storeu_si512(line, join(_mm512_srli_epi32(w[0], 16), _mm512_srli_epi32(w[1], 8), w[2],
                                   _mm512_slli_epi32(w[3], 8)));
    _mm512_storeu_si512(line + kFixedPointTileBytes,
                        join(_mm512_srli_epi32(w[0], 8), w[1], _mm512_slli_epi32(w[2], 8),
                             _mm512_slli_epi32(w[3], 16)));
    _mm512_storeu_si512(line + 2 * kFixedPointTileBytes,
                        join(w[0], _mm512_slli_epi32(w[1], 8), _mm512_slli_epi32(w[2], 16),
                             _mm512_slli_epi32(w[3], 24)));
  }

  static void code_quads(const int8_t* codes, int64_t stride, int8_t* line) {
    const auto row = [&](int64_t i) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i * stride));
    };
    const __m128i low01 = _mm_unpacklo_epi8(row(0), row(1));
    const __m128i high01 = _mm_unpackhi_epi8(row(0), row(1));
    const __m128i low23 = _mm_unpacklo_epi8(row(2), row(3));
    const __m128i high23 = _mm_unpackhi_epi8(row(2), row(3));
    auto* out = reinterpret_cast<__m128i*>(line);
    _mm_storeu_si128(out, _mm_unpacklo_epi16(low01, low23));
    _mm_storeu_si128(out + 1, _mm_unpackhi_epi16(low01, low23));
    _mm_storeu_si128(out + 2, _mm_unpacklo_epi16(high01, high23));
    _mm_storeu_si128(out + 3, _mm_unpackhi_epi16(high01, high23));
  }
};

}  // namespace

void gemm_fixed_point_pack_amx(const GemmFixedPoint& product, const GemmFixedPointPlan& plan,
                               int64_t begin, int64_t end, int8_t* shared) {
  pack_fixed_point_shared<FixedPointTiles>(product, plan, begin, end, shared);
}

void gemm_fixed_point_run_amx(const GemmFixedPoint& product, const GemmFixedPointPlan& plan,
                              const int8_t* shared, int64_t begin, int64_t end) {
  const Scratch<int8_t> own(task_panel_bytes(plan));
  FixedPointTiles::begin();
  for (int64_t task = begin; task < end; ++task) {
    run_fixed_point_task<FixedPointTiles>(product, plan, shared, task, own.get());
  }
  FixedPointTiles::end();
}

}  // namespace quest::kernels::detail
