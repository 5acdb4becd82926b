// This program again as a process of its own, for commands that run others of its commands.
//
//   ChildProcess child({.arguments = {"train", "--config", "a.toml"}, .log = "a.log"});
//   while (!child.poll()) ...;
//
// A child has its own process group: signals of the terminal reach it only through its parent, and
// SIGTERM if the parent dies. Files that the parent opened without O_CLOEXEC stay open in it.
//
// Thread rules: make and poll children from one thread, the one that lives longest.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <sys/types.h>
#include <utility>
#include <vector>

namespace quest::cli {

struct ChildOptions {
  std::vector<std::string> arguments;                                 // without the program
  std::vector<std::pair<std::string, std::string>> environment = {};  // set besides its parent's
  std::filesystem::path log;  // standard output and error, appended; input is empty
};

class ChildProcess {
 public:
  // Throws kIo if the log cannot be written, kEnvironment if no process can be made.
  explicit ChildProcess(const ChildOptions& options);
  // One that still runs is told to end (SIGTERM) and waited for.
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  // Its exit code if it has ended, 128 + signal if a signal ended it. Does not wait.
  std::optional<int> poll();
  void send(int signal_number);

 private:
  pid_t pid_ = -1;
  std::optional<int> code_;
};

}  // namespace quest::cli
