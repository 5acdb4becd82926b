// The float operations of the CPU engine, between the products: RMSNorm, SwiGLU, residual sums,
// key-value cache, attention, log-sum-exp.
//
// FP32. Every level gives the same bits (docs/numerics.md, "Deployment"): each operation is written
// once on 16 lanes (deploy_body.h) with a fixed order, and compiled once per level. A row's result
// depends on that row alone, so any split of rows over calls and threads gives the same bits.
//
//   deploy::rms_norm(x, weight, m, c, 1e-5f, y);
//   deploy::append_kv(shape, k, v, slot, block);                // position 64 * i + slot
//   deploy::attend(shape, blocks, q, q_stride, tokens, group, first_position, out, out_stride,
//                  scratch);
//
// Single-threaded on what is given; any number of calls may run at once on different rows. Pointers
// are trusted.
#pragma once

#include <cstdint>

#include "quest/base/cpu_features.h"

namespace quest::kernels::deploy {

// y (M,C) = x / sqrt(mean(x^2) + eps) * weight, the sum of squares by the tree of
// quest/quant/sum_of_squares.h. C >= 1.
void rms_norm(const float* x, const float* weight, int64_t m, int64_t c, float eps, float* y,
              IsaLevel level = isa_level());
// RMSNorm of a row that is quantized next: y (C) = x * weight. Returns the factor of all of y,
// 1 / sqrt(mean(x^2) + eps), for the unit that y is quantized to: no code depends on it.
float rms_norm_by_unit(const float* x, const float* weight, int64_t c, float eps, float* y,
                       IsaLevel level = isa_level());
// gate_up (M,2F) -> y (M,F) = silu(gate) * up.
void swiglu(const float* gate_up, int64_t m, int64_t f, float* y, IsaLevel level = isa_level());
// y += x, n values.
void add(const float* x, int64_t n, float* y, IsaLevel level = isa_level());
// ln sum_i exp(x_i) and the largest x of n >= 1 values. NaN or +inf among them gives NaN.
struct LogSumExp {
  double value = 0;
  float largest = 0;
};
LogSumExp log_sum_exp(const float* x, int64_t n, IsaLevel level = isa_level());

// Keys and values of one key-value head, in blocks of 64 positions.
//   fp16   K as 4 tiles of 16 positions, each (D, 16); V (64, D'); binary16, nearest even, values
//          beyond +-65504 become +-65504
//   int8   the same order in int8, K and V each with an FP32 unit per position: unit = max|x| /
//   127,
//          code = round(x * (127 / max|x|)), half to even
// D' is D rounded up to 16; columns past D hold 0.
enum class KvFormat { kFp16, kInt8 };
inline constexpr int64_t kKvBlock = 64;  // positions

struct KvShape {
  KvFormat format = KvFormat::kFp16;
  int64_t head_dim = 0;  // D

  int64_t padded_dim() const { return (head_dim + 15) / 16 * 16; }
  int64_t element_bytes() const { return format == KvFormat::kFp16 ? 2 : 1; }
  int64_t key_bytes() const { return kKvBlock * head_dim * element_bytes(); }
  int64_t value_bytes() const { return kKvBlock * padded_dim() * element_bytes(); }
  int64_t unit_bytes() const { return format == KvFormat::kFp16 ? 0 : 2 * kKvBlock * 4; }
  // Of one block; a multiple of 64. K, V, K's units, V's units.
  int64_t block_bytes() const { return key_bytes() + value_bytes() + unit_bytes(); }
};

// k, v (D): position `slot`, 0 to 63, of a block.
void append_kv(const KvShape& shape, const float* k, const float* v, int64_t slot, uint8_t* block,
               IsaLevel level = isa_level());

// Causal attention of one key-value head and the `group` query heads that share it. Token t stands
// at position first_position + t and sees the keys of positions 0 to its own; block i holds
// positions 64 i to 64 i + 63. q of token t, head h: q + t * q_stride + h * D; out likewise.
//
// Per row: q' = q * D^-0.5; s_j = sum_d q'_d k_jd, fma in the order of d (int8: then times the
// key's unit); over blocks in order: m' = max(m, s of the block), c = exp(m - m'),
// p_j = exp(s_j - m'), l = l c + p in 16 lanes (lane j % 16, in order of j), o_d = o_d c, then
// fma(p_j, v_jd, o_d) in the order of j (int8: p_j times the value's unit first). out = o / sum(l).
//
// scratch: attend_scratch_bytes(shape) bytes, 64-byte aligned.
int64_t attend_scratch_bytes(const KvShape& shape);
struct AttendTask {
  const uint8_t* const* blocks = nullptr;
  int64_t block_offset = 0;  // of this head within each block pointer
  const float* q = nullptr;
  int64_t q_stride = 0;
  int64_t tokens = 0, group = 1, first_position = 0;
  float* out = nullptr;
  int64_t out_stride = 0;
};
void attend(const KvShape& shape, const AttendTask& task, void* scratch,
            IsaLevel level = isa_level());

// "avx512", ...: the level whose code runs when `level` is asked for.
const char* deploy_plan(IsaLevel level = isa_level());

}  // namespace quest::kernels::deploy
