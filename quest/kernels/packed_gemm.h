// Products of quantized activations with packed weights (quest/quant/code_tiles.h), for deployment.
//
//   acc[m][n] = sum_k number(a[m][k]) * number(w[n][k])            exact in int32
//   out[m][n] = float(acc[m][n]) * (a_units[m] * w_units[n])       FP32
//
// and for activations in high precision (A16, grids that are tables of levels):
//   out[m][n] = sum_k a[m][k] * number(w[n][k]) * w_units[n]       order of the sum:
//   packed_gemm_float
//
// The definition is scalar/packed_gemm.cpp; every level gives the same bits, for any split of rows
// and columns. Weights stay packed in memory; a plan says how they are multiplied:
//   popcount  W1A1 by xor and population count of the packed bits
//   dot       values unpacked in registers, vpdpbusd (AVX-512-VNNI) or vpmaddubsw (AVX2, AVX-512)
//   tiles     a panel of values unpacked into the cache, AMX int8, for many rows
// Each plan is chosen by choose_packed_plan from the formats, M and the level; it is printable and
// never falls back silently.
//
//   const PackedPlan plan = choose_packed_plan(w, a_format, m);
//   prepare_activations(plan, ...);                     // once per matrix of activations
//   packed_gemm(plan, w, a, 0, m, n0, n1, out, ldo);    // columns dealt out to threads
//
// Single-threaded on what is given; calls on different columns may run at once. Pointers are
// trusted (packed/ proves files); weights are aligned to 64 bytes.
#pragma once

#include <cstdint>
#include <string>

#include "quest/base/cpu_features.h"
#include "quest/quant/code_tiles.h"
#include "quest/quant/quantizer.h"

namespace quest::kernels {

// A view of one packed weight matrix (N,K).
struct PackedWeight {
  QuantSpec spec;
  CodeTiles tiles;                 // of the 4:8 grids: the kept values (N, K/2)
  const uint8_t* bytes = nullptr;  // tiles.bytes()
  const uint8_t* pairs = nullptr;  // 4:8: sparse_tiles(n, k).pairs.bytes()
  const float* units = nullptr;    // (N)
  const int32_t* value_sums =
      nullptr;  // (N): sum_k u; needed if activations' numbers have an offset
  int64_t n = 0, k = 0;
};

enum class PackedMethod { kDefinition, kPopcount, kDot, kTiles, kFloat };

struct PackedPlan {
  PackedMethod method = PackedMethod::kDefinition;
  IsaLevel level = IsaLevel::kScalar;
  QuantSpec activation;
  // 4:8: weights become bytes in the cache first, 256 columns at a time; or, up to 8 rows, the
  // codes of kept columns are selected.
  bool spreads_pairs = false, selects_codes = false;
};
// "popcount, avx512vnni"; "dot, avx512vnni, 4:8 by selection of codes": for --print-plans.
std::string packed_plan_text(const PackedPlan& plan);
// activation: grid kNone means FP32 activations. Throws kUsage where sums could leave int32.
PackedPlan choose_packed_plan(const QuantSpec& weight, const QuantSpec& activation, int64_t m,
                              int64_t k, IsaLevel level = isa_level());

// Activations as a plan wants them. codes (M,K) int8 as hadamard_quantize writes them (numbers for
// all but 8 bits). prepared: activation_bytes(plan, m, k) bytes, 64-byte aligned.
int64_t activation_bytes(const PackedPlan& plan, int64_t m, int64_t k);
void prepare_activations(const PackedPlan& plan, const int8_t* codes, int64_t m, int64_t k,
                         uint8_t* prepared);
// The part of it that rows [m0, m1) need, so that threads can share the work: m0 a multiple of
// kPreparedRows, m1 one too or m.
inline constexpr int64_t kPreparedRows = 32;
void prepare_activation_rows(const PackedPlan& plan, const int8_t* codes, int64_t m, int64_t k,
                             int64_t m0, int64_t m1, uint8_t* prepared);

struct PreparedActivations {
  const uint8_t* prepared = nullptr;  // of prepare_activations
  const float* units = nullptr;       // (M)
  int64_t m = 0;
};

// Rows [m0, m1), columns [n0, n1) (n0 a multiple of 16) of out (M,N), row stride ldo. acc: if not
// null, the int32 sums are written there too (same shape and stride), for `quest verify`.
void packed_gemm(const PackedPlan& plan, const PackedWeight& w, const PreparedActivations& a,
                 int64_t m0, int64_t m1, int64_t n0, int64_t n1, float* out, int64_t ldo,
                 int32_t* acc = nullptr);

// FP32 activations x (M,K), already rotated if w.spec.hadamard. Sum of one output: four partial
// sums, one for k % 4 = 0, 1, 2, 3, each in order of k with fma(x, number, sum); then (s0 + s1) +
// (s2 + s3); then times the unit. Padding columns add nothing.
void packed_gemm_float(const PackedWeight& w, const float* x, int64_t ldx, int64_t m0, int64_t m1,
                       int64_t n0, int64_t n1, float* out, int64_t ldo,
                       IsaLevel level = isa_level());

}  // namespace quest::kernels
