#include "quest/kernels/attention.h"

#include <type_traits>

#include "quest/base/error.h"
#include "quest/base/integer_math.h"
#include "quest/kernels/attention_levels.h"

namespace quest::kernels {
namespace {

// Parts per key-value head that end soonest: rounds of tasks over the threads, each as long as
// 1 / parts of the products and the packing of keys and values, about a tenth of the products of
// one head.
int64_t choose_parts(int64_t groups, int64_t blocks, int threads) {
  int64_t best = 1;
  double best_time = 1e30;
  for (int64_t parts = 1; parts <= 8 && 2 * parts <= divide_up(blocks, 2) * 2; parts *= 2) {
    const auto rounds = static_cast<double>(divide_up(groups * parts, threads));
    const double time = rounds * (1.0 / static_cast<double>(parts) + 0.1);
    if (time < best_time) {
      best = parts;
      best_time = time;
    }
  }
  return best;
}

}  // namespace

template <class T>
const char* attention_version(int64_t head_dim, IsaLevel level) {
#ifdef __x86_64__
  if (head_dim < 32 || head_dim % 32 != 0 || head_dim > kMaxAttentionHeadDim ||
      !cpu_features().avx512bf16) {
    return nullptr;
  }
  if constexpr (std::is_same_v<T, float>) {
    return level >= IsaLevel::kAmx ? "AMX tiles, FP32 values as three bfloat16 pieces" : nullptr;
  }
  if (level >= IsaLevel::kAmx) return "AMX tiles";
  if (level >= IsaLevel::kAvx512Vnni) return "AVX512-BF16 tiles";
#else
  static_cast<void>(head_dim);
  static_cast<void>(level);
#endif
  return nullptr;
}

template <class T>
bool attention_supports(int64_t head_dim, IsaLevel level) {
  return attention_version<T>(head_dim, level) != nullptr;
}

template <class T>
AttentionPlan plan_attention(const Attention<T>& a, int threads) {
  QUEST_CHECK(
      a.batch >= 1 && a.length >= 1 && a.kv_heads >= 1 && a.heads >= a.kv_heads &&
          a.heads % a.kv_heads == 0,
      ErrorKind::kUsage,
      "attention: {} sequences of {} tokens, {} heads on {} key-value heads; all at least 1, "
      "and the key-value heads must divide the heads",
      a.batch, a.length, a.heads, a.kv_heads);
  QUEST_CHECK(a.head_dim >= 32 && a.head_dim % 32 == 0 && a.head_dim <= kMaxAttentionHeadDim,
              ErrorKind::kUsage, "attention: head size {}; multiples of 32 up to {} are possible",
              a.head_dim, kMaxAttentionHeadDim);
  QUEST_CHECK(a.row_stride >= (a.heads + 2 * a.kv_heads) * a.head_dim, ErrorKind::kUsage,
              "attention: row stride {}, {} heads + 2 x {} of size {} need {}", a.row_stride,
              a.heads, a.kv_heads, a.head_dim, (a.heads + 2 * a.kv_heads) * a.head_dim);
  const int64_t groups = a.batch * a.kv_heads;
  AttentionPlan plan;
  plan.parts = choose_parts(groups, divide_up(a.length, detail::kQueryBlock), threads);
  plan.forward_tasks = groups * plan.parts;
  plan.backward_tasks = groups;
  return plan;
}

template <class T>
void attention_forward(const Attention<T>& attention, const AttentionPlan& plan, int64_t begin,
                       int64_t end, IsaLevel level) {
  QUEST_ASSERT(attention_supports<T>(attention.head_dim, level), "attention at a level without it");
#ifdef __x86_64__
  return level >= IsaLevel::kAmx
             ? detail::attention_forward_amx(attention, plan, begin, end)
             : detail::attention_forward_avx512bf16(attention, plan, begin, end);
#endif
}

template <class T>
void attention_backward(const Attention<T>& attention, const AttentionGrads<T>& grads,
                        int64_t begin, int64_t end, IsaLevel level) {
  QUEST_ASSERT(attention_supports<T>(attention.head_dim, level), "attention at a level without it");
#ifdef __x86_64__
  return level >= IsaLevel::kAmx
             ? detail::attention_backward_amx(attention, grads, begin, end)
             : detail::attention_backward_avx512bf16(attention, grads, begin, end);
#endif
}

template const char* attention_version<bfloat16>(int64_t, IsaLevel);
template const char* attention_version<float>(int64_t, IsaLevel);
template bool attention_supports<bfloat16>(int64_t, IsaLevel);
template bool attention_supports<float>(int64_t, IsaLevel);
template AttentionPlan plan_attention(const Attention<bfloat16>&, int);
template AttentionPlan plan_attention(const Attention<float>&, int);
template void attention_forward(const Attention<bfloat16>&, const AttentionPlan&, int64_t, int64_t,
                                IsaLevel);
template void attention_forward(const Attention<float>&, const AttentionPlan&, int64_t, int64_t,
                                IsaLevel);
template void attention_backward(const Attention<bfloat16>&, const AttentionGrads<bfloat16>&,
                                 int64_t, int64_t, IsaLevel);
template void attention_backward(const Attention<float>&, const AttentionGrads<float>&, int64_t,
                                 int64_t, IsaLevel);

}  // namespace quest::kernels
