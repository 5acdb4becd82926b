#include "quest/kernels/cuda/launch.h"

#include <mutex>
#include <set>
#include <utility>

#include "quest/base/error.h"

namespace quest::kernels::cuda {

void throw_cuda_error(const char* operation, int code, const char* text) {
  QUEST_THROW(ErrorKind::kEnvironment, "[{}] CUDA error {}: {}", operation, code, text);
}

bool is_first_launch(const void* kernel, int device) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> seen;
  const std::lock_guard lock(mutex);
  return seen.emplace(kernel, device).second;
}

}  // namespace quest::kernels::cuda
