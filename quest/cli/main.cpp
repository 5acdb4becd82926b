// quest: from raw text to a trained low-bit Llama. One catch for all errors, exit code by kind.
#include <cerrno>
#include <cstdio>
#include <exception>
#include <string>
#include <system_error>

#include <CLI/CLI.hpp>

#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/base/shutdown.h"
#include "quest/base/version.h"
#include "quest/cli/commands.h"

namespace {

using namespace quest;

// CLI11 looks for what is required before it looks for what it does not know, so that a misspelt
// command or flag would be reported only as a missing one.
void name_unknown_arguments(const CLI::App& app, const CLI::ParseError& error) {
  if (dynamic_cast<const CLI::RequiredError*>(&error) == nullptr) return;
  for (const std::string& argument : app.remaining(/*recurse=*/true)) {
    log::error("'{}' is no known command or option here", argument);
  }
}

// Output is buffered: a full disk may show only now.
void flush_output() {
  QUEST_CHECK(std::fflush(stdout) == 0 && std::ferror(stdout) == 0, ErrorKind::kIo,
              "cannot write to standard output: {}", errno_text(errno));
}

}  // namespace

int main(int argc, char** argv) {
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
  cli::add_export_command(app);
  cli::add_inspect_command(app);
  cli::add_doctor_command(app);
  try {
    app.parse(argc, argv);
    flush_output();
    const int signal = shutdown_signal();
    return signal == 0 ? 0 : 128 + signal;
  } catch (const CLI::ParseError& error) {
    name_unknown_arguments(app, error);
    const int code = app.exit(error);
    return code == 0 ? 0 : exit_code(ErrorKind::kUsage);
  } catch (const Error& error) {
    log::error("{}", error.what());
    return exit_code(error.kind());
  } catch (const StoppedBySignal& stop) {
    log::warn("{}", stop.what());
    return 128 + stop.signal_number();
  } catch (const std::system_error& error) {  // fmt::print: standard output takes no more
    log::error("{}", error.what());
    return exit_code(ErrorKind::kIo);
  } catch (const std::bad_alloc&) {
    log::error("out of memory");
    return exit_code(ErrorKind::kEnvironment);
  } catch (const std::exception& error) {
    log::error("unexpected error: {}", error.what());
    return 1;
  }
}
