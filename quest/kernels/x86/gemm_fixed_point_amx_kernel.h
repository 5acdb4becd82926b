// gemm_fixed_point with AMX tiles: packing, loops, epilogue. Order of tiles:
// gemm_fixed_point_levels.h.
//
// Tiles is the instruction set: x86/gemm_fixed_point_amx.cpp gives the real one, the test an
// emulation, so that everything but a few instructions is tested on any CPU. Tiles has begin, end,
// zero, load, store (see amx_tiles.h), add_signed_products<c, a, b>, and for packing
//   transpose(source, stride, tile)              16 x 16 words of 32 bits; stride in bytes
//   digits_line(x, scales, inverse, line)        64 FP32 values of one vector -> a row of a's tiles
//                                                of high, middle and low digits; scales: 64, or
//                                                null
//   digits_quads(x, stride, scales, inverses, line)  4 rows of 16 FP32 values -> a row of b's
//   tiles;
//                                                scales: of the 4 rows, or null; inverses: of 16
//   code_quads(codes, stride, line)              4 rows of 16 codes -> a row of a tile of codes
// Internal linkage and no library functions: see gemm_lowbit_driver.h.
//
// Blocking: a product of two FP32 operands keeps a shared panel in the L1 cache while a task's own
// panels pass from the L2 cache; with codes, whose panels are smaller, an own panel stays while the
// codes pass. A block's sums stay in tiles over all of K: three tiles of sums by weight, so that
// one block of FP32 columns, two of codes, fit.
#pragma once

#include <cstdint>

#include "quest/kernels/gemm_fixed_point_levels.h"

namespace quest::kernels::detail {
namespace {

// Rows of a or columns of b: `count` vectors of k values. vector_stride: from one vector to the
// next, k_stride: along K; one of them is 1.
struct FixedPointVectors {
  const float* data;
  int64_t vector_stride, k_stride;
  int64_t count, k;
  const float* k_scales;
};

inline FixedPointVectors vectors_of(const GemmFixedPoint& product, bool of_a) {
  if (of_a) {
    const FixedPointOperand& a = product.a;
    return {a.data, a.row_stride, a.column_stride, product.m, product.k, a.k_scales};
  }
  const FixedPointOperand& b = product.b;
  return {b.data, b.column_stride, b.row_stride, product.n, product.k, b.k_scales};
}

// The larger of two magnitudes as bits; a NaN is larger than all numbers.
inline uint32_t larger_bits(uint32_t bits, float x) {
  const uint32_t magnitude = __builtin_bit_cast(uint32_t, x) & 0x7fffffffu;
  return magnitude > bits ? magnitude : bits;
}

inline FixedPointScale scale_of_bits(uint32_t bits) {
  if (bits >= 0x7f800000u) return {__builtin_nanf(""), 0.0f};
  float largest = __builtin_bit_cast(float, bits);
  if (largest < kFixedPointSmallestRow) largest = kFixedPointSmallestRow;
  return {largest / kFixedPointLargest, kFixedPointLargest / largest};
}

// inverses and units (inverses[v], and units[v] of each panel) of `count` vectors from `first` on.
inline void find_scales(const FixedPointVectors& x, int64_t first, int64_t panels,
                        int64_t panel_bytes, float* inverses, int8_t* out) {
  constexpr int64_t kMost = kMaxFixedPointTaskPanels * kFixedPointPanel;
  uint32_t bits[kMost];
  const int64_t places = panels * kFixedPointPanel;
  const int64_t count = x.count - first < places ? x.count - first : places;
  for (int64_t v = 0; v < places; ++v) bits[v] = 0;
  const float* source = x.data + first * x.vector_stride;
  if (x.k_stride == 1) {
    for (int64_t v = 0; v < count; ++v, source += x.vector_stride) {
      uint32_t most = 0;
      if (x.k_scales == nullptr) {
        for (int64_t i = 0; i < x.k; ++i) most = larger_bits(most, source[i]);
      } else {
        for (int64_t i = 0; i < x.k; ++i) most = larger_bits(most, source[i] * x.k_scales[i]);
      }
      bits[v] = most;
    }
  } else {
    for (int64_t i = 0; i < x.k; ++i, source += x.k_stride) {
      if (i + 8 < x.k) {
        const float* next = source + 8 * x.k_stride;
        for (int64_t v = 0; v < count; v += 16) __builtin_prefetch(next + v, 0, 2);
      }
      const float scale = x.k_scales == nullptr ? 1.0f : x.k_scales[i];
      for (int64_t v = 0; v < count; ++v) bits[v] = larger_bits(bits[v], source[v] * scale);
    }
  }
  for (int64_t p = 0; p < panels; ++p, out += panel_bytes) {
    float* units = reinterpret_cast<float*>(out);
    for (int64_t v = 0; v < kFixedPointPanel; ++v) {
      const FixedPointScale scale = scale_of_bits(bits[p * kFixedPointPanel + v]);
      units[v] = scale.unit;
      inverses[p * kFixedPointPanel + v] = scale.inverse;
    }
  }
}

// One step of a panel: values [at, at + 64) along K of vectors [first, first + 16). Values come
// from far and the processor does not foresee them: those of another step at `next`, or null, are
// fetched.
template <class Tiles, bool kRowTiles>
void pack_fixed_point_step(const FixedPointVectors& x, int64_t first, int64_t at, const float* next,
                           const float* inverses, int8_t* out) {
  constexpr int64_t kVectors = kFixedPointPanel, kDepth = kFixedPointStepDepth;
  const int64_t vectors = x.count - first < kVectors ? x.count - first : kVectors;
  const int64_t depth = x.k - at < kDepth ? x.k - at : kDepth;
  const bool along = x.k_stride == 1;
  const float* scales = x.k_scales == nullptr ? nullptr : x.k_scales + at;
  const float* source = nullptr;
  int64_t stride = along ? x.vector_stride : x.k_stride;
  if (next != nullptr) {
    for (int64_t r = 0; r < depth; ++r) __builtin_prefetch(next + r * stride, 0, 3);
  }
  alignas(64) float block[kVectors * kDepth], padded_scales[kDepth];
  if (vectors == kVectors && depth == kDepth) {
    source = x.data + first * x.vector_stride + at * x.k_stride;
  } else {
    const int64_t columns = along ? kDepth : kVectors;
    for (int64_t v = 0; v < kVectors; ++v) {
      for (int64_t i = 0; i < kDepth; ++i) {
        const bool inside = v < vectors && i < depth;
        block[along ? v * columns + i : i * columns + v] =
            inside ? x.data[(first + v) * x.vector_stride + (at + i) * x.k_stride] : 0.0f;
      }
    }
    if (scales != nullptr) {
      for (int64_t i = 0; i < kDepth; ++i) padded_scales[i] = i < depth ? scales[i] : 0.0f;
      scales = padded_scales;
    }
    source = block;
    stride = columns;
  }
  // Where rows in memory are not the tiles' rows, words of four values are turned.
  alignas(64) int8_t turned[kFixedPointStepBytes];
  int8_t* const lines = along == kRowTiles ? out : turned;
  if (along) {
    for (int64_t v = 0; v < kVectors; ++v) {
      Tiles::digits_line(source + v * stride, scales, inverses[v], lines + 64 * v);
    }
  } else {
    for (int64_t g = 0; g < kDepth / 4; ++g) {
      Tiles::digits_quads(source + 4 * g * stride, stride,
                          scales == nullptr ? nullptr : scales + 4 * g, inverses, lines + 64 * g);
    }
  }
  if (lines == turned) {
    for (int64_t tile = 0; tile < kFixedPointStepBytes; tile += kFixedPointTileBytes) {
      Tiles::transpose(turned + tile, 64, out + tile);
    }
  }
}

// Panels of vectors [first, first + 16 * panels), at most kMaxFixedPointTaskPanels. Where the
// vectors lie across, all panels take a step before the next, so that rows of memory are read on.
template <class Tiles, bool kRowTiles>
void pack_fixed_point_panels(const FixedPointVectors& x, int64_t first, int64_t panels,
                             int64_t panel_bytes, int8_t* out) {
  float inverses[kMaxFixedPointTaskPanels * kFixedPointPanel];
  find_scales(x, first, panels, panel_bytes, inverses, out);
  const int64_t steps = (x.k + kFixedPointStepDepth - 1) / kFixedPointStepDepth;
  const bool along = x.k_stride == 1;
  for (int64_t i = 0; i < steps * panels; ++i) {
    const int64_t p = along ? i / steps : i % panels, step = along ? i % steps : i / panels;
    const int64_t v = first + p * kFixedPointPanel;
    // The vectors' next values are read on along K; across, those two panels on.
    const bool fetches = !along && p + 2 < panels && v + 2 * kFixedPointPanel < x.count;
    pack_fixed_point_step<Tiles, kRowTiles>(
        x, v, step * kFixedPointStepDepth,
        fetches ? x.data + (v + 2 * kFixedPointPanel) + step * kFixedPointStepDepth * x.k_stride
                : nullptr,
        inverses + p * kFixedPointPanel,
        out + p * panel_bytes + kFixedPointUnitsBytes + step * kFixedPointStepBytes);
  }
}

template <class Tiles>
void pack_fixed_point_panels(const GemmFixedPoint& product, bool of_a, int64_t first_panel,
                             int64_t panels, int64_t panel_bytes, int8_t* out) {
  const FixedPointVectors x = vectors_of(product, of_a);
  if (of_a) {
    pack_fixed_point_panels<Tiles, true>(x, first_panel * kFixedPointPanel, panels, panel_bytes,
                                         out);
  } else {
    pack_fixed_point_panels<Tiles, false>(x, first_panel * kFixedPointPanel, panels, panel_bytes,
                                          out);
  }
}

// One panel of codes: columns [first, first + 32).
template <class Tiles>
void pack_codes_panel(const GemmFixedPoint& product, int64_t first, int8_t* out) {
  for (int64_t at = 0; at < product.k; at += kFixedPointStepDepth) {
    for (int64_t column = first; column < first + kFixedPointCodesPanel; column += 16) {
      for (int64_t g = 0; g < 16; ++g, out += 64) {
        const int64_t k = at + 4 * g;
        const int8_t* source = product.codes + k * product.codes_stride + column;
        if (k + 4 <= product.k && column + 16 <= product.n) {
          Tiles::code_quads(source, product.codes_stride, out);
          continue;
        }
        alignas(64) int8_t padded[64];
        for (int64_t i = 0; i < 64; ++i) {
          const bool inside = k + i / 16 < product.k && column + i % 16 < product.n;
          padded[i] = inside ? source[i / 16 * product.codes_stride + i % 16] : int8_t{0};
        }
        Tiles::code_quads(padded, 16, out);
      }
    }
  }
}

template <class Tiles>
void pack_fixed_point_shared(const GemmFixedPoint& product, const GemmFixedPointPlan& plan,
                             int64_t begin, int64_t end, int8_t* shared) {
  shared += begin * plan.shared_panel_bytes;
  while (begin < end) {
    if (product.codes != nullptr) {
      pack_codes_panel<Tiles>(product, begin * kFixedPointCodesPanel, shared);
      ++begin;
      shared += plan.shared_panel_bytes;
      continue;
    }
    const int64_t panels =
        end - begin < kMaxFixedPointTaskPanels ? end - begin : kMaxFixedPointTaskPanels;
    pack_fixed_point_panels<Tiles>(product, plan.shares_a, begin, panels, plan.shared_panel_bytes,
                                   shared);
    begin += panels;
    shared += panels * plan.shared_panel_bytes;
  }
}

// sums: three blocks of 16 x 16, of weight 2^32, 2^24, 2^16.
template <class Tiles>
void multiply_fixed_point(const int8_t* a, const int8_t* b, int64_t steps, int32_t* sums) {
  constexpr int64_t kTile = kFixedPointTileBytes;
  Tiles::template zero<0>();
  Tiles::template zero<1>();
  Tiles::template zero<2>();
  for (int64_t s = 0; s < steps; ++s) {
    Tiles::template load<6>(b, 64);  // high
    Tiles::template load<3>(a, 64);
    Tiles::template add_signed_products<0, 3, 6>();
    Tiles::template load<4>(a + kTile, 64);  // middle
    Tiles::template add_signed_products<1, 4, 6>();
    Tiles::template load<7>(b + kTile, 64);
    Tiles::template add_signed_products<1, 3, 7>();
    Tiles::template load<5>(a + 2 * kTile, 64);  // low
    Tiles::template add_signed_products<2, 5, 6>();
    Tiles::template add_signed_products<2, 4, 7>();
    Tiles::template load<6>(b + 2 * kTile, 64);
    Tiles::template add_signed_products<2, 3, 6>();
    a += kFixedPointStepBytes;
    b += kFixedPointStepBytes;
  }
  Tiles::template store<0>(sums, 64);
  Tiles::template store<1>(sums + 256, 64);
  Tiles::template store<2>(sums + 512, 64);
}

// sums: as above for the left 16 columns of codes, then for the right; of weight 2^16, 2^8, 1.
template <class Tiles>
void multiply_fixed_point_codes(const int8_t* a, const int8_t* codes, int64_t steps,
                                int32_t* sums) {
  constexpr int64_t kTile = kFixedPointTileBytes;
  Tiles::template zero<0>();
  Tiles::template zero<1>();
  Tiles::template zero<2>();
  Tiles::template zero<3>();
  Tiles::template zero<4>();
  Tiles::template zero<5>();
  for (int64_t s = 0; s < steps; ++s) {
    Tiles::template load<6>(codes, 64);
    Tiles::template load<7>(a, 64);
    Tiles::template add_signed_products<0, 7, 6>();
    Tiles::template load<7>(a + kTile, 64);
    Tiles::template add_signed_products<1, 7, 6>();
    Tiles::template load<7>(a + 2 * kTile, 64);
    Tiles::template add_signed_products<2, 7, 6>();
    Tiles::template load<6>(codes + kTile, 64);
    Tiles::template add_signed_products<5, 7, 6>();
    Tiles::template load<7>(a + kTile, 64);
    Tiles::template add_signed_products<4, 7, 6>();
    Tiles::template load<7>(a, 64);
    Tiles::template add_signed_products<3, 7, 6>();
    a += kFixedPointStepBytes;
    codes += kFixedPointCodesStepBytes;
  }
  Tiles::template store<0>(sums, 64);
  Tiles::template store<1>(sums + 256, 64);
  Tiles::template store<2>(sums + 512, 64);
  Tiles::template store<3>(sums + 768, 64);
  Tiles::template store<4>(sums + 1024, 64);
  Tiles::template store<5>(sums + 1280, 64);
}

// Fetches the lines that a block's sums are written to.
inline void prefetch_fixed_point_block(const GemmFixedPoint& product, int64_t row, int64_t column,
                                       int64_t columns) {
  const int64_t rows = product.m - row < 16 ? product.m - row : 16;
  const float* out = product.out + row * product.ldo + column;
  for (int64_t r = 0; r < rows; ++r, out += product.ldo) {
    for (int64_t c = 0; c < columns; c += 16) __builtin_prefetch(out + c, 1, 3);
    __builtin_prefetch(out + columns - 1, 1, 3);
  }
}

// Rows and columns of the 16 x 16 block at (row, column) that exist. column_units: of 16 columns.
inline void write_fixed_point_block(const GemmFixedPoint& product, int64_t row, int64_t column,
                                    const int32_t* sums, const float* row_units,
                                    const float* column_units) {
  const int64_t rows = product.m - row < 16 ? product.m - row : 16;
  const int64_t columns = product.n - column < 16 ? product.n - column : 16;
  for (int64_t r = 0; r < rows; ++r, sums += 16) {
    alignas(64) float values[16];
    const float unit = row_units[r];
    for (int c = 0; c < 16; ++c) {
      const float low = __builtin_fmaf(static_cast<float>(sums[256 + c]), 256.0f,
                                       static_cast<float>(sums[512 + c]));
      const float sum = __builtin_fmaf(static_cast<float>(sums[c]), 65536.0f, low);
      values[c] = sum * unit * column_units[c];
    }
    float* out = product.out + (row + r) * product.ldo + column;
    if (columns == 16 && product.accumulate) {
      for (int c = 0; c < 16; ++c) out[c] += values[c];
    } else if (columns == 16) {
      for (int c = 0; c < 16; ++c) out[c] = values[c];
    } else {
      for (int64_t c = 0; c < columns; ++c) {
        out[c] = product.accumulate ? out[c] + values[c] : values[c];
      }
    }
  }
}

// Bytes of the memory that run_fixed_point_task needs for its own panels.
inline int64_t task_panel_bytes(const GemmFixedPointPlan& plan) {
  return plan.task_panels * plan.own_panel_bytes;
}

// Own panels (16 rows of a) by all panels of codes.
template <class Tiles>
void multiply_task_by_codes(const GemmFixedPoint& product, const GemmFixedPointPlan& plan,
                            const int8_t* shared, int64_t first, int64_t count, const int8_t* own) {
  const int64_t steps = plan.shared_panel_bytes / kFixedPointCodesStepBytes;
  alignas(64) int32_t sums[6 * 256];
  float ones[16];
  for (float& one : ones) one = 1.0f;
  for (int64_t p = 0; p < count; ++p, own += plan.own_panel_bytes) {
    const float* units = reinterpret_cast<const float*>(own);
    const int64_t row = (first + p) * kFixedPointPanel;
    for (int64_t q = 0; q < plan.shared_panels; ++q) {
      const int64_t column = q * kFixedPointCodesPanel;
      const bool has_right = product.n - column > 16;
      prefetch_fixed_point_block(
          product, row, column,
          product.n - column < kFixedPointCodesPanel ? product.n - column : kFixedPointCodesPanel);
      multiply_fixed_point_codes<Tiles>(own + kFixedPointUnitsBytes,
                                        shared + q * plan.shared_panel_bytes, steps, sums);
      write_fixed_point_block(product, row, column, sums, units, ones);
      if (has_right) write_fixed_point_block(product, row, column + 16, sums + 768, units, ones);
    }
  }
}

// Own panels of either operand by all shared ones of the other.
template <class Tiles>
void multiply_task_by_floats(const GemmFixedPoint& product, const GemmFixedPointPlan& plan,
                             const int8_t* shared, int64_t first, int64_t count,
                             const int8_t* own) {
  const int64_t steps = (plan.own_panel_bytes - kFixedPointUnitsBytes) / kFixedPointStepBytes;
  alignas(64) int32_t sums[3 * 256];
  alignas(64) float column_units[16];
  for (int64_t q = 0; q < plan.shared_panels; ++q) {
    const int8_t* others = shared + q * plan.shared_panel_bytes;
    // While one shared panel is used, the next is fetched into the L2 cache, piece by piece.
    const char* next = reinterpret_cast<const char*>(others + plan.shared_panel_bytes);
    const int64_t fetched =
        q + 1 == plan.shared_panels ? 0 : (plan.shared_panel_bytes / count + 63) / 64 * 64;
    for (int64_t p = 0; p < count; ++p) {
      for (const char* end = next + fetched; next < end; next += 64) {
        __builtin_prefetch(next, 0, 2);
      }
      const int8_t* mine = own + p * plan.own_panel_bytes;
      const int8_t* a = plan.shares_a ? others : mine;
      const int8_t* b = plan.shares_a ? mine : others;
      const int64_t row = (plan.shares_a ? q : first + p) * kFixedPointPanel;
      const int64_t column = (plan.shares_a ? first + p : q) * kFixedPointPanel;
      const int64_t columns = product.n - column < 16 ? product.n - column : 16;
      prefetch_fixed_point_block(product, row, column, columns);
      multiply_fixed_point<Tiles>(a + kFixedPointUnitsBytes, b + kFixedPointUnitsBytes, steps,
                                  sums);
      const float* units = reinterpret_cast<const float*>(b);
      for (int c = 0; c < 16; ++c) column_units[c] = units[c] * 65536.0f;
      write_fixed_point_block(product, row, column, sums, reinterpret_cast<const float*>(a),
                              column_units);
    }
  }
}

// One task: own panels [first, first + plan.task_panels) against all shared ones.
template <class Tiles>
void run_fixed_point_task(const GemmFixedPoint& product, const GemmFixedPointPlan& plan,
                          const int8_t* shared, int64_t task, int8_t* own) {
  const int64_t vectors = plan.shares_a ? product.n : product.m;
  const int64_t all = (vectors + kFixedPointPanel - 1) / kFixedPointPanel;
  const int64_t first = task * plan.task_panels;
  const int64_t count = all - first < plan.task_panels ? all - first : plan.task_panels;
  pack_fixed_point_panels<Tiles>(product, !plan.shares_a, first, count, plan.own_panel_bytes, own);
  if (product.codes != nullptr) {
    multiply_task_by_codes<Tiles>(product, plan, shared, first, count, own);
  } else {
    multiply_task_by_floats<Tiles>(product, plan, shared, first, count, own);
  }
}

}  // namespace
}  // namespace quest::kernels::detail
