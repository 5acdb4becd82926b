// The subcommands of `quest-run`. Each adds itself with its options and a callback that does the
// work and throws quest::Error; run_program catches once and chooses the exit code.
#pragma once

#include <memory>

#include "quest/cli_run/engine_options.h"

namespace quest::cli {

using SharedOptions = std::shared_ptr<const RunOptions>;

void add_run_generate_command(CLI::App& app, SharedOptions options);
void add_run_chat_command(CLI::App& app, SharedOptions options);
void add_run_eval_command(CLI::App& app, SharedOptions options);
void add_run_bench_command(CLI::App& app, SharedOptions options);
void add_run_inspect_command(CLI::App& app);
void add_run_doctor_command(CLI::App& app, SharedOptions options);

}  // namespace quest::cli
