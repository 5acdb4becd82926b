// packed_gemm on AMX-INT8.
#include "quest/kernels/x86/amx_tiles.h"
#include "quest/kernels/x86/packed_gemm_amx_kernel.h"

namespace quest::kernels::detail {

void packed_tiles_amx(const PackedTask& task) { run_amx_panels<AmxTiles>(task); }

}  // namespace quest::kernels::detail
