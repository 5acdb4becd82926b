// table_gemm with 512-bit vectors: see table_gemm_groups.h and table_gemm_rows.h.
#include "quest/kernels/x86/table_gemm_groups.h"
#include "quest/kernels/x86/table_gemm_rows.h"

namespace quest::kernels::detail {

void table_groups_avx512(const TableGroupTask& task) { run_groups(task); }

void table_rows_avx512(const TableRowsTask& task) { run_table_rows(task); }

}  // namespace quest::kernels::detail
