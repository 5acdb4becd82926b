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
  acc = Vector::add16(acc, Vector::maddubs(u, codes));
  Vector::pin(acc);
  return acc;
#endif
}
QUEST_INLINE Int dot_sum(Int acc) {
#ifdef __AVX512VNNI__
  return acc;
#else
  return Vector::madd16(acc, Vector::broadcast(0x00010001u));
#endif
}

inline constexpr int64_t kUnitGroups = 64;  // groups whose units are turned at once

// Units of groups [g0, g0 + count) as floats, [group][row]: those of a table lie row by row.
inline void turn_units(const TableGroupTask& task, int64_t first_row, int64_t g0, int64_t count,
                       float (*units)[kLanes]) {
  const uint16_t* rows[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    const int64_t row = first_row + i < task.rows ? first_row + i : task.rows - 1;
    rows[i] = &task.group_units[row * task.groups + g0].bits;
  }
  int64_t g = 0;
  for (; g + 2 * kLanes <= count; g += 2 * kLanes) {
    Int pairs[kLanes];  // of groups, the first in the lower half
    for (int i = 0; i < kLanes; ++i) pairs[i] = Vector::load(rows[i] + g);
    Vector::transpose(pairs);
    for (int i = 0; i < kLanes; ++i) {
      const Int odd = Vector::bit_and(pairs[i], Vector::broadcast(0xffff0000u));
      FloatVector::store(units[g + 2 * i], FloatVector::from_bits(Vector::shift<-16>(pairs[i])));
      FloatVector::store(units[g + 2 * i + 1], FloatVector::from_bits(odd));
    }
  }
  for (; g < count; ++g) {
    for (int i = 0; i < kLanes; ++i) {
      const uint32_t bits = static_cast<uint32_t>(rows[i][g]) << 16;
      __builtin_memcpy(&units[g][i], &bits, 4);
    }
  }
}

// Vector v of a tile, groups [g0, g0 + count), kRows rows of x: adds to sums[r][lane].
template <int kRows>
__attribute__((noinline)) void group_sums(const TableGroupTask& task, int64_t tile, int v,
                                          const uint8_t* strip, int64_t m, int64_t g0,
                                          int64_t count, const float (*units)[kLanes],
                                          float* sums) {
  const uint8_t* bytes = task.codes + (tile * task.groups + g0) * 256;
  strip += 64 * kRows * g0;
  Float acc[kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) acc[r] = FloatVector::load(sums + r * kLanes);
  Bits<4> values{WeightTiles()};
  const int32_t* terms = task.group_terms + m * task.groups + g0;
  for (int64_t g = 0; g < count; ++g) {
    const Float unit = FloatVector::load(units[g]);
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
        high[r] = dot_step(high[r], u, Vector::broadcast(dword(codes)));
        low[r] = dot_step(low[r], u, Vector::broadcast(dword(codes + 4)));
      }
    });
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const Int term = Vector::broadcast(static_cast<uint32_t>(terms[r * task.groups + g]));
      const Int sum =
          Vector::add32(Vector::add32(Vector::shift<-8>(dot_sum(high[r])), dot_sum(low[r])), term);
      acc[r] = FloatVector::fma(FloatVector::convert(sum), unit, acc[r]);
    }
    bytes += 256;
    strip += 64 * kRows;
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) FloatVector::store(sums + r * kLanes, acc[r]);
}

// One vector of table rows by the strips' rows. Where a row has more groups than are turned at
// once, sums wait in the output.
template <int kRows>
void run_group_columns(const TableGroupTask& task, int64_t v0) {
  const int64_t tile = v0 / kTileRows;
  const int v = static_cast<int>(v0 % kTileRows / kLanes);
  const int64_t columns = task.n1 - v0 < kLanes ? task.n1 - v0 : kLanes;
  alignas(64) float units[kUnitGroups][kLanes];
  for (int64_t g0 = 0; g0 < task.groups; g0 += kUnitGroups) {
    const int64_t left = task.groups - g0, count = left < kUnitGroups ? left : kUnitGroups;
    turn_units(task, v0, g0, count, units);
    for (int64_t s = task.m0 / kRows; s * kRows < task.m1; ++s) {
      alignas(64) float sums[kRows * kLanes] = {};
      const auto for_each_output = [&](auto&& f) QUEST_INLINE_LAMBDA {
        for (int64_t r = 0; r < kRows; ++r) {
          const int64_t m = s * kRows + r;
          if (m < task.m0 || m >= task.m1) continue;
          float* out = task.out + m * task.ldo + v0;
          for (int64_t c = 0; c < columns; ++c) f(m, sums[r * kLanes + c], out[c]);
        }
      };
      if (g0 > 0) for_each_output([](int64_t, float& sum, float out) { sum = out; });
      group_sums<kRows>(task, tile, v, task.strips + s * task.strip_bytes, s * kRows, g0, count,
                        units, sums);
      if (count < left) {
        for_each_output([](int64_t, float sum, float& out) { out = sum; });
      } else {
        for_each_output([&](int64_t m, float sum, float& out) { out = sum * task.units[m]; });
      }
    }
  }
}

template <int kRows>
void run_group_rows(const TableGroupTask& task) {
  for (int64_t v0 = task.n0; v0 < task.n1; v0 += kLanes) run_group_columns<kRows>(task, v0);
}

// A strip of 2, 4 or 8 rows of codes is 1, 2 or 4 rows of x.
inline void run_groups(const TableGroupTask& task) {
  if (task.strip == 2) return run_group_rows<1>(task);
  if (task.strip == 4) return run_group_rows<2>(task);
  run_group_rows<4>(task);
}

}  // namespace
}  // namespace quest::kernels::detail
