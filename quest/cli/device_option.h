// Where a command computes: --device of those that use LibTorch.
//
//   add_device_option(*command, arguments->device);
//   LlamaModel model(config, recipe, compute, use_device(arguments->device));
#pragma once

#include <string>

#include <c10/core/Device.h>

namespace CLI {
class App;
}

namespace quest::cli {

// cpu or cuda. `device` must outlive the command.
void add_device_option(CLI::App& command, std::string& device);

// Makes the device ready, before its first use. Throws kEnvironment with the reason if this build
// or this machine does not have it.
at::Device use_device(const std::string& device);

}  // namespace quest::cli
