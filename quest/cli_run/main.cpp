// quest-run: packed models on a CPU.
#include <memory>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/cpu_features.h"
#include "quest/base/version.h"
#include "quest/cli_run/commands.h"
#include "quest/cli_run/run_program.h"

int main(int argc, char** argv) {
  using namespace quest;
  CLI::App app{"quest-run: run packed low-bit language models on a CPU"};
  app.set_version_flag(
      "--version",
      [] {
        return fmt::format("{}\nCPU kernels  {}", version_text(), isa_level_name(isa_level()));
      },
      "the program's version and the kernels that run here");
  app.require_subcommand(1);
  app.fallthrough();  // --threads and --print-plans may also follow the command
  const auto options = std::make_shared<cli::RunOptions>();
  cli::add_run_options(app, *options);
  cli::add_run_generate_command(app, options);
  cli::add_run_chat_command(app, options);
  cli::add_run_eval_command(app, options);
  cli::add_run_bench_command(app, options);
  cli::add_run_inspect_command(app);
  cli::add_run_doctor_command(app, options);
  return cli::run_program(app, argc, argv);
}
