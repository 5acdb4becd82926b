// The tensor core's products of small integers (mma.sync, compute capability 8.0 and up), and loads
// that stream past the caches.
//
// Of m16n8k32, lane 4 g + t holds: a0, a2 of row g, a1, a3 of row g + 8; b0, b1 of column g; sums
// d[0], d[1] of row g, columns 2 t and 2 t + 1, d[2], d[3] of row g + 8. Which 32 k's they are is
// the caller's choice: bytes of a0 and a1 meet b0 of the same t, those of a2 and a3 b1.
#pragma once

#include <cstdint>

namespace quest::kernels::cuda {

__device__ __forceinline__ void mma_u8(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                       uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_s8(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                       uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Counts of ones of a and b in 256 bits: a register holds 32 of them.
__device__ __forceinline__ void mma_bits(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k256.row.col.s32.b1.b1.s32.and.popc {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// 16 bytes that are read once and never written while the kernel runs.
__device__ __forceinline__ void load_streaming(const uint4* p, uint32_t* w) {
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
               : "l"(p));
}

// Activations of 16 columns; `fill` past the end of a row. kAligned: K is a multiple of 16.
template <bool kAligned>
__device__ inline uint4 load_codes(const int8_t* row, int column, int k, uint32_t fill) {
  if constexpr (kAligned) {
    if (column < k) return __ldcg(reinterpret_cast<const uint4*>(row + column));
    return make_uint4(fill, fill, fill, fill);
  }
  uint32_t words[4] = {fill, fill, fill, fill};
#pragma unroll 1
  for (int i = 0; i < 16 && column + i < k; ++i) {
    const uint32_t byte = static_cast<uint8_t>(row[column + i]), shift = 8 * (i % 4);
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      if (i / 4 == word) words[word] = (words[word] & ~(0xffu << shift)) | byte << shift;
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

}  // namespace quest::kernels::cuda
