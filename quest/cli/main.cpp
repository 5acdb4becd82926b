// quest: from raw text to a trained low-bit Llama. One catch for all errors, exit code by kind.
#include <cstdio>
#include <exception>

#include <CLI/CLI.hpp>

#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/base/shutdown.h"
#include "quest/base/version.h"
#include "quest/cli/commands.h"

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
  cli::add_doctor_command(app);
  try {
    app.parse(argc, argv);
    const int signal = shutdown_signal();
    return signal == 0 ? 0 : 128 + signal;
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : exit_code(ErrorKind::kUsage);
  } catch (const Error& error) {
    log::error("{}", error.what());
    return exit_code(error.kind());
  } catch (const std::bad_alloc&) {
    log::error("out of memory");
    return exit_code(ErrorKind::kEnvironment);
  } catch (const std::exception& error) {
    log::error("unexpected error: {}", error.what());
    return 1;
  }
}
