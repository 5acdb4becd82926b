// Rotary embedding and causal self-attention on the fused qkv matrix.
//
// In training, bfloat16 (where the CPU has AMX or AVX512-BF16) and FP32 (where it has AMX) go
// through kernels/attention.h if the head size fits, all else through LibTorch's flash attention;
// rotary embedding is kernels/rope.h. Legend: B batch, T tokens, H heads, G key-value heads
// (divides H), D head size.
#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

namespace quest::ops {

struct AttentionShape {
  int64_t heads = 0;     // H
  int64_t kv_heads = 0;  // G
  int64_t head_dim = 0;  // D
};

// qkv (B, T, (H + 2G) D): q heads, k heads, v heads; float, bfloat16 or double. cos, sin (>= T,
// D/2) f32. Position t of a row is t. Returns (B, T, H D). qkv's memory is reused (q and k are
// rotated in place): do not read it afterwards.
at::Tensor causal_self_attention(const at::Tensor& qkv, const at::Tensor& cos,
                                 const at::Tensor& sin, const AttentionShape& shape);

// One step of generation, without gradients: rotates q and k at positions [start, start + T),
// appends k and v to the caches (B, G, capacity, D) there, attends to positions [0, start + T).
at::Tensor cached_self_attention(const at::Tensor& qkv, const at::Tensor& cos,
                                 const at::Tensor& sin, const AttentionShape& shape,
                                 at::Tensor& k_cache, at::Tensor& v_cache, int64_t start);

// On a GPU, bfloat16, without gradients: attention of qkv (B, T, (H + 2G) D) whose q and k are
// rotated already. (B, T, H D). D a multiple of 8, up to 256.
at::Tensor rotated_self_attention(const at::Tensor& qkv, const AttentionShape& shape);
// The same of q (B, T, H, D), the last of the positions of k and v (B, S, G, D), S >= T.
at::Tensor rotated_attention_to(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

// "AMX tiles" (and how FP32 is multiplied there), "AVX512-BF16 tiles", "LibTorch's flash attention"
// or (double) "the definition": what causal_self_attention runs on.
std::string attention_plan(at::ScalarType type, const AttentionShape& shape,
                           at::DeviceType device = at::kCPU);

}  // namespace quest::ops
