#include "quest/kernels/gemm_fixed_point.h"

#include "quest/base/error.h"
#include "quest/base/integer_math.h"
#include "quest/kernels/gemm_fixed_point_levels.h"
#include "quest/kernels/panel_tasks.h"

namespace quest::kernels {
bool gemm_fixed_point_supports(IsaLevel level) {
#ifdef __x86_64__
  return level >= IsaLevel::kAmx;
#else
  static_cast<void>(level);
  return false;
#endif
}

GemmFixedPointPlan plan_gemm_fixed_point(const GemmFixedPoint& product, int threads) {
  detail::check_unit_stride("gemm_fixed_point", "a", product.a.row_stride, product.a.column_stride);
  const bool has_codes = product.codes != nullptr;
  if (!has_codes) {
    detail::check_unit_stride("gemm_fixed_point", "b", product.b.row_stride,
                              product.b.column_stride);
  }
  QUEST_CHECK(product.k >= 1 && product.k <= kMaxFixedPointDepth, ErrorKind::kUsage,
              "gemm_fixed_point: K is {}, 1 to {} are possible; split longer sums", product.k,
              kMaxFixedPointDepth);
  GemmFixedPointPlan plan;
  plan.shares_a = !has_codes && product.m < product.n;
  const int64_t steps = divide_up(product.k, detail::kFixedPointStepDepth);
  const int64_t panel_bytes = detail::kFixedPointUnitsBytes + steps * detail::kFixedPointStepBytes;
  plan.own_panel_bytes = panel_bytes;
  plan.shared_panel_bytes = has_codes ? steps * detail::kFixedPointCodesStepBytes : panel_bytes;
  plan.shared_panels =
      has_codes ? divide_up(product.n, detail::kFixedPointCodesPanel)
                : divide_up(plan.shares_a ? product.m : product.n, detail::kFixedPointPanel);
  const int64_t panels = divide_up(plan.shares_a ? product.n : product.m, detail::kFixedPointPanel);
  plan.task_panels =
      detail::task_panels(panels, panel_bytes, detail::kMaxFixedPointTaskPanels, threads);
  plan.tasks = divide_up(panels, plan.task_panels);
  return plan;
}

void gemm_fixed_point_pack(const GemmFixedPoint& product, const GemmFixedPointPlan& plan,
                           int64_t begin, int64_t end, int8_t* shared) {
#ifdef __x86_64__
  QUEST_ASSERT(gemm_fixed_point_supports(highest_isa_level()), "gemm_fixed_point without AMX");
  detail::gemm_fixed_point_pack_amx(product, plan, begin, end, shared);
#else
  QUEST_ASSERT(false, "gemm_fixed_point without AMX");
#endif
}

void gemm_fixed_point_run(const GemmFixedPoint& product, const GemmFixedPointPlan& plan,
                          const int8_t* shared, int64_t begin, int64_t end) {
#ifdef __x86_64__
  QUEST_ASSERT(gemm_fixed_point_supports(highest_isa_level()), "gemm_fixed_point without AMX");
  detail::gemm_fixed_point_run_amx(product, plan, shared, begin, end);
#else
  QUEST_ASSERT(false, "gemm_fixed_point without AMX");
#endif
}

}  // namespace quest::kernels
