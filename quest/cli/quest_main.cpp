#include "quest/cli/quest_main.h"

#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <torch/version.h>

#include "quest/base/cpu_features.h"
#include "quest/base/version.h"
#include "quest/cli/commands.h"
#include "quest/cli_run/run_program.h"
#include "quest/kernels/cuda/stream.h"
#include "quest/ops/gpu.h"

namespace quest::cli {
namespace {

// What a report of a mistake needs; `quest doctor` says more.
std::string version_report() {
  const std::string no_gpu = ops::gpu_unusable_reason();
  return fmt::format("{}\n{:<12} {}\n{:<12} {}\n{:<12} {}\n{:<12} {}", version_text(), "torch",
                     TORCH_VERSION, "CPU kernels", isa_level_name(isa_level()), "GPU kernels",
                     kernels::cuda::compiled_with_cuda() ? kernels::cuda::compiled_architectures()
                                                         : "none: built for the CPU only",
                     "GPU", no_gpu.empty() ? ops::gpu_description() : no_gpu);
}

}  // namespace

int quest_main(int argc, char** argv) {
  CLI::App app{"QuEST: train and run language models with 1- to 8-bit weights and activations"};
  app.set_version_flag("--version", version_report,
                       "the program's version, torch's, and the kernels that run here");
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
