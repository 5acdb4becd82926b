// Operands of FP8 backward products. With x = s_x[m] c_x[m][k] and w = s_w[n] c_w[n][k], whose
// codes are small integers that e4m3 holds exactly, the products of the backward pass are
//
//   dx[m][k] = sum_n (dy[m][n] s_w[n]) c_w[n][k]      rows of dy s_w in FP8, one scale each
//   dw[n][k] = sum_m (dy[m][n] s_x[m]) c_x[m][k]      columns of dy s_x in FP8, one scale each
//
// so the gradient alone is rounded, to e4m3 or e5m2. FP8 tensor cores read both operands along the
// sum: codes and the second form of the gradient are turned over. A scale is the largest magnitude
// over the format's largest value (448, 57344), or 1 for zeros and values below 4e-35. The gradient
// is not rotated by a Hadamard transform first: along the sum the codes would have to be too, and
// would no longer be exact.
//
// Pointers are device memory, 16-byte aligned, dense row-major. Asynchronous in `stream`.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/kernels/cuda/stream.h"

namespace quest::kernels::cuda {

// Largest code magnitude that is exact beside all smaller integers.
inline constexpr int kMaxFp8Code = 16;
// Sizes that the operations take: multiples of 16.
bool fp8_gradient_supports(int64_t m, int64_t n);

enum class Fp8Format { kE4m3, kE5m2 };

struct Fp8Rounding {
  Fp8Format format = Fp8Format::kE4m3;
  // Null: to nearest even. Else values are rounded to one of their two neighbours with the
  // probability that keeps the mean, by a hash of place, *counter (device memory) and layer.
  const int32_t* counter = nullptr;
  uint32_t layer = 0;
};

// dy (M,N), s_w (N), s_x (M) -> of dy s_w: rows (M,N) bytes, row_scales (M); of dy s_x: turned
// (N,M) bytes, column_scales (N). workspace: M + N unsigned ints.
void fp8_gradient(const bfloat16* dy, const float* s_w, const float* s_x, int64_t m, int64_t n,
                  const Fp8Rounding& rounding, uint8_t* rows, float* row_scales, uint8_t* turned,
                  float* column_scales, uint32_t* workspace, Stream stream);

// codes (M,K) int8, magnitudes up to kMaxFp8Code -> turned (K,M) e4m3 bytes. M, K multiples of 16.
void fp8_turn_codes(const int8_t* codes, int64_t m, int64_t k, uint8_t* turned, Stream stream);

}  // namespace quest::kernels::cuda
