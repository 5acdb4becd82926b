#include "quest/cli/quest_main.h"

#include <CLI/CLI.hpp>

#include "quest/base/version.h"
#include "quest/cli/commands.h"
#include "quest/cli_run/run_program.h"

namespace quest::cli {

int quest_main(int argc, char** argv) {
  CLI::App app{"QuEST: train and run language models with 1- to 8-bit weights and activations"};
  app.set_version_flag("--version", version_text());
  app.require_subcommand(1);
  add_data_command(app);
  add_tokenizer_command(app);
  add_train_command(app);
  add_eval_command(app);
  add_generate_command(app);
  add_quantize_command(app);
  add_selftest_command(app);
  add_plot_command(app);
  add_fit_command(app);
  add_plan_command(app);
  add_sweep_command(app);
  add_reproduce_command(app);
  add_export_command(app);
  add_verify_command(app);
  add_run_command(app);
  add_inspect_command(app);
  add_bench_command(app);
  add_doctor_command(app);
  return run_program(app, argc, argv);
}

}  // namespace quest::cli
