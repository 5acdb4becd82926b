// One linear layer of a decode step of one sequence in one kernel: quantizer of the input row,
// product with packed weights, and for gate and up also SwiGLU and most of the Hadamard transform
// of what comes out.
//
//   decode_linear(w, spec, NormedRow{x, norm, eps}, out, stream);
//       out (N) = quantized(rms_norm(x)) w^T
//   decode_linear(w, spec, GivenRow{x}, {out, residual}, stream);   of the row x (K) itself,
//                                                                   and out += residual
//   decode_linear(w, spec, SignRow{signs, chunks}, out, stream);    of a row whose signs the kernel
//                                                                   before has left
//   row = decode_gate_up(w, spec, NormedRow{...}, next, memory, stream);
//       silu(gate) * up, rotated for the quantizer `next` as far as a block has the values
//   decode_linear(w, next, row, out, stream);
//
// The bits of deploy.h's quantizers and packed_gemm.h's products called one after the other, which
// are the CPU's. What a step of one row waits for is the kernels between the products, and each
// kernel's start behind the one before it: here every block quantizes the row for itself, while its
// weights stream into shared memory, from before the previous kernel's end (dependent_launch.cuh),
// and multiplies it by bits (plane_product.cuh).
// Of two rows on, kernels of their own are faster.
//
// Device memory, FP32, 16-byte aligned. Asynchronous in `stream`, no allocations. Weights, their
// units and the norm's are read without waiting for the kernels before.
// Errors: kUsage for what the functions below refuse.
#pragma once

#include <cstdint>
#include <utility>

#include "quest/kernels/cuda/packed_gemm.h"
#include "quest/kernels/cuda/stream.h"
#include "quest/quant/quant_spec.h"

namespace quest::kernels::cuda::deploy {

// RMSNorm (weight (K)) of x (K).
struct NormedRow {
  const float* x = nullptr;
  const float* weight = nullptr;
  float eps = 0;
};
struct GivenRow {
  const float* x = nullptr;
};
// Of a row that the kernel before has rotated the signs, which are all that two levels need
// (AttendOut of attention_decode.h): (K + 31) / 32 words, and for the unit the sums of squares of
// every 128 values, (K + 127) / 128. Only where decode_takes_signs().
struct SignRow {
  const uint32_t* signs = nullptr;
  const float* chunks = nullptr;
};
// What decode_gate_up leaves: a SignRow if there are signs, else values without the transform's
// stride of 64 and its norm.
struct SwigluRow {
  const float* values = nullptr;
  const uint32_t* signs = nullptr;
  const float* chunks = nullptr;
};
// Where it is to be: values (F), or signs and chunks of a row of F, if the product behind it takes
// them.
struct SwigluMemory {
  float* values = nullptr;
  uint32_t* signs = nullptr;
  float* chunks = nullptr;
};

// Where the results (N) go.
struct DecodeOut {
  float* out = nullptr;
  const float* residual = nullptr;  // null, or added to them; may be out
  int32_t* acc = nullptr;           // null, or the integer sums
};

// decode_linear of a NormedRow or a GivenRow: weights of 1 to 4 bits, of uniform or ternary grids
// as activations are too; rows of a multiple of 8 values, up to 8192.
bool decode_linear_supports(const QuantSpec& weight, const QuantSpec& activation, int64_t n,
                            int64_t k);
// decode_gate_up with a weight (N,K): the same, and N / 2 a multiple of 16 up to 16384.
bool decode_gate_up_supports(const QuantSpec& weight, const QuantSpec& activation, int64_t n,
                             int64_t k);
// decode_linear of a SwigluRow or a SignRow: rows of up to 16384 values.
bool decode_swiglu_supports(const QuantSpec& weight, const QuantSpec& activation, int64_t n,
                            int64_t k);

// Whether decode_linear takes SignRows: weights and activations of 1 bit.
bool decode_takes_signs(const QuantSpec& weight, const QuantSpec& activation);

void decode_linear(const DeviceWeight& weight, const QuantSpec& activation, const NormedRow& row,
                   const DecodeOut& out, Stream stream);
void decode_linear(const DeviceWeight& weight, const QuantSpec& activation, const GivenRow& row,
                   const DecodeOut& out, Stream stream);
void decode_linear(const DeviceWeight& weight, const QuantSpec& activation, const SignRow& row,
                   const DecodeOut& out, Stream stream);
void decode_linear(const DeviceWeight& weight, const QuantSpec& activation, const SwigluRow& row,
                   const DecodeOut& out, Stream stream);

// Of a weight of decode_gate_up what is worth fetching into the second-level cache before
// (AttendOut): up's half, which its blocks ask for last (a layer of a 7B of 1 bit after 512 tokens,
// H100, with nothing, a half, 7/10, 9/10: 21.8 us, 20.7, 21.1, 21.6).
std::pair<const void*, int64_t> decode_late_weights(const DeviceWeight& weight);

// weight (2F,K): gate, then up.
SwigluRow decode_gate_up(const DeviceWeight& weight, const QuantSpec& activation,
                         const NormedRow& row, const QuantSpec& next, const SwigluMemory& memory,
                         Stream stream);

}  // namespace quest::kernels::cuda::deploy
