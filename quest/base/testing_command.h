// Help for tests: running programs. Tests only; header only.
//
//   const testing::CommandResult r = testing::run_command("\"" QUEST_PROGRAM "\" doctor");
//   r.code; r.output; r.errors;
#pragma once

#include <array>
#include <cstdio>
#include <string>
#include <sys/wait.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/testing.h"

namespace quest::testing {

struct CommandResult {
  int code = -1;               // -1: ended by a signal, or not started
  std::string output, errors;  // stdout, stderr
};

// Runs a command in a shell and waits for it; stdin is `input`.
inline CommandResult run_command(const std::string& command, const std::string& input = "") {
  const TemporaryFolder folder;
  const std::string in = folder.write("in", input).string();
  const std::string errors = folder.write("errors", "").string();
  FILE* pipe = popen(("{ " + command + "\n} 2>" + errors + " <" + in).c_str(), "r");
  if (pipe == nullptr) return {};
  CommandResult result;
  std::array<char, 4096> part;
  for (size_t n; (n = fread(part.data(), 1, part.size(), pipe)) > 0;) {
    result.output.append(part.data(), n);
  }
  const int status = pclose(pipe);
  if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
  result.errors = read_file(errors);
  return result;
}

}  // namespace quest::testing
