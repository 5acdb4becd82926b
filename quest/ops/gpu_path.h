// Which of this build's ways a GPU takes, as `quest doctor` says it.
#pragma once

#include <string>

#include "quest/kernels/cuda/device_facts.h"

namespace quest::ops {

// "Hopper's tensor cores: ..." or "generic: ...", with what the other would need. Only of a device
// that the kernels run on (device.code is not 0).
std::string gpu_path_text(const kernels::cuda::DeviceFacts& device);

}  // namespace quest::ops
