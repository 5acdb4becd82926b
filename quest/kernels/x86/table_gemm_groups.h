// table_gemm with 4-bit groups: per block of 32 columns two exact sums (hi and lo), then one FP32
// multiply-add with the rows' units. vpdpbusd where there is VNNI, else vpmaddubsw: 2 * 15 * 128 *
// 8 groups of 4 fit in 16 bits. Included by x86/table_gemm_*.cpp (internal linkage: see
// gemm_lowbit_driver.h).
#pragma once

#include "quest/kernels/table_gemm_task.h"
#include "quest/kernels/x86/packed_gemm_driver.h"
#include "quest/kernels/x86/packed_gemm_float_vector.h"
#include "quest/kernels/x86/packed_gemm_lines.h"

namespace quest::kernels::detail {
namespace {

QUEST_INLINE Int dot_step(Int acc, Int u, Int codes) {
#ifdef __AVX512VNNI__
  return _mm512_dpbusd_epi32(acc, u, codes);
#else
  return Vector::add16(acc, Vector::maddubs(u, codes));
#endif
}
QUEST_INLINE Int dot_sum(Int acc) {
#ifdef __AVX512VNNI__
  return acc;
#else
  return Vector::madd16(acc, Vector::broadcast(0x00010001u));
#endif
}

QUEST_INLINE uint32_t code_group(const uint8_t* p) {
  uint32_t x;
  __builtin_memcpy(&x, p, 4);
  return x;
}

// The units of one vector's rows: gathered for two groups at once, which are 32 bits.
struct GroupUnits {
  const char* base;  // of the first row
  Int offsets;       // of the rows, in bytes
  int64_t groups;

  QUEST_INLINE GroupUnits(const TableGroupTask& task, int64_t first_row) : groups(task.groups) {
    base = reinterpret_cast<const char*>(task.group_units + first_row * groups);
    alignas(64) int32_t rows[kLanes];
    for (int i = 0; i < kLanes; ++i) {
      const int64_t row = first_row + i < task.rows ? i : task.rows - 1 - first_row;
      rows[i] = static_cast<int32_t>(2 * row * groups);
    }
    offsets = Vector::load(rows);
  }
  // Of groups g and g + 1: bf16 in the lower and the upper half. The last group of the last row has
  // nothing behind it: then what lies before it is gathered.
  QUEST_INLINE Int pair(int64_t g) const {
    if (g + 1 < groups) return FloatVector::gather(base + 2 * g, offsets);
    if (g > 0) return Vector::shift<16>(FloatVector::gather(base + 2 * g - 2, offsets));
    alignas(64) int32_t at[kLanes];
    alignas(64) uint32_t bits[kLanes];
    Vector::store(at, offsets);
    for (int i = 0; i < kLanes; ++i) {
      uint16_t unit;
      __builtin_memcpy(&unit, base + at[i], 2);
      bits[i] = unit;
    }
    return Vector::load(bits);
  }
};

// Vector v of a tile, all groups, kRows rows of x: sums[r][lane].
template <int kRows>
__attribute__((noinline)) void group_sums(const TableGroupTask& task, int64_t tile, int v,
                                          const uint8_t* strip, int64_t m, float* sums) {
  const int64_t first_row = tile * kTileRows + v * kLanes;
  const uint8_t* bytes = task.codes + tile * task.groups * 256;
  Float acc[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) acc[r] = FloatVector::zero();
  const GroupUnits units(task, first_row < task.rows ? first_row : task.rows - 1);
  Bits<4> values{WeightTiles()};
  Int pair = Vector::zero();
  for (int64_t g = 0; g < task.groups; ++g) {
    pair = g % 2 == 0 ? units.pair(g) : Vector::shift<16>(pair);
    const Float unit = FloatVector::from_bits(Vector::shift<-16>(pair));
    values.load(bytes, v);
#pragma GCC unroll 4
    for (int l = 0; l < 4; ++l) fetch(bytes + 64 * l);
    Int high[kRows], low[kRows];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) high[r] = low[r] = Vector::zero();
    for_each_group([&]<int kGroup>() QUEST_INLINE_LAMBDA {
      const Int u = values.template group<kGroup>();
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const uint8_t* codes = strip + 8 * (kGroup * kRows + r);
        high[r] = dot_step(high[r], u, Vector::broadcast(code_group(codes)));
        low[r] = dot_step(low[r], u, Vector::broadcast(code_group(codes + 4)));
      }
    });
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      // Rows past M have no sum of q; what comes out for them is dropped.
      const int32_t q = m + r < task.m1 ? task.group_sums[(m + r) * task.groups + g] : 0;
      const Int sum =
          Vector::add32(Vector::add32(Vector::shift<-8>(dot_sum(high[r])), dot_sum(low[r])),
                        Vector::broadcast(static_cast<uint32_t>(-8 * q)));
      acc[r] = FloatVector::fma(FloatVector::convert(sum), unit, acc[r]);
    }
    bytes += 256;
    strip += 64 * kRows;
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) FloatVector::store(sums + r * kLanes, acc[r]);
}

template <int kRows>
void run_group_rows(const TableGroupTask& task) {
  for (int64_t v0 = task.n0; v0 < task.n1; v0 += kLanes) {
    const int64_t tile = v0 / kTileRows;
    const int v = static_cast<int>(v0 % kTileRows / kLanes);
    const int64_t columns = task.n1 - v0 < kLanes ? task.n1 - v0 : kLanes;
    for (int64_t s = task.m0 / kRows; s * kRows < task.m1; ++s) {
      alignas(64) float sums[kRows * kLanes];
      group_sums<kRows>(task, tile, v, task.strips + s * task.strip_bytes, s * kRows, sums);
      for (int64_t r = 0; r < kRows; ++r) {
        const int64_t m = s * kRows + r;
        if (m < task.m0 || m >= task.m1) continue;
        for (int64_t c = 0; c < columns; ++c) {
          task.out[m * task.ldo + v0 + c] = sums[r * kLanes + c] * task.units[m];
        }
      }
    }
  }
}

// A strip of 2, 4 or 8 rows of codes is 1, 2 or 4 rows of x.
inline void run_groups(const TableGroupTask& task) {
  if (task.strip == 2) return run_group_rows<1>(task);
  if (task.strip == 4) return run_group_rows<2>(task);
  run_group_rows<4>(task);
}

}  // namespace
}  // namespace quest::kernels::detail
