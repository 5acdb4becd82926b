// From the words of a lane (kernels/lane_order.h) to operands of m16n8k32, without CUDA's types so
// that a test on a CPU can follow every column.
//
// One half of a span gives a lane 2 * bits words: w[2 l + h] is line l of row g + 8 h. Group j of
// its 32 columns is columns 4 j .. 4 j + 3. An operand register holds one group of one row, and a
// product takes two groups of two rows:
//   a0 row g, first group;  a1 row g + 8, first group;  a2, a3 the same of the second group
// beside the activations of the first and of the second group.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define QUEST_FIELDS __host__ __device__ __forceinline__
#define QUEST_UNROLL _Pragma("unroll")
#else
#define QUEST_FIELDS inline
#define QUEST_UNROLL
#endif

namespace quest::kernels::cuda {

// Fields in place: a masked byte is 2^e times its share of the value, and goes into sums of set
// (e + 6) / 2. Undone by value_of_sets.
inline constexpr int kFieldSets = 7;
constexpr int field_set(int e) { return (e + 6) / 2; }

// f(a0, a1, a2, a3, first group, second group, set) so often that every bit of every column is in
// one product.
template <int kBits, class F>
QUEST_FIELDS void for_each_field(const uint32_t* w, F&& f) {
  if constexpr (kBits == 8) {
    QUEST_UNROLL
    for (int l = 0; l < 8; l += 2) {
      f(w[2 * l], w[2 * l + 1], w[2 * l + 2], w[2 * l + 3], l, l + 1, field_set(0));
    }
  }
  if constexpr ((kBits & 4) != 0) {  // lines 0..3, the lowest bits
    QUEST_UNROLL
    for (int l = 0; l < 4; l += 2) {
      QUEST_UNROLL
      for (int field = 0; field < 2; ++field) {
        const uint32_t mask = 0x0f0f0f0fu << (4 * field);
        f(w[2 * l] & mask, w[2 * l + 1] & mask, w[2 * l + 2] & mask, w[2 * l + 3] & mask,
          2 * l + field, 2 * l + 2 + field, field_set(4 * field));
      }
    }
  }
  if constexpr ((kBits & 2) != 0) {
    constexpr int kShift = kBits & 4;
    const uint32_t* lines = w + 2 * kShift;
    QUEST_UNROLL
    for (int field = 0; field < 4; ++field) {
      const uint32_t mask = 0x03030303u << (2 * field);
      f(lines[0] & mask, lines[1] & mask, lines[2] & mask, lines[3] & mask, field, 4 + field,
        field_set(2 * field - kShift));
    }
  }
  if constexpr ((kBits & 1) != 0) {
    constexpr int kShift = kBits & 6;
    const uint32_t lower = w[2 * kShift], upper = w[2 * kShift + 1];
    QUEST_UNROLL
    for (int bit = 0; bit < 8; bit += 2) {
      const uint32_t mask = 0x01010101u << bit;
      f(lower & mask, upper & mask, lower >> 1 & mask, upper >> 1 & mask, bit, bit + 1,
        field_set(bit - kShift));
    }
  }
}

// Whether for_each_field<kBits> uses a set.
template <int kBits>
constexpr bool uses_set(int set) {
  bool used = kBits == 8 && set == field_set(0);
  for (int e = 0; e < 8; e += 2) {
    used = used || ((kBits & 4) != 0 && e % 4 == 0 && set == field_set(e)) ||
           ((kBits & 2) != 0 && set == field_set(e - (kBits & 4))) ||
           ((kBits & 1) != 0 && set == field_set(e - (kBits & 6)));
  }
  return used;
}

// sum_c u a from the sums of the sets; sum(set) is an int.
template <int kBits, class F>
QUEST_FIELDS int value_of_sets(F&& sum) {
  int total = 0;
  QUEST_UNROLL
  for (int set = 0; set < kFieldSets; ++set) {
    if (!uses_set<kBits>(set)) continue;
    const int e = 2 * set - 6;
    total += e >= 0 ? sum(set) >> e : sum(set) * (1 << -e);
  }
  return total;
}

// The values of group j of row g + 8 h, one in each byte.
template <int kBits>
QUEST_FIELDS uint32_t unpacked_group(const uint32_t* w, int j, int h) {
  uint32_t value = 0;
  if constexpr (kBits == 8) value = w[2 * j + h];
  if constexpr ((kBits & 4) != 0) value = w[2 * (j / 2) + h] >> (4 * (j % 2)) & 0x0f0f0f0fu;
  if constexpr ((kBits & 2) != 0) {
    constexpr int kShift = kBits & 4;
    value |= (w[2 * (kShift + j / 4) + h] >> (2 * (j % 4)) & 0x03030303u) << kShift;
  }
  if constexpr ((kBits & 1) != 0) {
    constexpr int kShift = kBits & 6;
    value |= (w[2 * kShift + h] >> j & 0x01010101u) << kShift;
  }
  return value;
}

// Bit planes: plane p has bit p of each of a lane's 32 columns in one word, column c's at
// plane_bit<kBits>(c). Columns 8 q and 8 q + 4 on are plane_bit(8 q) and kPlaneStep further from
// columns 0 and 4, four columns a byte each.
template <int kBits>
inline constexpr int kPlaneStep = kBits == 1   ? 1
                                  : kBits == 4 ? 4
                                               : 2;
template <int kBits>
QUEST_FIELDS constexpr int plane_bit(int column) {
  constexpr int kLines = kPlaneStep<kBits>, kGroups = 8 / kLines;
  const int group = column / 4;
  return 8 * (column % 4) + kLines * (group % kGroups) + group / kGroups;
}
// a where the mask has ones, else b.
QUEST_FIELDS uint32_t select_bits(uint32_t mask, uint32_t a, uint32_t b) {
#ifdef __CUDA_ARCH__
  uint32_t out;  // one instruction, which the compiler does not find
  asm("lop3.b32 %0, %1, %2, %3, 0xe4;" : "=r"(out) : "r"(a), "r"(b), "r"(mask));
  return out;
#else
  return (a & mask) | (b & ~mask);
#endif
}
// From the words of half a span, of row g + 8 h. Up to 4 bits.
template <int kBits>
QUEST_FIELDS void bit_planes(const uint32_t* w, int h, uint32_t (&planes)[kBits]) {
  static_assert(kBits <= 4);
  constexpr uint32_t kEven = 0x55555555u, kEvenPairs = 0x33333333u;
  if constexpr (kBits == 1) planes[0] = w[h];
  if constexpr (kBits == 2 || kBits == 3) {
    planes[0] = select_bits(kEven, w[h], w[2 + h] << 1);
    planes[1] = select_bits(kEven, w[h] >> 1, w[2 + h]);
  }
  if constexpr (kBits == 3) {  // from the order of one bit: the middle four, then the middle pairs
    uint32_t x = w[4 + h];
    uint32_t turned = (x ^ x >> 2) & 0x0c0c0c0cu;
    x ^= turned | turned << 2;
    turned = (x ^ x >> 1) & 0x22222222u;
    planes[2] = x ^ (turned | turned << 1);
  }
  if constexpr (kBits == 4) {  // four lines transposed within each nibble
    uint32_t pairs[4];
    QUEST_UNROLL
    for (int l = 0; l < 2; ++l) {
      const uint32_t first = w[2 * l + h], second = w[2 * l + 4 + h];
      pairs[l] = select_bits(kEvenPairs, first, second << 2);
      pairs[l + 2] = select_bits(kEvenPairs, first >> 2, second);
    }
    QUEST_UNROLL
    for (int p = 0; p < 4; p += 2) {
      planes[p] = select_bits(kEven, pairs[p], pairs[p + 1] << 1);
      planes[p + 1] = select_bits(kEven, pairs[p] >> 1, pairs[p + 1]);
    }
  }
}

// The byte permutation of the GPU: nibble i of the selector says which of the 8 bytes of (high,
// low) byte i is, or with its top bit that byte's sign, 0x00 or 0xff.
QUEST_FIELDS uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
#ifdef __CUDA_ARCH__
  uint32_t out;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(out) : "r"(low), "r"(high), "r"(selector));
  return out;
#else
  const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t nibble = selector >> (4 * i) & 15;
    uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (nibble & 7))) & 255;
    if (nibble & 8) byte = byte & 128 ? 255 : 0;
    out |= byte << (8 * i);
  }
  return out;
#endif
}

// Numbers of 4-bit indices: of the groups 2 l and 2 l + 1 that a line holds. table: 16 numbers as
// bytes.
QUEST_FIELDS void looked_up_groups(uint32_t line, const uint32_t (&table)[4], uint32_t& even,
                                   uint32_t& odd) {
  // Nibbles 2 i and 2 i + 1 of the line are column i of the even and of the odd group.
  const uint32_t low = line & 0x77777777u, high = low >> 16;
  const uint32_t shifted = line << 4;
  // Bytes: columns 0 and 1, then 2 and 3, even and odd in turn; signs of the nibbles select.
  const uint32_t mask01 = permute_bytes(line, shifted, 0x9d8cu);
  const uint32_t mask23 = permute_bytes(line, shifted, 0xbfaeu);
  const uint32_t a = permute_bytes(table[0], table[1], low),
                 b = permute_bytes(table[2], table[3], low);
  const uint32_t c = permute_bytes(table[0], table[1], high),
                 d = permute_bytes(table[2], table[3], high);
  const uint32_t columns01 = (a & ~mask01) | (b & mask01);
  const uint32_t columns23 = (c & ~mask23) | (d & mask23);
  even = permute_bytes(columns01, columns23, 0x6420u);
  odd = permute_bytes(columns01, columns23, 0x7531u);
}

}  // namespace quest::kernels::cuda
