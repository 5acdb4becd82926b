// packed_gemm with 256-bit vectors: see packed_gemm_maddubs.h, packed_gemm_float.h and
// packed_gemm_float_panels.h.
#include "quest/kernels/x86/packed_gemm_float_panels.h"
#include "quest/kernels/x86/packed_gemm_maddubs.h"

namespace quest::kernels::detail {

void packed_dot_avx2(const PackedTask& task) {
  run_dot<MaddKernel, Bits, TableValues, SparseValues>(task);
}

void packed_popcount_avx2(const PackedTask& task) { run_packed<CountKernel>(task); }

void packed_float_avx2(const PackedFloatTask& task) {
  if (task.m1 - task.m0 < kMinPanelRows) return run_float(task);
  with_float_values(task, [&]<class Values>() { run_float_panels<Values>(task); });
}

}  // namespace quest::kernels::detail
