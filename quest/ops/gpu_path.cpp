#include "quest/ops/gpu_path.h"

#include <fmt/format.h>

namespace quest::ops {

std::string gpu_path_text(const kernels::cuda::DeviceFacts& device) {
  if (device.is_hopper_code) {
    return "Hopper's tensor cores: products of codes in int8, --backward fp8";
  }
  const char* way = "generic: products of codes as values (cuBLAS), no --backward fp8";
  if (device.major == 9 && device.minor == 0) {
    return fmt::format(
        "{}; this GPU could do more, but this build's code for it is that of {}.{}: "
        "make build PRESET=cuda ARCHITECTURES=90a",
        way, device.code / 10, device.code % 10);
  }
  return fmt::format("{}; those need a Hopper GPU (compute capability 9.0, this is {}.{})", way,
                     device.major, device.minor);
}

}  // namespace quest::ops
