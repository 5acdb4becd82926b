// gemm_bf16 with AMX tiles: packing, loops, epilogue. Order of tiles: gemm_bf16_levels.h.
//
// Tiles is the instruction set: x86/gemm_bf16_amx.cpp gives the real one, the test an emulation, so
// that everything but a few instructions is tested on any CPU. Tiles has begin, end, zero, load,
// store (see amx_tiles.h), add_bf16_products<c, a, b>, and for packing
//   transpose(source, stride, tile)          16 x 16 words of 32 bits; stride in bytes
//   interleave(source, stride, first, second) pairs of 32 rows x 32 values -> two tiles
//   split_line(x, line)                       32 FP32 values -> a row of a's tile in three pieces,
//                                            kStepElements apart (attention in FP32)
//   split_pairs(x, stride, line)              rows x and x + stride of 16 FP32 values -> a row of
//                                            b's tile in three pieces
//   round_row(sums, out)                      32 floats -> bfloat16
// Internal linkage and no library functions: see gemm_lowbit_driver.h.
//
// Blocking: a task holds its panels of the larger operand in the L2 cache; the shared panels pass
// by one after the other. A block's sums stay in tiles over all of K: taking K in parts, so that
// one of the panels' parts stays in the L1 cache, costs more in loads and stores of sums than it
// gains.
#pragma once

#include <cstdint>

#include "quest/kernels/gemm_bf16_levels.h"
#include "quest/kernels/x86/gemm_lowbit_driver.h"

namespace quest::kernels::detail {
namespace {

inline constexpr int64_t kTileElements = kStepElements / 2;    // bfloat16 values
inline constexpr int64_t kStepLines = kStepElements * 2 / 64;  // cache lines of a step
// Bfloat16 values that one value is multiplied as.
template <class T>
inline constexpr int kPiecesOf = sizeof(T) == sizeof(float) ? 3 : 1;

// The rows x depth block at `source` (zero past its ends) as a full 32 x 32 block of values.
template <class T>
void copy_padded(const T* source, int64_t stride, int64_t rows, int64_t columns, T* block) {
  for (int64_t r = 0; r < 32; ++r) {
    for (int64_t c = 0; c < 32; ++c) {
      block[32 * r + c] = r < rows && c < columns ? source[r * stride + c] : T();
    }
  }
}

// One step of a panel whose vectors (rows of a, columns of b) are contiguous along K: 32 vectors.
// kRowTiles: tiles of a, else tiles of b.
template <class Tiles, bool kRowTiles>
void pack_step_along(const bfloat16* source, int64_t stride, bfloat16* tiles) {
  for (int t = 0; t < 2; ++t, source += 16 * stride, tiles += kTileElements) {
    if constexpr (kRowTiles) {
      for (int r = 0; r < 16; ++r) {
        __builtin_memcpy(tiles + 32 * r, source + r * stride, 64);
      }
    } else {
      Tiles::transpose(source, 2 * stride, tiles);
    }
  }
}

// One step of a panel whose vectors lie across: row i of the 32 rows at `source` holds value i of
// 32 vectors.
template <class Tiles, bool kRowTiles>
void pack_step_across(const bfloat16* source, int64_t stride, bfloat16* tiles) {
  if constexpr (kRowTiles) {
    alignas(64) bfloat16 pairs[2 * kTileElements];
    Tiles::interleave(source, 2 * stride, pairs, pairs + kTileElements);
    Tiles::transpose(pairs, 64, tiles);
    Tiles::transpose(pairs + kTileElements, 64, tiles + kTileElements);
  } else {
    Tiles::interleave(source, 2 * stride, tiles, tiles + kTileElements);
  }
}

// Rows of a or columns of b: `count` vectors of k values. vector_stride: from one vector to the
// next, k_stride: along K; one of them is 1.
template <class T>
struct Vectors {
  const T* data;
  int64_t vector_stride, k_stride;
  int64_t count, k;
};

// Where values from `at` on along K of vectors from `first` on begin; null past the ends.
template <class T>
const T* values_at(const Vectors<T>& x, int64_t first, int64_t at) {
  if (first >= x.count || at >= x.k) return nullptr;
  return x.data + first * x.vector_stride + at * x.k_stride;
}

// One step of a panel: values [at, at + 32) along K of vectors [first, first + 32). Values come
// from far and the processor does not foresee them: those of another step at `next`, or null, are
// fetched.
template <class Tiles, bool kRowTiles>
void pack_step(const Vectors<bfloat16>& x, int64_t first, int64_t at, const bfloat16* next,
               bfloat16* out) {
  const int64_t vectors = x.count - first < 32 ? x.count - first : 32;
  const int64_t depth = x.k - at < 32 ? x.k - at : 32;
  const bool full = vectors == 32 && depth == 32;
  const bfloat16* source = x.data + first * x.vector_stride + at * x.k_stride;
  alignas(64) bfloat16 block[32 * 32];
  if (x.k_stride == 1) {
    if (!full) copy_padded(source, x.vector_stride, vectors, depth, block);
    pack_step_along<Tiles, kRowTiles>(full ? source : block, full ? x.vector_stride : 32, out);
  } else {
    if (next != nullptr) {
      for (int64_t row = 0; row < depth; ++row) {
        __builtin_prefetch(next + row * x.k_stride, 0, 2);
        __builtin_prefetch(next + row * x.k_stride + 31, 0, 2);
      }
    }
    if (!full) copy_padded(source, x.k_stride, depth, vectors, block);
    pack_step_across<Tiles, kRowTiles>(full ? source : block, full ? x.k_stride : 32, out);
  }
}

// A full block of FP32 values, 32 rows x 32: rows are vectors (along), else steps along K.
template <class Tiles, bool kRowTiles>
void split_step_along(const float* source, int64_t stride, bfloat16* out) {
  if constexpr (kRowTiles) {
    for (int64_t r = 0; r < 32; ++r) Tiles::split_line(source + r * stride, out + 32 * r);
  } else {
    alignas(64) float words[16 * 16];
    for (int64_t t = 0; t < 2; ++t) {
      for (int64_t k = 0; k < 32; k += 16) {
        Tiles::transpose(source + 16 * t * stride + k, 4 * stride, words);
        for (int64_t i = 0; i < 16; i += 2) {
          Tiles::split_pairs(words + 16 * i, 16, out + t * kTileElements + 16 * (k + i));
        }
      }
    }
  }
}
template <class Tiles, bool kRowTiles>
void split_step_across(const float* source, int64_t stride, bfloat16* out) {
  alignas(64) bfloat16 pairs[kRowTiles ? kPiecesOf<float> * kStepElements : 1];
  bfloat16* const lines = kRowTiles ? pairs : out;
  for (int64_t k = 0; k < 32; k += 2) {
    for (int64_t t = 0; t < 2; ++t) {
      Tiles::split_pairs(source + k * stride + 16 * t, stride, lines + t * kTileElements + 16 * k);
    }
  }
  if constexpr (kRowTiles) {
    for (int64_t at = 0; at < kPiecesOf<float> * kStepElements; at += kTileElements) {
      Tiles::transpose(pairs + at, 64, out + at);
    }
  }
}

// pack_step of FP32 values.
template <class Tiles, bool kRowTiles>
void pack_step(const Vectors<float>& x, int64_t first, int64_t at, const float* next,
               bfloat16* out) {
  const int64_t vectors = x.count - first < 32 ? x.count - first : 32;
  const int64_t depth = x.k - at < 32 ? x.k - at : 32;
  const bool along = x.k_stride == 1;
  const int64_t rows = along ? vectors : depth, columns = along ? depth : vectors;
  int64_t stride = along ? x.vector_stride : x.k_stride;
  if (next != nullptr) {
    for (int64_t r = 0; r < rows; ++r) {
      __builtin_prefetch(next + r * stride, 0, 3);
      __builtin_prefetch(next + r * stride + 31, 0, 3);
    }
  }
  const float* source = x.data + first * x.vector_stride + at * x.k_stride;
  alignas(64) float block[32 * 32];
  if (rows < 32 || columns < 32) {
    copy_padded(source, stride, rows, columns, block);
    source = block;
    stride = 32;
  }
  if (along) {
    split_step_along<Tiles, kRowTiles>(source, stride, out);
  } else {
    split_step_across<Tiles, kRowTiles>(source, stride, out);
  }
}

// Panels of vectors [first, first + 32 * panels), each of panel_elements values, all of K. Where
// the vectors lie across, all panels take a step before the next, so that rows of memory are read
// on.
template <class Tiles, bool kRowTiles, class T>
void pack_panels(const Vectors<T>& x, int64_t first, int64_t panels, int64_t panel_elements,
                 bfloat16* out) {
  constexpr int64_t kStep = kPiecesOf<T> * kStepElements;
  constexpr int64_t kPanelsAhead = 2;
  const int64_t end = first + panels * kBf16Panel;
  if (x.k_stride == 1) {
    for (int64_t v = first; v < end; v += kBf16Panel, out += panel_elements) {
      bfloat16* step = out;
      for (int64_t at = 0; at < x.k; at += kBf16StepDepth, step += kStep) {
        const int64_t next = at + kBf16StepDepth;
        pack_step<Tiles, kRowTiles>(
            x, v, at, next < x.k ? values_at(x, v, next) : values_at(x, v + kBf16Panel, 0), step);
      }
    }
    return;
  }
  for (int64_t at = 0; at < x.k; at += kBf16StepDepth, out += kStep) {
    bfloat16* panel = out;
    for (int64_t v = first; v < end; v += kBf16Panel, panel += panel_elements) {
      const int64_t next = v + kPanelsAhead * kBf16Panel;
      pack_step<Tiles, kRowTiles>(
          x, v, at,
          next < end ? values_at(x, next, at)
                     : values_at(x, first + (next - end) % (end - first), at + kBf16StepDepth),
          panel);
    }
  }
}

// One panel, of vectors [first, first + 32) of `count`.
template <class Tiles, bool kRowTiles, class T>
void pack_panel(const T* data, int64_t vector_stride, int64_t k_stride, int64_t first,
                int64_t count, int64_t k, bfloat16* panel) {
  pack_panels<Tiles, kRowTiles>(Vectors<T>{data, vector_stride, k_stride, count, k}, first, 1, 0,
                                panel);
}

template <class Tiles>
void pack_panels_of(const GemmBf16& product, bool of_a, int64_t first_panel, int64_t panels,
                    int64_t panel_elements, bfloat16* out) {
  const int64_t first = first_panel * kBf16Panel;
  if (of_a) {
    const GemmOperand& a = product.a;
    pack_panels<Tiles, true>(
        Vectors<bfloat16>{a.data, a.row_stride, a.column_stride, product.m, product.k}, first,
        panels, panel_elements, out);
  } else {
    const GemmOperand& b = product.b;
    pack_panels<Tiles, false>(
        Vectors<bfloat16>{b.data, b.column_stride, b.row_stride, product.n, product.k}, first,
        panels, panel_elements, out);
  }
}

// Memory that will be needed next, fetched into the L2 cache bit by bit during products: the L3
// cache is far away, and tile loads alone do not keep enough lines under way.
class Prefetch {
 public:
  // From `memory` on, `lines_per_step` cache lines of 64 bytes at each step.
  Prefetch(const void* memory, int64_t lines_per_step)
      : next_(static_cast<const char*>(memory)), lines_per_step_(lines_per_step) {}

  void step() {
    for (int64_t i = 0; i < lines_per_step_; ++i, next_ += 64) __builtin_prefetch(next_, 0, 2);
  }

 private:
  const char* next_;
  int64_t lines_per_step_;
};

// One piece of a step of a, times the tiles 6 and 7 of b.
template <class Tiles>
void multiply_a(const bfloat16* step, int piece) {
  const bfloat16* a = step + piece * kStepElements;
  Tiles::template load<4>(a, 64);
  Tiles::template add_bf16_products<0, 4, 6>();
  Tiles::template add_bf16_products<1, 4, 7>();
  Tiles::template load<5>(a + kTileElements, 64);
  Tiles::template add_bf16_products<2, 5, 6>();
  Tiles::template add_bf16_products<3, 5, 7>();
}
// One piece of a step of b, times the tiles 4 and 5 of a.
template <class Tiles>
void multiply_b(const bfloat16* step, int piece) {
  const bfloat16* b = step + piece * kStepElements;
  Tiles::template load<6>(b, 64);
  Tiles::template add_bf16_products<0, 4, 6>();
  Tiles::template add_bf16_products<2, 5, 6>();
  Tiles::template load<7>(b + kTileElements, 64);
  Tiles::template add_bf16_products<1, 4, 7>();
  Tiles::template add_bf16_products<3, 5, 7>();
}

// One step; of three pieces, each product but the first loads the pieces of one operand only.
template <class Tiles, int kPieces>
void multiply_step(const bfloat16* a, const bfloat16* b) {
  constexpr int kHigh = 0, kMiddle = 1, kLow = 2;
  Tiles::template load<6>(b, 64);
  Tiles::template load<7>(b + kTileElements, 64);
  if constexpr (kPieces == 3) {
    multiply_a<Tiles>(a, kLow);
    multiply_a<Tiles>(a, kMiddle);
    multiply_b<Tiles>(b, kMiddle);  // by the middle of a
    multiply_a<Tiles>(a, kHigh);    // by the middle of b
    multiply_b<Tiles>(b, kLow);
    multiply_b<Tiles>(b, kHigh);
  } else {
    multiply_a<Tiles>(a, kHigh);
  }
}

// sums (32 x 32, `stride` floats from row to row): += or = the product of `steps` steps of a panel
// of a and one of b. between_steps() is called after each.
template <class Tiles, int kPieces = 1, class F>
void multiply_panels(const bfloat16* a, const bfloat16* b, int64_t steps, bool add, float* sums,
                     int64_t stride, const F& between_steps) {
  const int64_t row = stride * static_cast<int64_t>(sizeof(float));
  float* const lower = sums + 16 * stride;
  if (add) {
    Tiles::template load<0>(sums, row);
    Tiles::template load<1>(sums + 16, row);
    Tiles::template load<2>(lower, row);
    Tiles::template load<3>(lower + 16, row);
  } else {
    Tiles::template zero<0>();
    Tiles::template zero<1>();
    Tiles::template zero<2>();
    Tiles::template zero<3>();
  }
  for (int64_t s = 0; s < steps; ++s) {
    multiply_step<Tiles, kPieces>(a, b);
    a += kPieces * kStepElements;
    b += kPieces * kStepElements;
    between_steps();
  }
  Tiles::template store<0>(sums, row);
  Tiles::template store<1>(sums + 16, row);
  Tiles::template store<2>(lower, row);
  Tiles::template store<3>(lower + 16, row);
}

// Fetches the lines that write_block will write.
inline void prefetch_block(const GemmBf16& product, int64_t row, int64_t column) {
  const int64_t size = product.out_is_bfloat16 ? 2 : 4;
  const int64_t rows = product.m - row < 32 ? product.m - row : 32;
  const char* out = static_cast<const char*>(product.out) + (row * product.ldo + column) * size;
  for (int64_t r = 0; r < rows; ++r, out += product.ldo * size) {
    __builtin_prefetch(out, 1, 3);
    __builtin_prefetch(out + 63, 1, 3);
    if (size == 4) __builtin_prefetch(out + 127, 1, 3);
  }
}

inline void write_row(const GemmBf16& product, int64_t at, int64_t columns, const float* sums) {
  if (product.out_is_bfloat16) {
    uint16_t* out = static_cast<uint16_t*>(product.out) + at;
    for (int64_t c = 0; c < columns; ++c) out[c] = to_bfloat16_bits(sums[c]);
  } else if (product.accumulate) {
    float* out = static_cast<float*>(product.out) + at;
    for (int64_t c = 0; c < columns; ++c) out[c] += sums[c];
  } else {
    float* out = static_cast<float*>(product.out) + at;
    for (int64_t c = 0; c < columns; ++c) out[c] = sums[c];
  }
}

template <class Tiles>
void write_block(const GemmBf16& product, int64_t row, int64_t column, const float* sums) {
  const int64_t rows = product.m - row < 32 ? product.m - row : 32;
  const int64_t columns = product.n - column < 32 ? product.n - column : 32;
  for (int64_t r = 0; r < rows; ++r, sums += 32) {
    const int64_t at = (row + r) * product.ldo + column;
    if (columns < 32) {
      write_row(product, at, columns, sums);
    } else if (product.out_is_bfloat16) {
      Tiles::round_row(sums, static_cast<bfloat16*>(product.out) + at);
    } else {
      write_row(product, at, 32, sums);
    }
  }
}

// Bfloat16 values of the memory that run_task needs for its own panels.
inline int64_t task_panel_elements(const GemmBf16Plan& plan) {
  return plan.task_panels * plan.panel_elements;
}

// One block of out: a full one of FP32 is the tiles' own memory.
template <class Tiles, class F>
void run_block(const GemmBf16& product, int64_t row, int64_t column, const bfloat16* a,
               const bfloat16* b, int64_t steps, const F& between_steps) {
  prefetch_block(product, row, column);
  const bool full = product.m - row >= 32 && product.n - column >= 32;
  if (full && !product.out_is_bfloat16) {
    float* out = static_cast<float*>(product.out) + row * product.ldo + column;
    multiply_panels<Tiles>(a, b, steps, product.accumulate, out, product.ldo, between_steps);
  } else {
    alignas(64) float sums[32 * 32];
    multiply_panels<Tiles>(a, b, steps, false, sums, 32, between_steps);
    write_block<Tiles>(product, row, column, sums);
  }
}

// One task: panels [first, first + plan.task_panels) of the larger operand against all shared ones.
template <class Tiles, bool kSharesA>
void run_task_of(const GemmBf16& product, const GemmBf16Plan& plan, const bfloat16* shared,
                 int64_t task, bfloat16* own) {
  const int64_t streamed = kSharesA ? product.n : product.m;
  const int64_t first = task * plan.task_panels;
  const int64_t all = (streamed + kBf16Panel - 1) / kBf16Panel;
  const int64_t count = all - first < plan.task_panels ? all - first : plan.task_panels;
  pack_panels_of<Tiles>(product, !kSharesA, first, count, plan.panel_elements, own);
  const int64_t steps = plan.panel_elements / kStepElements;
  for (int64_t q = 0; q < plan.shared_panels; ++q) {
    const bfloat16* others = shared + q * plan.panel_elements;
    // While one shared panel is used, the next is fetched.
    Prefetch prefetch(others + plan.panel_elements,
                      q + 1 == plan.shared_panels ? 0 : kStepLines / count);
    for (int64_t p = 0; p < count; ++p) {
      const bfloat16* mine = own + p * plan.panel_elements;
      const int64_t at_shared = q * kBf16Panel, at_own = (first + p) * kBf16Panel;
      run_block<Tiles>(product, kSharesA ? at_shared : at_own, kSharesA ? at_own : at_shared,
                       kSharesA ? others : mine, kSharesA ? mine : others, steps,
                       [&] { prefetch.step(); });
    }
  }
}

template <class Tiles>
void run_task(const GemmBf16& product, const GemmBf16Plan& plan, const bfloat16* shared,
              int64_t task, bfloat16* own) {
  if (plan.shares_a) {
    run_task_of<Tiles, true>(product, plan, shared, task, own);
  } else {
    run_task_of<Tiles, false>(product, plan, shared, task, own);
  }
}

template <class Tiles>
void pack_shared(const GemmBf16& product, const GemmBf16Plan& plan, int64_t begin, int64_t end,
                 bfloat16* shared) {
  pack_panels_of<Tiles>(product, plan.shares_a, begin, end - begin, plan.panel_elements,
                        shared + begin * plan.panel_elements);
}

}  // namespace
}  // namespace quest::kernels::detail
