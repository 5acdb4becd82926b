#include "quest/cli/device_option.h"

#include <CLI/CLI.hpp>

#include "quest/train/gpu_step.h"

namespace quest::cli {

void add_device_option(CLI::App& command, std::string& device) {
  command.add_option("--device", device, "where to compute")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
}

at::Device use_device(const std::string& device) {
  if (device == "cpu") return at::kCPU;
  train::prepare_gpu(/*deterministic=*/false);
  return at::kCUDA;
}

}  // namespace quest::cli
