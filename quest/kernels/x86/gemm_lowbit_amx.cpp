// gemm_lowbit on AMX-INT8.
#include "quest/kernels/x86/amx_tiles.h"
#include "quest/kernels/x86/gemm_lowbit_amx_kernel.h"

namespace quest::kernels::detail {

void gemm_amx(const GemmTask& task) { run_amx<AmxTiles>(task); }

}  // namespace quest::kernels::detail
