// packed_gemm with 512-bit vectors: see packed_gemm_maddubs.h and packed_gemm_float.h.
#include "quest/kernels/x86/packed_gemm_float.h"
#include "quest/kernels/x86/packed_gemm_maddubs.h"

namespace quest::kernels::detail {

void packed_dot_avx512(const PackedTask& task) {
  run_dot<MaddKernel, Bits, TableValues, SparseValues>(task);
}

void packed_popcount_avx512(const PackedTask& task) { run_packed<CountKernel>(task); }

void packed_float_avx512(const PackedFloatTask& task) { run_float(task); }

}  // namespace quest::kernels::detail
