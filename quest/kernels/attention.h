// Causal self-attention of training in bfloat16 or FP32, forward and backward, on tiles of AMX or,
// in bfloat16 on CPUs with AVX512-BF16 alone, of vectors.
//
//   S = q k^T / sqrt(D);  P = softmax of S over keys at or before the query;  out = P v
//
// q, k and v are read where the fused projection put them (q and k already rotated), out is written
// where the next projection reads it, the gradient where qkv's is wanted: nothing is transposed
// between. The backward pass computes P again from the logsumexp. Where attention_supports says no,
// callers use LibTorch's flash attention.
//
// In FP32 each factor of a product (q, k, v, the gradient, P and dS) is three bfloat16 pieces and
// each product six products of pieces, as exact as an FP32 one (gemm_bf16.h). Without AMX's tiles
// that is slower than FP32 arithmetic, so vectors have bfloat16 only.
//
// The definition is attention_reference (scalar/attention.cpp, in double). Tiles agree with it
// within the rounding of FP32 sums and of 2^x and, in bfloat16, of P, dS and the results; they take
// denormals (of pieces, too) as zero, and give the same bits for any split into tasks and any
// number of threads. Infinite values give NaN.
//
// Each call is single-threaded; calls on different tasks may run at once. Memory of a call: about
// 2 T D bfloat16 values forward, 7 T D and 3 T D floats backward; in FP32 three times as many
// bfloat16 values.
//
//   const AttentionPlan plan = plan_attention(attention, threads);
//   attention_forward(attention, plan, 0, plan.forward_tasks);       // deal out tasks
//   attention_backward(attention, grads, 0, plan.backward_tasks);    // the same
//
// Source: FlashAttention-2, arXiv 2307.08691 (blocks, recomputation).
#pragma once

#include <cstdint>

#include "quest/base/bfloat16.h"
#include "quest/base/cpu_features.h"

namespace quest::kernels {

// B batch, T tokens, H heads, G key-value heads (divides H; H / G neighbouring heads share one), D
// head size.
template <class T>  // bfloat16 or float
struct Attention {
  int64_t batch = 0, length = 0;                  // B, T
  int64_t heads = 0, kv_heads = 0, head_dim = 0;  // H, G, D
  // Row b T + t: H heads of q, G of k, G of v, D values each; row stride in values.
  const T* qkv = nullptr;
  int64_t row_stride = 0;
  T* out = nullptr;            // (B, T, H D): written by forward, read by backward
  float* logsumexp = nullptr;  // (B, H, T) of S, natural logarithm: the same
};

template <class T>
struct AttentionGrads {
  const T* grad_out = nullptr;  // (B, T, H D)
  T* grad_qkv = nullptr;        // as qkv, the same row stride
};

struct AttentionPlan {
  int64_t parts = 1;           // into which the queries of a key-value head are dealt out
  int64_t forward_tasks = 0;   // B G parts
  int64_t backward_tasks = 0;  // B G
};

inline constexpr int64_t kMaxAttentionHeadDim = 256;

// "AMX tiles", "AVX512-BF16 tiles" (bfloat16), "AMX tiles, FP32 values as three bfloat16 pieces";
// null where the level or the CPU has none for the type, or D is no multiple of 32 up to
// kMaxAttentionHeadDim.
template <class T>
const char* attention_version(int64_t head_dim, IsaLevel level = isa_level());
template <class T>
bool attention_supports(int64_t head_dim, IsaLevel level = isa_level());

// Throws kUsage for shapes that do not fit together.
template <class T>
AttentionPlan plan_attention(const Attention<T>& attention, int threads);

// Tasks [begin, end).
template <class T>
void attention_forward(const Attention<T>& attention, const AttentionPlan& plan, int64_t begin,
                       int64_t end, IsaLevel level = isa_level());
template <class T>
void attention_backward(const Attention<T>& attention, const AttentionGrads<T>& grads,
                        int64_t begin, int64_t end, IsaLevel level = isa_level());

// The definition, from qkv alone: out (B, T, H D), logsumexp (B, H, T); and grad_qkv (B T, (H + 2G)
// D). Any D.
template <class T>
void attention_reference(const Attention<T>& attention, double* out, double* logsumexp);
template <class T>
void attention_backward_reference(const Attention<T>& attention, const T* grad_out,
                                  double* grad_qkv);

}  // namespace quest::kernels
