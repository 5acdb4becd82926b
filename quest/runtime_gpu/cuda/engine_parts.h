// What CudaEngine computes with: its options checked, the operations between products by the type
// that they compute in, blocks of the model, rows and memory of a call. Internal to this room.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include <ATen/core/Tensor.h>

#include "quest/base/error.h"
#include "quest/kernels/cuda/attention_decode.h"
#include "quest/kernels/cuda/deploy.h"
#include "quest/ops/gpu.h"
#include "quest/runtime/engine_checks.h"
#include "quest/runtime_gpu/cuda/device_cache.h"
#include "quest/runtime_gpu/cuda/device_model.h"
#include "quest/runtime_gpu/cuda/tensors.h"
#include "quest/runtime_gpu/cuda_engine.h"

namespace quest::runtime_gpu {

namespace gpu = kernels::cuda;
namespace deploy = kernels::cuda::deploy;

// Rows that the kernels of single tokens take at once.
inline constexpr int64_t kFewRows = gpu::kMaxPackedRows;
inline constexpr int64_t kFastChunk = 8192, kExactChunk = 512;
// Recorded graphs that are kept: of steps, one for each number of sequences, and of prompts.
inline constexpr size_t kStepGraphs = kFewRows, kPromptGraphs = 4;
inline constexpr std::string_view kAdvice =
    "a shorter context, fewer sequences or a smaller chunk need less";

inline deploy::KvFormat cache_format(CudaKvFormat format) {
  switch (format) {
    case CudaKvFormat::kBf16:
      return deploy::KvFormat::kBf16;
    case CudaKvFormat::kFp16:
      return deploy::KvFormat::kFp16;
    case CudaKvFormat::kInt8:
      return deploy::KvFormat::kInt8;
  }
  return {};
}

// Before the model's memory is taken.
inline CudaEngineOptions checked(CudaEngineOptions options, const LlamaConfig& config) {
  const std::string reason = ops::gpu_unusable_reason();
  QUEST_CHECK(reason.empty(), ErrorKind::kEnvironment, "{}", reason);
  options.context = checked_context(options.context, config);
  const bool exact = options.numerics == CudaNumerics::kExact;
  if (options.chunk == 0) options.chunk = exact ? kExactChunk : kFastChunk;
  QUEST_CHECK(options.chunk >= 1 && options.chunk <= 1 << 16, ErrorKind::kUsage,
              "the chunk is {} tokens, allowed are 1 to 65536", options.chunk);
  QUEST_CHECK(!exact || options.kv != CudaKvFormat::kBf16, ErrorKind::kUsage,
              "exact numerics are the CPU engine's, whose cache is fp16 or int8, not bf16");
  return options;
}

// The quantizers and float operations between products, by the type that they compute in.
inline void add_norm_quantize(const QuantSpec& spec, float* x, const float* delta,
                              const float* weight, float eps, int64_t rows, int64_t c,
                              const gpu::QuantizedRows& out) {
  deploy::add_norm_quantize(spec, x, delta, weight, eps, rows, c, x, out, ops::current_stream());
}
inline void add_norm_quantize(const QuantSpec& spec, bfloat16* x, const bfloat16* delta,
                              const float* weight, float eps, int64_t rows, int64_t c,
                              const gpu::QuantizedRows& out) {
  gpu::add_rms_norm_hadamard_quantize<bfloat16>(spec, x, delta, weight, eps, rows, c, x, nullptr,
                                                out, ops::current_stream());
}
inline void quantize(const QuantSpec& spec, const float* x, int64_t rows, int64_t k,
                     const gpu::QuantizedRows& out) {
  deploy::quantize(spec, x, rows, k, out, ops::current_stream());
}
inline void quantize(const QuantSpec& spec, const bfloat16* x, int64_t rows, int64_t k,
                     const gpu::QuantizedRows& out) {
  gpu::hadamard_quantize<bfloat16>(spec, x, rows, k, out, ops::current_stream());
}
inline void swiglu_quantize(const QuantSpec& spec, const float* gate_up, int64_t rows, int64_t f,
                            const gpu::QuantizedRows& out) {
  deploy::swiglu_quantize(spec, gate_up, rows, f, out, ops::current_stream());
}
inline void swiglu_quantize(const QuantSpec& spec, const bfloat16* gate_up, int64_t rows, int64_t f,
                            const gpu::QuantizedRows& out) {
  gpu::swiglu_hadamard_quantize<bfloat16>(spec, gate_up, rows, f, out, ops::current_stream());
}

struct DeviceBlock {
  at::Tensor input_norm, post_attention_norm;  // (C) f32
  DeviceLinear qkv, o, gate_up, down;

  std::array<const DeviceLinear*, 4> linears() const { return {&qkv, &o, &gate_up, &down}; }
  // Whether a step of one row takes a kernel for each of them, quantizers included.
  bool decodes_in_one() const {
    return qkv.decodes_in_one(deploy::decode_linear_supports) &&
           o.decodes_in_one(deploy::decode_linear_supports) &&
           gate_up.decodes_in_one(deploy::decode_gate_up_supports) &&
           down.decodes_in_one(deploy::decode_swiglu_supports);
  }
};

// Consecutive rows of a call that belong to one sequence.
struct Segment {
  DeviceSequence* sequence = nullptr;
  std::span<const int32_t> tokens;
  int64_t first_row = 0, first_position = 0;
  int64_t owner = 0;  // place of the sequence among the caller's
  bool ends_prompt = false;

  int64_t count() const { return static_cast<int64_t>(tokens.size()); }
};

// Memory of calls that compute in T.
struct Buffers {
  int64_t rows = 0;
  at::Tensor hidden, delta;  // (rows, C)
  at::Tensor wide;           // (rows, (H + 2G) D) and (rows, 2F)
  at::Tensor attended;       // (rows, H D)
  // Of a row in a step of one: sums of squares of its every 128 values, and its signs.
  at::Tensor chunks, signs;
  at::Tensor rows_of;  // token, slot, position of each row of a call of n: (3, n) int32
  ProductBuffers products;

  int64_t bytes() const {
    return bytes_of({hidden, delta, wide, attended, chunks, signs, rows_of, products.codes,
                     products.units, products.values});
  }
};

// What the last block leaves of the rows whose logits are wanted: hidden + delta.
struct LastRows {
  at::Tensor hidden, delta;  // (n, C) f32
  int64_t rows = 0;
};

inline int64_t power_of_two_from(int64_t n) {
  int64_t p = 1;
  while (p < n) p *= 2;
  return p;
}

}  // namespace quest::runtime_gpu
