#include "quest/kernels/gemm_bf16.h"

#include "quest/base/error.h"
#include "quest/base/integer_math.h"
#include "quest/kernels/gemm_bf16_levels.h"
#include "quest/kernels/panel_tasks.h"

namespace quest::kernels {
namespace {

constexpr int64_t kMaxTaskPanels = 16;

}  // namespace

bool gemm_bf16_supports(IsaLevel level) {
#ifdef __x86_64__
  return level >= IsaLevel::kAmx && cpu_features().avx512bf16;
#else
  static_cast<void>(level);
  return false;
#endif
}

GemmBf16Plan plan_gemm_bf16(const GemmBf16& product, int threads) {
  detail::check_unit_stride("gemm_bf16", "a", product.a.row_stride, product.a.column_stride);
  detail::check_unit_stride("gemm_bf16", "b", product.b.row_stride, product.b.column_stride);
  QUEST_CHECK(product.k >= 1 && product.k <= kMaxGemmBf16Depth, ErrorKind::kUsage,
              "gemm_bf16: K is {}, 1 to {} are possible; split longer sums", product.k,
              kMaxGemmBf16Depth);
  QUEST_CHECK(!product.accumulate || !product.out_is_bfloat16, ErrorKind::kUsage,
              "gemm_bf16: sums are only added to an FP32 output");
  GemmBf16Plan plan;
  plan.shares_a = product.m < product.n;
  plan.panel_elements = round_up(product.k, detail::kBf16StepDepth) * detail::kBf16Panel;
  const int64_t shared = plan.shares_a ? product.m : product.n;
  const int64_t streamed = plan.shares_a ? product.n : product.m;
  plan.shared_panels = divide_up(shared, detail::kBf16Panel);
  const int64_t panels = divide_up(streamed, detail::kBf16Panel);
  const int64_t panel_bytes = plan.panel_elements * static_cast<int64_t>(sizeof(bfloat16));
  plan.task_panels = detail::task_panels(panels, panel_bytes, kMaxTaskPanels, threads);
  plan.tasks = divide_up(panels, plan.task_panels);
  return plan;
}

void gemm_bf16_pack(const GemmBf16& product, const GemmBf16Plan& plan, int64_t begin, int64_t end,
                    bfloat16* shared) {
#ifdef __x86_64__
  QUEST_ASSERT(gemm_bf16_supports(highest_isa_level()), "gemm_bf16 without AMX");
  detail::gemm_bf16_pack_amx(product, plan, begin, end, shared);
#else
  QUEST_ASSERT(false, "gemm_bf16 without AMX");
#endif
}

void gemm_bf16_run(const GemmBf16& product, const GemmBf16Plan& plan, const bfloat16* shared,
                   int64_t begin, int64_t end) {
#ifdef __x86_64__
  QUEST_ASSERT(gemm_bf16_supports(highest_isa_level()), "gemm_bf16 without AMX");
  detail::gemm_bf16_run_amx(product, plan, shared, begin, end);
#else
  QUEST_ASSERT(false, "gemm_bf16 without AMX");
#endif
}

}  // namespace quest::kernels
