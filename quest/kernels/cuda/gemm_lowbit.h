// Exact product of integer codes on a GPU's int8 tensor cores, scales in the epilogue.
//
//   acc[m][n] = sum_k a[m][k] * w[n][k]                            exact in int32
//   out[m][n] = T(float(acc[m][n]) * (a_units[m] * w_units[n]))    T: float or bfloat16
//
// The bits of kernels/gemm_lowbit.h for formats whose numbers are their codes (CodeFormat
// multiplier 1, offset 0: all integer grids but 8-bit uniform). Source of the tile program:
// CUTLASS.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/kernels/cuda/stream.h"

namespace quest::kernels::cuda {

// Whether the shapes fit the tensor cores' loads: K a multiple of 16, N of 8; and the GPU has
// compute capability 9.0 and runs this build's code for it (90a).
bool gemm_lowbit_supports(int64_t n, int64_t k);

// Outputs that a block of threads computes at a time: 64 x 128, 128 x 128 or 128 x 256, or what is
// fastest for the shape. All give the same bits.
enum class GemmTile { kFastest, kSmall, kMedium, kLarge };

// What kFastest stands for.
GemmTile fastest_tile(int64_t m, int64_t n, int64_t k);

// a (M,K), w (N,K) int8; a_units (M), w_units (N) f32; out (M,N). Device memory, 16-byte aligned.
// Only where gemm_lowbit_supports() and k * max|a| * max|w| < 2^31.
template <class T>
void gemm_lowbit(const int8_t* a, const float* a_units, const int8_t* w, const float* w_units,
                 int64_t m, int64_t n, int64_t k, T* out, Stream stream,
                 GemmTile tile = GemmTile::kFastest);

// "int8 tensor cores, wgmma 128x256x128, 128x128x128 or 64x128x128"
const char* gemm_lowbit_plan();

}  // namespace quest::kernels::cuda
