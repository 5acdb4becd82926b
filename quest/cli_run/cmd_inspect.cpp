// quest-run inspect: what a packed model is made of, to the byte.
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/cli_run/commands.h"
#include "quest/packed/packed_report.h"

namespace quest::cli {

void add_run_inspect_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("inspect", "what a packed model is made of, to the byte");
  struct Arguments {
    std::string model;
    bool tensors = false;
  };
  auto arguments = std::make_shared<Arguments>();
  command->add_option("MODEL", arguments->model, "folder of a packed model")->required();
  command->add_flag("--tensors", arguments->tensors, "also a line for each tensor");
  command->callback([arguments] {
    const PackedModel model = open_packed_model(arguments->model);
    fmt::print("{}", packed_report(model, arguments->tensors));
  });
}

}  // namespace quest::cli
