// Prints name, type, shape and root mean square of each tensor of a safetensors file.
//
//   list_tensors model.safetensors
#include <cmath>
#include <cstdio>
#include <string>

#include "quest/base/error.h"
#include "quest/base/safetensors.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: list_tensors FILE.safetensors\n");
    return quest::exit_code(quest::ErrorKind::kUsage);
  }
  try {
    const quest::SafetensorsReader file(argv[1]);  // proves the whole header before it returns
    for (const quest::TensorView& tensor : file.tensors()) {
      std::string shape;
      for (const int64_t size : tensor.shape) {
        shape += (shape.empty() ? "" : " x ") + std::to_string(size);
      }
      double power = 0;
      for (const float value : tensor.to_float()) power += double{value} * value;
      const double count = static_cast<double>(tensor.numel());
      std::printf("%-48s %-5s %-16s rms %.6g\n", tensor.name.c_str(),
                  std::string(quest::dtype_name(tensor.dtype)).c_str(), shape.c_str(),
                  count > 0 ? std::sqrt(power / count) : 0.0);
    }
  } catch (const quest::Error& error) {
    std::fprintf(stderr, "list_tensors: %s\n", error.what());
    return quest::exit_code(error.kind());
  }
}
