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
// would no longer be exact. That is fp8_gradient and fp8_turn_codes.
//
// Rotated products are the choice beside it: with the block Hadamard transform H
// (quest/quant/hadamard.h) along n, and along m,
//
//   dx = ((dy s_w) H) (H c_w)      dw = ((dy s_x)^T H) (H c_x)
//
// which is the same product, since H is symmetric and its own inverse. Both sides are rounded, the
// rotated codes to e4m3, with a scale for each row of the gradient's side and for each column of
// the codes' (fp8_hadamard_rows, on each of the four). FP8 is off by a fraction of each value, so
// large values do not drown small ones as on an integer grid; a rotation makes the error of a few
// large values, 0 to 1/16, an average one, and adds that of the codes. For e4m3 and Gaussian
// gradients a product is off by 3.7 % of its norm instead of 2.6 %; where 17 values, the worst to
// round, are all of a row, by 3.4 % instead of 5.4 %; where one value is, by 3 % instead of nearly
// nothing.
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
  uint32_t layer = 0;  // and each of several tensors of a layer another one
};

// dy (M,N), s_w (N), s_x (M) -> of dy s_w: rows (M,N) bytes, row_scales (M); of dy s_x: turned
// (N,M) bytes, column_scales (N). workspace: M + N unsigned ints.
void fp8_gradient(const bfloat16* dy, const float* s_w, const float* s_x, int64_t m, int64_t n,
                  const Fp8Rounding& rounding, uint8_t* rows, float* row_scales, uint8_t* turned,
                  float* column_scales, uint32_t* workspace, Stream stream);

// codes (M,K) int8, magnitudes up to kMaxFp8Code -> turned (K,M) e4m3 bytes. M, K multiples of 16.
void fp8_turn_codes(const int8_t* codes, int64_t m, int64_t k, uint8_t* turned, Stream stream);

// x (rows, length), T bfloat16 or uint8_t (e4m3 as fp8_turn_codes gives it), times factor (length;
// null: 1) along each row, rotated along each row and rounded: out (rows, length) bytes of the
// rounding's format, scales (rows). Transform and scales in FP32. length a multiple of 16 (else
// kUsage): blocks of 128, or the largest power of two that divides it. In place allowed.
template <class T>
void fp8_hadamard_rows(const T* x, const float* factor, int64_t rows, int64_t length,
                       const Fp8Rounding& rounding, uint8_t* out, float* scales, Stream stream);

}  // namespace quest::kernels::cuda
