#include "quest/cli_run/run_program.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <system_error>

#include <CLI/CLI.hpp>

#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/base/nearest_name.h"
#include "quest/base/shutdown.h"

namespace quest::cli {
namespace {

// "; the nearest is '--quant'", of the command that was being read and those above it; empty for
// what is no flag or is like none.
std::string nearest_flag(const CLI::App& app, std::string_view argument) {
  if (!argument.starts_with("--")) return {};
  argument.remove_prefix(2);
  const std::string_view given = argument.substr(0, argument.find('='));
  size_t least = std::max<size_t>(2, given.size() / 3) + 1;
  std::string nearest;
  const auto look = [&](const auto& self, const CLI::App& command) -> void {
    for (const CLI::Option* option : command.get_options()) {
      for (const std::string& name : option->get_lnames()) {
        const size_t distance = key_distance(given, name);
        if (distance >= least) continue;
        least = distance;
        nearest = name;
      }
    }
    for (const CLI::App* below : command.get_subcommands()) self(self, *below);
  };
  look(look, app);
  return nearest.empty() ? "" : fmt::format("; the nearest is '--{}'", nearest);
}

// CLI11 looks for what is required before it looks for what it does not know, so that a misspelt
// command or flag would be reported only as a missing one; and it never says what was meant.
void name_unknown_arguments(const CLI::App& app, const CLI::ParseError& error) {
  const bool is_required = dynamic_cast<const CLI::RequiredError*>(&error) != nullptr;
  if (!is_required && dynamic_cast<const CLI::ExtrasError*>(&error) == nullptr) return;
  for (const std::string& argument : app.remaining(/*recurse=*/true)) {
    const std::string nearest = nearest_flag(app, argument);
    if (!is_required && nearest.empty()) continue;
    log::error("'{}' is no known command or option here{}", argument, nearest);
  }
}

// CLI11 only says that one is required.
void list_commands(const CLI::App& app, const CLI::ParseError& error) {
  if (dynamic_cast<const CLI::RequiredError*>(&error) == nullptr) return;
  if (!app.get_subcommands().empty()) return;
  std::string names;
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    names += (names.empty() ? "" : ", ") + command->get_name();
  }
  log::error("name a command: {}", names);
}

// Output is buffered: a full disk may show only now.
void flush_output() {
  QUEST_CHECK(std::fflush(stdout) == 0 && std::ferror(stdout) == 0, ErrorKind::kIo,
              "cannot write to standard output: {}", errno_text(errno));
}

}  // namespace

int run_program(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    flush_output();
    const int signal = shutdown_signal();
    return signal == 0 ? 0 : 128 + signal;
  } catch (const CLI::ParseError& error) {
    name_unknown_arguments(app, error);
    list_commands(app, error);
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

}  // namespace quest::cli
