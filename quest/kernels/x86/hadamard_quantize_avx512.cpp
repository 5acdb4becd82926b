#include "quest/kernels/x86/hadamard_quantize_body.h"
#include "quest/kernels/x86/lanes_avx512.h"

namespace quest::kernels::avx512 {
QUEST_DEFINE_HADAMARD_QUANTIZE(float)
QUEST_DEFINE_HADAMARD_QUANTIZE(bfloat16)
}  // namespace quest::kernels::avx512
