// Products of quantized activations with packed weights on a GPU, for deployment: few rows, bound
// by the bandwidth of the packed weights.
//
//   acc[m][n] = sum_k number(a[m][k]) * number(w[n][k])            exact in int32
//   out[m][n] = T(float(acc[m][n]) * (a_units[m] * w_units[n]))    T: float or bfloat16
//
// The bits of kernels/packed_gemm.h; a row's result does not depend on M. Weights are in lane order
// (kernels/lane_order.h) and are read once for up to kMaxPackedRows rows.
//
// How: a warp loads 16 rows x 256 columns, in registers before the kernel waits for the one that
// writes the activations, and multiplies them by mma.sync as they are: a field of the stored bytes,
// masked but not shifted, is 2^e times its value, so each e has sums of its own that are divided
// (exactly) at the end. From 17 rows on values are unpacked instead. W1A1: products of bits and
// population counts, mma.m16n8k256. FP4: numbers looked up by byte permutation. K is split over the
// warps of a block, whose sums are added in shared memory.
//
//   if (packed_gemm_supports(w.spec, activation, w.k)) {
//     packed_gemm<float>(w, activation, codes, units, m, out, stream);
//   }
//
// Asynchronous in `stream`, overlapping its predecessor (dependent_launch.cuh), no allocations. A
// weight is read without waiting for the kernels before: it must be complete when they start.
// Errors: kUsage for M above kMaxPackedRows and for products that packed_gemm_supports() refuses.
#pragma once

#include <cstdint>
#include <string>

#include "quest/base/bfloat16.h"
#include "quest/kernels/cuda/stream.h"
#include "quest/quant/quant_spec.h"

namespace quest::kernels::cuda {

inline constexpr int64_t kMaxPackedRows = 64;

// A packed weight (N,K) in device memory, lanes and pairs aligned to 16 bytes.
struct DeviceWeight {
  QuantSpec spec;
  int64_t n = 0, k = 0;
  const void* lanes = nullptr;           // lane order; of the 4:8 grids: the kept values (N, K/2)
  const void* pairs = nullptr;           // 4:8: the pairs (N, K/8) in lane order
  const float* units = nullptr;          // (N)
  const int32_t* number_sums = nullptr;  // (N): of number_sums(), where needs_number_sums()
};

// Whether packed_gemm has code for it: both sides integer grids, the weight not 4:8, and K small
// enough for exact sums. Others: unpack_numbers() or unpack_values() and a product of those.
bool packed_gemm_supports(const QuantSpec& weight, const QuantSpec& activation, int64_t k);
// Whether the product needs sum_k number(w[n][k]): activations whose numbers are not their codes (8
// bits), and W1A1.
bool needs_number_sums(const QuantSpec& weight, const QuantSpec& activation);
// sums (N). Once, when a weight is loaded. Any grid of integers but 4:8.
void number_sums(const DeviceWeight& weight, int32_t* sums, Stream stream);
// "lane order, mma u8 x s8, 2 bits in place", "lane order, mma of bits, population count", ...
std::string packed_gemm_plan(const QuantSpec& weight, const QuantSpec& activation, int64_t m);

// codes (M,K) int8 as hadamard_quantize writes them, a_units (M), out (M,N), acc (M,N) or null.
// Device memory; codes aligned to 16 bytes.
template <class T>
void packed_gemm(const DeviceWeight& weight, const QuantSpec& activation, const int8_t* codes,
                 const float* a_units, int64_t m, T* out, Stream stream, int32_t* acc = nullptr);

// Whether a grid's numbers fit int8: all integer grids but 8-bit uniform.
bool unpack_numbers_supports(const QuantSpec& weight);
// numbers (N,K) int8 row-major, 16-byte aligned: what gemm_lowbit.h multiplies.
void unpack_numbers(const DeviceWeight& weight, int8_t* numbers, Stream stream);
// values (N,K) = T(units[n] * number), any grid with codes, 16-byte aligned.
template <class T>
void unpack_values(const DeviceWeight& weight, T* values, Stream stream);

}  // namespace quest::kernels::cuda
