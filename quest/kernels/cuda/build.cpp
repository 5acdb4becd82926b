#include "quest/kernels/cuda/stream.h"

namespace quest::kernels::cuda {

bool compiled_with_cuda() { return true; }
const char* compiled_architectures() { return QUEST_CUDA_ARCHITECTURES; }

}  // namespace quest::kernels::cuda
