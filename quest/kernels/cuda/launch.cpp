#include "quest/kernels/cuda/launch.h"

#include "quest/base/error.h"

namespace quest::kernels::cuda {

void throw_cuda_error(const char* operation, int code, const char* text) {
  QUEST_THROW(ErrorKind::kEnvironment, "[{}] CUDA error {}: {}", operation, code, text);
}

}  // namespace quest::kernels::cuda
