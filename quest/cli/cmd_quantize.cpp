// quest quantize: a quantizer applied to the tensors of a file, with errors and code statistics.
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/shutdown.h"
#include "quest/cli/commands.h"
#include "quest/cli/quantize_file.h"

namespace quest::cli {
namespace {

struct QuantizeArguments {
  QuantizeFileOptions options;
  std::string quantizer;
  std::string side = "weight";
};

void run_quantize(QuantizeArguments& arguments) {
  install_shutdown_handlers();
  arguments.options.spec = spec_of_argument(arguments.quantizer, arguments.side == "activation");
  const std::vector<QuantizeReport> reports = quantize_file(arguments.options);
  fmt::print("quantizer {}\n\n{}", to_string(arguments.options.spec),
             format_quantize_report(reports));
  fmt::print("\nwrote {}\n", arguments.options.output.string());
}

}  // namespace

void add_quantize_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("quantize", "apply a quantizer to tensors; report errors, write codes");
  auto arguments = std::make_shared<QuantizeArguments>();
  QuantizeFileOptions& options = arguments->options;
  command->add_option("IN", options.input, "a safetensors file")->required();
  command
      ->add_option("--quant", arguments->quantizer,
                   "a recipe (w4a4, w1a1, fp4, int4_4of8, ...) or one quantizer spelled out "
                   "(int4.hadamard.trust, int1.hadamard.clip1.3, ...)")
      ->required();
  command->add_option("--side", arguments->side, "which side of a recipe")
      ->check(CLI::IsMember({"weight", "activation"}))
      ->capture_default_str();
  command->add_option("--tensors", options.pattern, "shell pattern of tensor names")
      ->capture_default_str();
  command->add_option("--grad", options.gradient,
                      "tensor in IN taken as the gradient of each tensor's values, in their basis");
  command->add_option("--out", options.output, "the safetensors file to write")->required();
  command->footer(
      "For each tensor NAME (rows along the last dimension) the output holds NAME.values (F32, in "
      "the\n"
      "basis of NAME), NAME.values_rotated (with the Hadamard transform: scale * number), "
      "NAME.codes (I8),\n"
      "NAME.scales (F32, per row), NAME.mask (U8, bit k%8 of byte k/8) and, with --grad, "
      "NAME.grad.");
  command->callback([arguments] { run_quantize(*arguments); });
}

}  // namespace quest::cli
