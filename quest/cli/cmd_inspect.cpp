// quest inspect: what a packed model is made of, to the byte.
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/cli/commands.h"
#include "quest/packed/packed_report.h"

namespace quest::cli {

void add_inspect_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("inspect", "sizes of a packed model to the byte; bits per parameter");
  struct Arguments {
    std::string model;
    bool tensors = false;
  };
  auto arguments = std::make_shared<Arguments>();
  command->add_option("PACKED", arguments->model, "a packed model's folder")->required();
  command->add_flag("--tensors", arguments->tensors, "every tensor of the file");
  command->callback([arguments] {
    fmt::print("{}", packed_report(PackedModel(arguments->model), arguments->tensors));
  });
}

}  // namespace quest::cli
