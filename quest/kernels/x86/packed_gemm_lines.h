// Values of packed weights in registers: from the lines of a block (quest/quant/code_tiles.h) to
// unsigned bytes u', four columns of 8 or 16 rows in a vector. Included by x86/packed_gemm_*.cpp
// (internal linkage: see gemm_lowbit_driver.h).
//
//   Bits<4> values;                       // the group with this number: columns 4 g to 4 g + 3
//   values.load(block, v);                // vector v of each line
//   Vector u = values.group<3>();
#pragma once

#include <cstddef>
#include <cstdint>
#include <immintrin.h>

#include "quest/kernels/packed_gemm_task.h"

#define QUEST_INLINE inline __attribute__((always_inline))
#define QUEST_INLINE_LAMBDA __attribute__((always_inline))

namespace quest::kernels::detail {
namespace {

#ifdef __AVX512BW__
struct Vector {
  using Int = __m512i;
  static constexpr int kVectors = 1;  // in a line
  // Ties a sum to one register: GCC 12 copies less.
  static QUEST_INLINE void pin(Int& x) { asm("" : "+v"(x)); }
  static QUEST_INLINE Int zero() { return _mm512_setzero_si512(); }
  static QUEST_INLINE Int broadcast(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static QUEST_INLINE Int broadcast64(int64_t x) { return _mm512_set1_epi64(x); }
  static QUEST_INLINE Int load(const void* p) { return _mm512_loadu_si512(p); }
  static QUEST_INLINE void store(void* p, Int x) { _mm512_storeu_si512(p, x); }
  template <int kShift>  // to the right; negative: to the left
  static QUEST_INLINE Int shift(Int x) {
    // GCC 12 warns about undefined values inside of the shift and permutation intrinsics.
    if constexpr (kShift > 0) return reinterpret_cast<Int>(reinterpret_cast<__v16su>(x) >> kShift);
    if constexpr (kShift < 0) return reinterpret_cast<Int>(reinterpret_cast<__v16su>(x) << -kShift);
    return x;
  }
  static QUEST_INLINE Int bit_and(Int x, Int y) { return _mm512_and_si512(x, y); }
  static QUEST_INLINE Int bit_or(Int x, Int y) { return _mm512_or_si512(x, y); }
  static QUEST_INLINE Int bit_xor(Int x, Int y) { return _mm512_xor_si512(x, y); }
  static QUEST_INLINE Int add8(Int x, Int y) { return _mm512_add_epi8(x, y); }
  static QUEST_INLINE Int add16(Int x, Int y) { return _mm512_add_epi16(x, y); }
  static QUEST_INLINE Int add32(Int x, Int y) { return _mm512_add_epi32(x, y); }
  static QUEST_INLINE Int maddubs(Int u8, Int s8) { return _mm512_maddubs_epi16(u8, s8); }
  static QUEST_INLINE Int madd16(Int x, Int y) { return _mm512_madd_epi16(x, y); }
  // Lane i of x[j] becomes lane j of x[i]: halves of ever larger blocks change places.
  static QUEST_INLINE void transpose(Int* x) {
#pragma GCC unroll 4
    for (int half = 8; half >= 1; half /= 2) {
      alignas(64) int32_t low[16], high[16];
      for (int i = 0; i < 16; ++i) {
        low[i] = (i & half) == 0 ? i : 16 + i - half;
        high[i] = (i & half) == 0 ? i + half : 16 + i;
      }
      const Int from_low = load(low), from_high = load(high);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        if ((i & half) != 0) continue;
        const Int a = x[i], b = x[i + half];
        x[i] = _mm512_permutex2var_epi32(a, from_low, b);
        x[i + half] = _mm512_permutex2var_epi32(a, from_high, b);
      }
    }
  }
  static QUEST_INLINE Int shuffle8(Int table, Int index) {
    return _mm512_shuffle_epi8(table, index);
  }
  // table[index % 16] of dwords.
  static QUEST_INLINE Int lookup32(const uint32_t* table, Int index) {
    return _mm512_maskz_permutexvar_epi32(0xffff, index, _mm512_load_si512(table));
  }
};
#elif defined(__AVX2__)
struct Vector {
  using Int = __m256i;
  static constexpr int kVectors = 2;
  static QUEST_INLINE void pin(Int& x) { asm("" : "+x"(x)); }
  static QUEST_INLINE Int zero() { return _mm256_setzero_si256(); }
  static QUEST_INLINE Int broadcast(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static QUEST_INLINE Int broadcast64(int64_t x) { return _mm256_set1_epi64x(x); }
  static QUEST_INLINE Int load(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static QUEST_INLINE void store(void* p, Int x) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), x);
  }
  template <int kShift>
  static QUEST_INLINE Int shift(Int x) {
    if constexpr (kShift > 0) return _mm256_srli_epi32(x, kShift);
    if constexpr (kShift < 0) return _mm256_slli_epi32(x, -kShift);
    return x;
  }
  static QUEST_INLINE Int bit_and(Int x, Int y) { return _mm256_and_si256(x, y); }
  static QUEST_INLINE Int bit_or(Int x, Int y) { return _mm256_or_si256(x, y); }
  static QUEST_INLINE Int bit_xor(Int x, Int y) { return _mm256_xor_si256(x, y); }
  static QUEST_INLINE Int add8(Int x, Int y) { return _mm256_add_epi8(x, y); }
  static QUEST_INLINE Int add16(Int x, Int y) { return _mm256_add_epi16(x, y); }
  static QUEST_INLINE Int add32(Int x, Int y) { return _mm256_add_epi32(x, y); }
  static QUEST_INLINE Int maddubs(Int u8, Int s8) { return _mm256_maddubs_epi16(u8, s8); }
  static QUEST_INLINE Int madd16(Int x, Int y) { return _mm256_madd_epi16(x, y); }
  static QUEST_INLINE void transpose(Int* x) {
    for (int i = 0; i < 8; i += 2) {  // pairs of lanes
      const Int a = x[i], b = x[i + 1];
      x[i] = _mm256_blend_epi32(a, _mm256_slli_epi64(b, 32), 0xaa);
      x[i + 1] = _mm256_blend_epi32(_mm256_srli_epi64(a, 32), b, 0xaa);
    }
    for (int i = 0; i < 8; ++i) {
      if ((i & 2) != 0) continue;
      const Int a = x[i], b = x[i + 2];
      x[i] = _mm256_unpacklo_epi64(a, b);
      x[i + 2] = _mm256_unpackhi_epi64(a, b);
    }
    for (int i = 0; i < 4; ++i) {
      const Int a = x[i], b = x[i + 4];
      x[i] = _mm256_permute2x128_si256(a, b, 0x20);
      x[i + 4] = _mm256_permute2x128_si256(a, b, 0x31);
    }
  }
  static QUEST_INLINE Int shuffle8(Int table, Int index) {
    return _mm256_shuffle_epi8(table, index);
  }
  static QUEST_INLINE Int lookup32(const uint32_t* table, Int index) {
    const Int low = _mm256_permutevar8x32_epi32(load(table), index);
    const Int high = _mm256_permutevar8x32_epi32(load(table + 8), index);
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high),
                                                _mm256_castsi256_ps(_mm256_slli_epi32(index, 28))));
  }
};
#else
// Plain C++, for tests that unpack with these templates on any CPU.
struct Vector {
  struct Int {
    uint32_t lane[16];
  };
  static constexpr int kVectors = 1;
  template <class Entry, class F>
  static Int map(Int x, Int y, F f) {
    constexpr size_t kCount = sizeof(Int) / sizeof(Entry);
    Entry xs[kCount], ys[kCount];
    __builtin_memcpy(xs, &x, sizeof(x));
    __builtin_memcpy(ys, &y, sizeof(y));
    for (size_t i = 0; i < kCount; ++i) xs[i] = static_cast<Entry>(f(xs[i], ys[i], i));
    __builtin_memcpy(&x, xs, sizeof(x));
    return x;
  }
  static Int zero() { return {}; }
  static Int broadcast(uint32_t value) {
    return map<uint32_t>({}, {}, [=](uint32_t, uint32_t, size_t) { return value; });
  }
  static Int load(const void* p) {
    Int x;
    __builtin_memcpy(&x, p, sizeof(x));
    return x;
  }
  static void store(void* p, Int x) { __builtin_memcpy(p, &x, sizeof(x)); }
  template <int kShift>
  static Int shift(Int x) {
    return map<uint32_t>(x, x, [](uint32_t lane, uint32_t, size_t) {
      return kShift >= 0 ? lane >> (kShift & 31) : lane << (-kShift & 31);
    });
  }
  static Int bit_and(Int x, Int y) {
    return map<uint32_t>(x, y, [](uint32_t a, uint32_t b, size_t) { return a & b; });
  }
  static Int bit_or(Int x, Int y) {
    return map<uint32_t>(x, y, [](uint32_t a, uint32_t b, size_t) { return a | b; });
  }
  static Int add8(Int x, Int y) {
    return map<uint8_t>(x, y, [](uint8_t a, uint8_t b, size_t) { return a + b; });
  }
  static Int shuffle8(Int table, Int index) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(&table);
    return map<uint8_t>(index, index, [=](uint8_t a, uint8_t, size_t i) {
      return a < 128 ? bytes[i / 16 * 16 + a % 16] : 0;
    });
  }
  static Int lookup32(const uint32_t* table, Int index) {
    return map<uint32_t>(index, index, [=](uint32_t a, uint32_t, size_t) { return table[a % 16]; });
  }
};
#endif
using Int = Vector::Int;

// A value's bits from kDone on, moved down by kDown, out of the pieces of a value of kBits bits:
// the widest piece first, its lines begin at the number of bits before it.
template <int kBits, int kDone, int kGroup, int kDown = 0>
QUEST_INLINE Int bits_from(const Int* lines) {
  constexpr int kRest = kBits - kDone;
  constexpr int kPiece = kRest >= 8 ? 8 : kRest >= 4 ? 4 : kRest >= 2 ? 2 : 1;
  constexpr int kPerByte = 8 / kPiece;
  const Int line = lines[kDone + kGroup / kPerByte];
  if constexpr (kPiece == 8) {
    return line;
  } else {
    const Int shifted = Vector::shift<kGroup % kPerByte * kPiece - (kDone - kDown)>(line);
    constexpr uint32_t kMask = ((1u << kPiece) - 1) << (kDone - kDown);
    const Int bits = Vector::bit_and(shifted, Vector::broadcast(kMask * 0x01010101u));
    if constexpr (kRest == kPiece) {
      return bits;
    } else {
      return Vector::bit_or(bits, bits_from<kBits, kDone + kPiece, kGroup, kDown>(lines));
    }
  }
}

template <int kBitsOfValue>
struct Bits {
  static constexpr int kBits = kBitsOfValue;
  static constexpr int kLines = kBits;  // of a block
  static constexpr int kMaxValue = (1 << kBits) - 1;
  Int lines[kLines];

  explicit QUEST_INLINE Bits(const WeightTiles&) {}
  QUEST_INLINE void load(const uint8_t* block, int v) {
#pragma GCC unroll 8
    for (int l = 0; l < kLines; ++l) {
      lines[l] = Vector::load(block + 64 * l + v * static_cast<int>(sizeof(Int)));
    }
  }
  template <int kGroup>
  QUEST_INLINE Int group() const {
    return bits_from<kBits, 0, kGroup>(lines);
  }
  // The same times 2^kPlace<kGroup>, where the bits stand in their byte: without a shift.
  static constexpr bool kHasPlaces = kBits == 2 || kBits == 4;
  template <int kGroup>
  static constexpr int kPlace = kGroup* kBits % 8;
  template <int kGroup>
  QUEST_INLINE Int group_in_place() const {
    constexpr uint32_t kMask = ((1u << kBits) - 1) << kPlace<kGroup>;
    return Vector::bit_and(lines[kGroup * kBits / 8], Vector::broadcast(kMask * 0x01010101u));
  }
  // Of values of more than 4 bits, the lower 4 and the others.
  template <int kGroup>
  QUEST_INLINE Int low_bits() const {
    if constexpr (kBits == 8) return Vector::bit_and(lines[kGroup], Vector::broadcast(0x0f0f0f0fu));
    return bits_from<4, 0, kGroup>(lines);
  }
  template <int kGroup>
  QUEST_INLINE Int high_bits() const {
    if constexpr (kBits == 8) {
      return Vector::bit_and(Vector::shift<4>(lines[kGroup]), Vector::broadcast(0x0f0f0f0fu));
    }
    return bits_from<kBits, 4, kGroup, 4>(lines);
  }
};

// FP4: a table of 16 bytes.
struct TableValues : Bits<4> {
  static constexpr int kMaxValue = 24;
  static constexpr bool kHasPlaces = false;
  Int table;

  explicit QUEST_INLINE TableValues(const WeightTiles& w)
      : Bits<4>(w), table(Vector::load(w.table)) {}
  template <int kGroup>
  QUEST_INLINE Int group() const {
    return Vector::shuffle8(table, Bits<4>::group<kGroup>());
  }
};

// 4:8, many rows: spread out into lines of 8-bit values, a block of pairs (256 columns) at a time.
inline constexpr int64_t kSparseBlocks = 8;
inline constexpr int64_t kSparseBytes = kSparseBlocks * 512;

struct SpreadValues : Bits<8> {
  using Bits<8>::Bits;
  static constexpr int kMaxValue = 31;
};

// What a nibble of two kept pairs, first + 4 second, makes of the 4 kept bytes: which of them goes
// to each of the columns 0 to 3 (low) and 4 to 7 (high); 0x80: none.
// codes: the columns of the 4 kept bytes.
struct SpreadTables {
  alignas(64) uint32_t low[16], high[16], codes[16];
};
constexpr SpreadTables make_spread_tables() {
  SpreadTables tables{};
  for (unsigned index = 0; index < 16; ++index) {
    const unsigned first = index & 3, second = index >> 2;
    uint32_t halves[2] = {0, 0};
    for (unsigned column = 0; column < 8; ++column) {
      uint32_t byte = 0x80;
      if (first < second && column / 2 == first) byte = column % 2;
      if (first < second && column / 2 == second) byte = 2 + column % 2;
      halves[column / 4] |= byte << (8 * (column % 4));
    }
    tables.low[index] = halves[0];
    tables.high[index] = halves[1];
    tables.codes[index] =
        first < second ? 0x01000100 + 0x0202 * first + 0x02020000 * second : 0x80808080;
  }
  return tables;
}
inline constexpr SpreadTables kSpread = make_spread_tables();

// Where the 4 bytes of a row begin in its 16 bytes.
alignas(64) inline constexpr uint32_t kRowBytes[16] = {
    0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808, 0x0c0c0c0c,
    0, 0x04040404, 0x08080808, 0x0c0c0c0c, 0, 0x04040404, 0x08080808, 0x0c0c0c0c};

// The nibbles of a group of 8 columns, with other bits above them.
template <int kGroup>
QUEST_INLINE Int pair_index(Int pairs) {
  return Vector::shift<kGroup / 4 * 4 + kGroup % 4 * 8>(pairs);
}

template <int kGroup>
QUEST_INLINE void spread_group(const Bits<4>& kept, Int pairs, int v, uint8_t* out) {
  const Int rows = Vector::load(kRowBytes);
  const Int minus15 = Vector::broadcast(0xf1f1f1f1u), plus16 = Vector::broadcast(0x10101010u);
  const Int u = kept.group<kGroup>();
  const Int numbers = Vector::add8(Vector::add8(u, u), minus15);
  const Int index = pair_index<kGroup>(pairs);
  const Int low = Vector::add8(Vector::lookup32(kSpread.low, index), rows);
  const Int high = Vector::add8(Vector::lookup32(kSpread.high, index), rows);
  uint8_t* lines = out + 128 * kGroup + v * static_cast<int>(sizeof(Int));
  Vector::store(lines, Vector::add8(Vector::shuffle8(numbers, low), plus16));
  Vector::store(lines + 64, Vector::add8(Vector::shuffle8(numbers, high), plus16));
}

// Blocks [block, block + count) of a tile, block a multiple of 8 and count at most 8. Writes whole
// kept blocks, which are two.
inline void spread_sparse(const WeightTiles& w, int64_t tile, int64_t block, int64_t count,
                          uint8_t* out) {
  const uint8_t* kept_bytes = w.bytes + tile * w.tile_bytes + block / 2 * 256;
  const uint8_t* pair_bytes = w.pairs + tile * w.pair_tile_bytes + block / kSparseBlocks * 256;
  Bits<4> kept(w);
  for (int64_t b = 0; 2 * b < count; ++b) {
    for (int v = 0; v < Vector::kVectors; ++v) {
      kept.load(kept_bytes + 256 * b, v);
      const Int pairs = Vector::load(pair_bytes + 64 * b + v * static_cast<int>(sizeof(Int)));
      uint8_t* lines = out + 1024 * b;
      spread_group<0>(kept, pairs, v, lines);
      spread_group<1>(kept, pairs, v, lines);
      spread_group<2>(kept, pairs, v, lines);
      spread_group<3>(kept, pairs, v, lines);
      spread_group<4>(kept, pairs, v, lines);
      spread_group<5>(kept, pairs, v, lines);
      spread_group<6>(kept, pairs, v, lines);
      spread_group<7>(kept, pairs, v, lines);
    }
  }
}

// Calls f.template operator()<g>() for the 8 groups of a block.
template <class F>
QUEST_INLINE void for_each_group(F&& f) {
  f.template operator()<0>();
  f.template operator()<1>();
  f.template operator()<2>();
  f.template operator()<3>();
  f.template operator()<4>();
  f.template operator()<5>();
  f.template operator()<6>();
  f.template operator()<7>();
}

}  // namespace
}  // namespace quest::kernels::detail
