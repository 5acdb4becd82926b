// Keys and values of sequences in device memory, in pages of 64 positions.
//
// A page holds 64 positions of one sequence, for every layer and key-value head. One head of one
// page is K (64,D), V (64,D), then for int8 K's units (64) and V's units (64) in FP32:
//   bf16   nearest even
//   fp16   nearest even, values beyond +-65504 become +-65504, NaN stays
//   int8   of keys and values after a Hadamard transform along the head: unit = max|x| / 127, code
//          = round(x * (127 / max|x|)), half to even
// fp16 and int8 hold the numbers of the CPU's cache (kernels/deploy.h append_kv), in another order.
//
// A sequence has a slot; its pages' addresses stand in device memory at tables + slot *
// pages_per_sequence, so that pages may be added under a recorded CUDA graph. Rows of a call name
// their slot and position in device arrays. Pages are 16-byte aligned.
//
//   const KvLayout layout{KvFormat::kFp16, layers, kv_heads, head_dim};
//   const KvCacheView cache{layout, tables, pages_per_sequence};
//   rope_append(cache, layer, qkv, heads, cos, sin, {slot, position, rows}, stream);
//   attend_exact(cache, layer, qkv, heads, {slot, position, rows}, out, stream);
//
// Pointers are device memory, 16-byte aligned; calls are asynchronous in `stream` and may begin
// while the kernel before them still runs (dependent_launch.cuh). Positions must lie in pages that
// the table has, and in cos and sin. Errors: kUsage for a head size that the format cannot hold
// (check_layout); kEnvironment for CUDA's.
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/kernels/cuda/stream.h"

namespace quest::kernels::cuda::deploy {

enum class KvFormat { kBf16, kFp16, kInt8 };
inline constexpr int kPagePositions = 64;

struct KvLayout {
  KvFormat format = KvFormat::kBf16;
  int64_t layers = 0, kv_heads = 0, head_dim = 0;  // L, G, D

  constexpr int64_t element_bytes() const { return format == KvFormat::kInt8 ? 1 : 2; }
  constexpr int64_t part_bytes() const { return kPagePositions * head_dim * element_bytes(); }
  constexpr int64_t unit_bytes() const {
    return format == KvFormat::kInt8 ? 2 * kPagePositions * 4 : 0;
  }
  // One head of one page: K, V, units.
  constexpr int64_t head_bytes() const { return 2 * part_bytes() + unit_bytes(); }
  constexpr int64_t page_bytes() const { return layers * kv_heads * head_bytes(); }
  constexpr int64_t offset(int64_t layer, int64_t head) const {
    return (layer * kv_heads + head) * head_bytes();
  }
};

// Throws kUsage for a head size that is odd, beyond 256, or for int8 no multiple of 16.
void check_layout(const KvLayout& layout);

struct KvCacheView {
  KvLayout layout;
  uint8_t* const* tables = nullptr;  // (slots, pages_per_sequence) addresses
  int64_t pages_per_sequence = 0;
};

// The rows of a call: row r is position[r] of the sequence slot[r]. Slots and positions of one call
// are all different pairs.
struct KvRows {
  const int32_t* slot = nullptr;
  const int32_t* position = nullptr;
  int64_t rows = 0;
};

// qkv (rows, (H + 2G) D), `heads` H: q and k are turned by their positions in place, with the bits
// of kernels/rope.h on T; cos, sin (positions, D/2). Keys and values go into the cache. For int8
// they are transformed first; where T is float that is left in q, k and v too, so that q is what
// attend_exact and attend_split take; where T is bfloat16, qkv keeps the plain basis.
template <class T>  // float or bfloat16
void rope_append(const KvCacheView& cache, int64_t layer, T* qkv, int64_t heads, const float* cos,
                 const float* sin, const KvRows& rows, Stream stream);

// Positions [0, n) of one sequence as dense k, v (n, G, D), int8 in the plain basis.
template <class T>  // float or bfloat16
void gather_kv(const KvCacheView& cache, int64_t layer, int64_t slot, int64_t n, T* k, T* v,
               Stream stream);

}  // namespace quest::kernels::cuda::deploy
