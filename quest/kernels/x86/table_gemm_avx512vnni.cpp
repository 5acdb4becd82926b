// The groups of table_gemm with vpdpbusd.
#include "quest/kernels/x86/table_gemm_groups.h"

namespace quest::kernels::detail {

void table_groups_avx512vnni(const TableGroupTask& task) { run_groups(task); }

}  // namespace quest::kernels::detail
