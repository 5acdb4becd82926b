// The subcommands of `quest`. Each adds itself with its options and a callback that does the work
// and throws quest::Error; main.cpp catches once and chooses the exit code.
#pragma once

namespace CLI {
class App;
}

namespace quest::cli {

void add_data_command(CLI::App& app);       // text files -> token files
void add_tokenizer_command(CLI::App& app);  // train a tokenizer
void add_train_command(CLI::App& app);
void add_eval_command(CLI::App& app);
void add_generate_command(CLI::App& app);
void add_quantize_command(CLI::App& app);
void add_selftest_command(CLI::App& app);
void add_plot_command(CLI::App& app);
void add_figure_commands(CLI::App& plot_command);  // the paper's figures, below `quest plot`
void add_fit_command(CLI::App& app);               // scaling law of finished runs
void add_plan_command(CLI::App& app);              // format, size and tokens for a budget
void add_sweep_command(CLI::App& app);             // many runs over settings
void add_reproduce_command(CLI::App& app);         // the paper's experiments
void add_export_command(CLI::App& app);            // to packed or Hugging Face folders
void add_verify_command(CLI::App& app);            // a packed model against its checkpoint
void add_inspect_command(CLI::App& app);           // sizes of a packed model
void add_bench_command(CLI::App& app);             // speed on a GPU
void add_run_command(CLI::App& app);               // packed models, as quest-run, also on a GPU
void add_doctor_command(CLI::App& app);

}  // namespace quest::cli
