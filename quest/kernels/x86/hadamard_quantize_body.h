// The body of hadamard_quantize_avx2.cpp and hadamard_quantize_avx512.cpp, written on 16 lanes.
//
// A row is taken in chunks of 128 values, 8 vectors: one chunk of the sum's tree, and one or more
// whole Hadamard blocks. First pass: load, transform, square, and keep the transformed row in
// scratch (it is in L1 or L2). Second pass: decide, 16 values at a time. Order of every operation
// as in quest/quant/quantizer.h; a stage of the transform is one fused multiply-add by +-1, whose
// product is exact, so that it rounds as the addition or subtraction does.
#pragma once

#include "quest/kernels/hadamard_quantize_levels.h"
#include "quest/kernels/x86/chunk_lanes.h"

namespace quest::kernels {
// Internal linkage: each level's file has its own copy.
namespace {

template <class L, class T>
QUEST_LANE void store_chunk(T* y, int64_t n, const typename L::F* v) {
  if (n >= kChunk) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) L::store(y + i * L::kWidth, v[i]);
    return;
  }
  for (int i = 0; i < kVectors; ++i) {
    const int64_t left = n - i * L::kWidth;
    if (left >= L::kWidth) {
      L::store(y + i * L::kWidth, v[i]);
    } else if (left > 0) {
      L::store_partial(y + i * L::kWidth, v[i], static_cast<int>(left));
    }
  }
}

// Butterflies between vectors i and i + stride.
template <class L, int stride>
QUEST_LANE void butterfly_vectors(typename L::F* v) {
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    if ((i & stride) != 0) continue;
    const typename L::F a = v[i];
    const typename L::F b = v[i + stride];
    v[i] = L::add(a, b);
    v[i + stride] = L::sub(a, b);
  }
}

alignas(64) constexpr float kSigns[4][16] = {
    {1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1},
    {1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1, 1, 1, -1, -1},
    {1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1},
    {1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1, -1}};

// Transforms a chunk in blocks of 16, 32, 64 or 128. Zeros past the row's end stay zero.
template <class L>
QUEST_LANE void transform_chunk(typename L::F* v, int64_t block, float norm) {
  using F = typename L::F;
  const F s1 = L::load(kSigns[0]), s2 = L::load(kSigns[1]), s4 = L::load(kSigns[2]),
          s8 = L::load(kSigns[3]);
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) {
    F a = v[i];
    a = L::fma(a, s1, L::swap1(a));
    a = L::fma(a, s2, L::swap2(a));
    a = L::fma(a, s4, L::swap4(a));
    v[i] = L::fma(a, s8, L::swap8(a));
  }
  if (block >= 32) butterfly_vectors<L, 1>(v);
  if (block >= 64) butterfly_vectors<L, 2>(v);
  if (block >= 128) butterfly_vectors<L, 4>(v);
  const F scale = L::set1(norm);
#pragma GCC unroll 8
  for (int i = 0; i < kVectors; ++i) v[i] = L::mul(v[i], scale);
}

// First pass over a row of k values: the transformed row and its chunk sums into the plan's
// scratch.
template <class L, class T>
__attribute__((noinline)) void transform_row(const QuantizePlan& plan, const T* x, int64_t k) {
  using F = typename L::F;
  for (int64_t start = 0; start < k; start += kChunk) {
    F v[kVectors];
    load_chunk<L>(x + start, k - start, v);
    if (plan.block > 1) transform_chunk<L>(v, plan.block, plan.norm);
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) {
      L::store(plan.row + start + i * L::kWidth, v[i]);
      v[i] = L::mul(v[i], v[i]);
    }
    plan.chunk_sums[start / kChunk] = L::sum_neighbours_128(v);
  }
}

// Lanes whose pair is kept, of two groups of 8: a pair is dropped if two of the other three in its
// group are ahead of it, by a larger norm or by an equal norm and an earlier place.
template <class L>
QUEST_LANE uint16_t kept_lanes(typename L::F xh) {
  using F = typename L::F;
  const F square = L::mul(xh, xh);
  const F norm = L::add(square, L::swap1(square));
  const F other1 = L::swap2(norm), other2 = L::swap4(norm), other3 = L::swap2(other2);
  // Pair j compares with j ^ 1, j ^ 2, j ^ 3, which is the earlier one for these lanes.
  constexpr unsigned kEarlier1 = 0xCCCC, kEarlier2 = 0xF0F0, kEarlier3 = 0xF0F0;
  const auto ahead = [&](F other, unsigned earlier) __attribute__((always_inline)) {
    return L::bits(L::gt(other, norm)) | (L::bits(L::eq(other, norm)) & earlier);
  };
  const unsigned a = ahead(other1, kEarlier1), b = ahead(other2, kEarlier2),
                 c = ahead(other3, kEarlier3);
  return static_cast<uint16_t>(~((a & b) | (a & c) | (b & c)));
}

// The row's constants in all lanes.
template <class L>
struct Broadcast {
  typename L::F unit, inverse_step, trust_limit, clip_limit;
  typename L::F half_levels, negative_half_levels, half, one, two, minus_one;
  typename L::F numbers, midpoints;  // of a table
  typename L::F middle;              // its midpoint 7
};

// Count of midpoints below z, by halving: 15 midpoints, padded with infinity.
template <class L>
QUEST_LANE typename L::I table_index(const Broadcast<L>& c, typename L::F z) {
  using I = typename L::I;
  I index = L::select_int(L::gt(z, c.middle), L::set1_int(8), L::set1_int(0));
  const auto step = [&](int width) __attribute__((always_inline)) {
    const I probe = L::add_int(index, L::set1_int(width - 1));
    const I further = L::add_int(index, L::set1_int(width));
    index = L::select_int(L::gt(z, L::lookup16(c.midpoints, probe)), further, index);
  };
  step(4);
  step(2);
  step(1);
  return index;
}

// Decides 16 values: codes (as int32) and the mask's bits.
template <class L, CodeKind code, MaskKind mask>
QUEST_LANE typename L::I decide(const Broadcast<L>& c, typename L::F xh, uint16_t& mask_bits) {
  using F = typename L::F;
  using I = typename L::I;
  const F z = L::mul(xh, c.inverse_step);
  F number;
  I codes;
  if constexpr (code == CodeKind::kNumberTable || code == CodeKind::kIndexTable) {
    const I index = table_index<L>(c, z);
    number = L::lookup16(c.numbers, index);
    codes = code == CodeKind::kNumberTable ? L::to_int(number) : index;
  } else {
    const F clamped = L::min(L::max(z, c.negative_half_levels), c.half_levels);
    if constexpr (code == CodeKind::kTernary) {
      number = L::round_even(clamped);
      codes = L::to_int(number);
    } else {
      const F n = L::round_even(L::add(clamped, c.half));
      number = L::fma(n, c.two, c.minus_one);  // 2n - 1 is exact
      if constexpr (code == CodeKind::kOdd4of8)
        number = L::zero_unless(L::from_bits(kept_lanes<L>(xh)), number);
      codes = L::to_int(code == CodeKind::kOdd8Bit ? L::sub(n, c.one) : number);
    }
  }
  if constexpr (mask == MaskKind::kTrust) {
    const F distance = L::abs(L::sub(L::mul(number, c.unit), xh));
    mask_bits = L::bits(L::le(distance, c.trust_limit));
  } else if constexpr (mask == MaskKind::kClip) {
    mask_bits = L::bits(L::le(L::abs(xh), c.clip_limit));
  } else {
    mask_bits = 0xffff;
  }
  return codes;
}

// Second pass: k values of the transformed row to codes and mask bits.
template <class L, CodeKind code, MaskKind mask>
QUEST_LANE void decide_row(const QuantizePlan& plan, const RowConstants<float>& constants,
                           int64_t k, int8_t* codes, uint8_t* mask_row) {
  Broadcast<L> c;
  c.unit = L::set1(constants.unit);
  c.inverse_step = L::set1(constants.inverse_step);
  c.trust_limit = L::set1(constants.trust_limit);
  c.clip_limit = L::set1(constants.clip_limit);
  c.half_levels = L::set1(plan.half_levels);
  c.negative_half_levels = L::set1(-plan.half_levels);
  c.half = L::set1(0.5f);
  c.one = L::set1(1.0f);
  c.two = L::set1(2.0f);
  c.minus_one = L::set1(-1.0f);
  if constexpr (code == CodeKind::kNumberTable || code == CodeKind::kIndexTable) {
    const float* midpoints = reinterpret_cast<const float*>(&plan.table->midpoints);
    c.numbers = L::load(reinterpret_cast<const float*>(&plan.table->numbers));
    c.midpoints = L::load(midpoints);
    c.middle = L::set1(midpoints[7]);
  }
  uint16_t bits;
  int64_t i = 0;
  for (; i + L::kWidth <= k; i += L::kWidth) {
    L::store_i8(codes + i, decide<L, code, mask>(c, L::load(plan.row + i), bits));
    if constexpr (mask != MaskKind::kNone) __builtin_memcpy(mask_row + i / 8, &bits, 2);
  }
  if (i < k) {  // the scratch row is padded, the outputs are not
    const unsigned left = static_cast<unsigned>(k - i);
    int8_t last[L::kWidth];
    L::store_i8(last, decide<L, code, mask>(c, L::load(plan.row + i), bits));
    __builtin_memcpy(codes + i, last, left);
    if constexpr (mask != MaskKind::kNone) {
      bits = static_cast<uint16_t>(bits & ((1u << left) - 1u));
      __builtin_memcpy(mask_row + i / 8, &bits, (left + 7) / 8);
    }
  }
}

template <class L, CodeKind code, MaskKind mask, class T>
int64_t quantize_rows(const QuantizePlan& plan, const T* x, int64_t m, int64_t k, int8_t* codes,
                      float* units, uint8_t* mask_rows) {
  int64_t first_bad = -1;
  const int64_t mask_stride = (k + 7) / 8;
  for (int64_t row = 0; row < m; ++row) {
    transform_row<L>(plan, x + row * k, k);
    RowConstants<float> constants;
    if (!finish_row_constants(plan, k, constants)) {
      if (first_bad < 0) first_bad = row;
      continue;
    }
    units[row] = constants.unit;
    decide_row<L, code, mask>(plan, constants, k, codes + row * k,
                              mask == MaskKind::kNone ? nullptr : mask_rows + row * mask_stride);
  }
  return first_bad;
}

template <class L, CodeKind code, class T>
int64_t quantize_rows(const QuantizePlan& plan, const T* x, int64_t m, int64_t k, int8_t* codes,
                      float* units, uint8_t* mask) {
  switch (plan.mask) {
    case MaskKind::kNone:
      return quantize_rows<L, code, MaskKind::kNone>(plan, x, m, k, codes, units, mask);
    case MaskKind::kTrust:
      return quantize_rows<L, code, MaskKind::kTrust>(plan, x, m, k, codes, units, mask);
    case MaskKind::kClip:
      return quantize_rows<L, code, MaskKind::kClip>(plan, x, m, k, codes, units, mask);
    case MaskKind::kOnes:
      break;
  }
  return quantize_rows<L, code, MaskKind::kOnes>(plan, x, m, k, codes, units, mask);
}

template <class L, class T>
int64_t quantize_all(const QuantizePlan& plan, const T* x, int64_t m, int64_t k, int8_t* codes,
                     float* units, uint8_t* mask) {
  switch (plan.code) {
    case CodeKind::kOdd:
      return quantize_rows<L, CodeKind::kOdd>(plan, x, m, k, codes, units, mask);
    case CodeKind::kOdd8Bit:
      return quantize_rows<L, CodeKind::kOdd8Bit>(plan, x, m, k, codes, units, mask);
    case CodeKind::kTernary:
      return quantize_rows<L, CodeKind::kTernary>(plan, x, m, k, codes, units, mask);
    case CodeKind::kOdd4of8:
      return quantize_rows<L, CodeKind::kOdd4of8>(plan, x, m, k, codes, units, mask);
    case CodeKind::kNumberTable:
      return quantize_rows<L, CodeKind::kNumberTable>(plan, x, m, k, codes, units, mask);
    case CodeKind::kIndexTable:
      break;
  }
  return quantize_rows<L, CodeKind::kIndexTable>(plan, x, m, k, codes, units, mask);
}

// out = H (mask * values), chunk by chunk; each chunk is read before it is written.
template <class L, class T>
void mask_and_transform(int64_t block, float norm, const T* values, const uint8_t* mask, int64_t m,
                        int64_t k, T* out) {
  using F = typename L::F;
  const int64_t mask_stride = (k + 7) / 8;
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t start = 0; start < k; start += kChunk) {
      const int64_t n = k - start < kChunk ? k - start : kChunk;
      F v[kVectors];
      load_chunk<L>(values + row * k + start, n, v);
      if (mask != nullptr) {
        uint16_t bits[kVectors] = {};
        __builtin_memcpy(bits, mask + row * mask_stride + start / 8,
                         static_cast<unsigned>((n + 7) / 8));
#pragma GCC unroll 8
        for (int i = 0; i < kVectors; ++i) v[i] = L::zero_unless(L::from_bits(bits[i]), v[i]);
      }
      if (block > 1) transform_chunk<L>(v, block, norm);
      store_chunk<L>(out + row * k + start, n, v);
    }
  }
}

template <class L, class T>
void dequantize_all(const QuantizePlan& plan, const int8_t* codes, const float* units, int64_t m,
                    int64_t k, T* values) {
  using F = typename L::F;
  const bool indexed = plan.code == CodeKind::kIndexTable;
  const F table =
      indexed ? L::load(reinterpret_cast<const float*>(&plan.table->numbers)) : L::zero();
  const F multiplier = L::set1(plan.multiplier), offset = L::set1(plan.offset);
  for (int64_t row = 0; row < m; ++row) {
    const F unit = L::set1(units == nullptr ? 1.0f : units[row]);
    const auto value = [&](const int8_t* p) __attribute__((always_inline)) {
      const typename L::I c = L::load_i8(p);
      const F number =
          indexed ? L::lookup16(table, c) : L::add(L::mul(L::to_float(c), multiplier), offset);
      return L::mul(number, unit);
    };
    const int8_t* row_codes = codes + row * k;
    T* row_values = values + row * k;
    int64_t i = 0;
    for (; i + L::kWidth <= k; i += L::kWidth) L::store(row_values + i, value(row_codes + i));
    if (i < k) {
      int8_t last[L::kWidth] = {};
      __builtin_memcpy(last, row_codes + i, static_cast<unsigned>(k - i));
      L::store_partial(row_values + i, value(last), static_cast<int>(k - i));
    }
  }
}

}  // namespace
}  // namespace quest::kernels

// Defines the entry points of a level, inside its namespace.
#define QUEST_DEFINE_HADAMARD_QUANTIZE(T)                                                        \
  int64_t hadamard_quantize(const QuantizePlan& plan, const T* x, int64_t m, int64_t k,          \
                            int8_t* codes, float* units, uint8_t* mask) {                        \
    return quantize_all<Lanes>(plan, x, m, k, codes, units, mask);                               \
  }                                                                                              \
  void mask_hadamard(int64_t block, float norm, const T* values, const uint8_t* mask, int64_t m, \
                     int64_t k, T* out) {                                                        \
    mask_and_transform<Lanes>(block, norm, values, mask, m, k, out);                             \
  }                                                                                              \
  void dequantize_rows(const QuantizePlan& plan, const int8_t* codes, const float* units,        \
                       int64_t m, int64_t k, T* values) {                                        \
    dequantize_all<Lanes>(plan, codes, units, m, k, values);                                     \
  }
