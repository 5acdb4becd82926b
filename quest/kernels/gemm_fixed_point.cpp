#include "quest/kernels/gemm_fixed_point.h"

#include <algorithm>

#include "quest/base/error.h"
#include "quest/base/integer_math.h"
#include "quest/kernels/gemm_fixed_point_levels.h"

namespace quest::kernels {
namespace {

constexpr int64_t kTaskBytes = 1152 << 10;  // of a task's own panels, of the 2 MB of an L2 cache

void check_operand(const FixedPointOperand& view, const char* name) {
  QUEST_CHECK(view.row_stride == 1 || view.column_stride == 1, ErrorKind::kUsage,
              "gemm_fixed_point: operand {} has strides {} and {}; one of them must be 1", name,
              view.row_stride, view.column_stride);
}

}  // namespace

bool gemm_fixed_point_supports(IsaLevel level) {
#ifdef __x86_64__
  return level >= IsaLevel::kAmx;
#else
  static_cast<void>(level);
  return false;
#endif
}

GemmFixedPointPlan plan_gemm_fixed_point(const GemmFixedPoint& product, int threads) {
  check_operand(product.a, "a");
  const bool has_codes = product.codes != nullptr;
  if (!has_codes) check_operand(product.b, "b");
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
  // Large tasks read the shared operand, which may come from far, less often; their own panels must
  // stay in the L2 cache, and all threads want work.
  const int64_t fits =
      std::clamp<int64_t>(kTaskBytes / panel_bytes, 1, detail::kMaxFixedPointTaskPanels);
  const int64_t rounds = divide_up(panels, fits * threads);
  plan.task_panels = std::min(fits, divide_up(panels, rounds * threads));
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
