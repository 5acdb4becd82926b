// For the twins of GPU sources in a build without GPU kernels.
#pragma once

#include "quest/base/error.h"
#include "quest/ops/gpu.h"

namespace quest::ops {

// Throws kEnvironment with gpu_unusable_reason().
[[noreturn]] inline void missing_gpu() {
  QUEST_THROW(ErrorKind::kEnvironment, "{}", gpu_unusable_reason());
}

}  // namespace quest::ops
