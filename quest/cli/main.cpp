// quest: from raw text to a trained low-bit Llama.
#include <CLI/CLI.hpp>

#include "quest/base/version.h"
#include "quest/cli/commands.h"
#include "quest/cli_run/run_program.h"

int main(int argc, char** argv) {
  using namespace quest;
  CLI::App app{"QuEST: train and run language models with 1- to 8-bit weights and activations"};
  app.set_version_flag("--version", version_text());
  app.require_subcommand(1);
  cli::add_data_command(app);
  cli::add_tokenizer_command(app);
  cli::add_train_command(app);
  cli::add_eval_command(app);
  cli::add_generate_command(app);
  cli::add_quantize_command(app);
  cli::add_selftest_command(app);
  cli::add_plot_command(app);
  cli::add_fit_command(app);
  cli::add_plan_command(app);
  cli::add_sweep_command(app);
  cli::add_export_command(app);
  cli::add_verify_command(app);
  cli::add_inspect_command(app);
  cli::add_doctor_command(app);
  return cli::run_program(app, argc, argv);
}
