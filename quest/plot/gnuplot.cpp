#include "quest/plot/gnuplot.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"

extern char** environ;

namespace quest::plot {
namespace {

namespace fs = std::filesystem;

bool is_program(const fs::path& path) {
  std::error_code ignored;
  return fs::is_regular_file(path, ignored) && access(path.c_str(), X_OK) == 0;
}

// Length of the UTF-8 sequence that text starts with, 0 if it is none (RFC 3629).
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  if (lead < 0xc2 || lead > 0xf4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  const bool overlong = (lead == 0xe0 && byte(1) < 0xa0) || (lead == 0xf0 && byte(1) < 0x90);
  const bool surrogate = lead == 0xed && byte(1) >= 0xa0;
  const bool beyond = lead == 0xf4 && byte(1) >= 0x90;
  return overlong || surrogate || beyond ? 0 : length;
}

// A temporary folder beside the output, so that the rename stays in one file system.
class TemporaryBeside {
 public:
  explicit TemporaryBeside(const fs::path& output) {
    const fs::path parent = output.has_parent_path() ? output.parent_path() : fs::path(".");
    std::string pattern = (parent / ".quest-plot-XXXXXX").string();
    QUEST_CHECK(mkdtemp(pattern.data()) != nullptr, ErrorKind::kIo, "cannot write to {}: {}",
                parent.string(), errno_text(errno));
    path_ = pattern;
  }
  ~TemporaryBeside() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryBeside(const TemporaryBeside&) = delete;
  TemporaryBeside& operator=(const TemporaryBeside&) = delete;
  fs::path operator/(const char* name) const { return path_ / name; }

 private:
  fs::path path_;
};

// Runs `gnuplot -d script` with stdout and stderr in a file. Returns the status of waitpid.
int spawn_gnuplot(const fs::path& program, const fs::path& script, const fs::path& messages) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, messages.c_str(), O_WRONLY | O_CREAT | O_TRUNC,
                                   0600);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  std::string name = program.string(), option = "-d", file = script.string();
  char* const arguments[] = {name.data(), option.data(), file.data(), nullptr};
  pid_t child = 0;
  const int error = posix_spawn(&child, name.c_str(), &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  QUEST_CHECK(error == 0, ErrorKind::kEnvironment, "cannot start {}: {}", name, errno_text(error));
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    QUEST_CHECK(errno == EINTR, ErrorKind::kEnvironment, "waiting for {}: {}", name,
                errno_text(errno));
  }
  return status;
}

}  // namespace

fs::path find_gnuplot() {
  if (const char* chosen = std::getenv("QUEST_GNUPLOT"); chosen != nullptr && *chosen != '\0') {
    return is_program(chosen) ? fs::path(chosen) : fs::path();
  }
  const char* variable = std::getenv("PATH");
  std::string_view folders = variable == nullptr ? "" : variable;
  while (!folders.empty()) {
    const size_t end = std::min(folders.find(':'), folders.size());
    const fs::path candidate = fs::path(folders.substr(0, end)) / "gnuplot";
    if (end > 0 && is_program(candidate)) return candidate;
    folders.remove_prefix(std::min(end + 1, folders.size()));
  }
  return {};
}

fs::path require_gnuplot() {
  fs::path program = find_gnuplot();
  QUEST_CHECK(!program.empty(), ErrorKind::kEnvironment,
              "gnuplot was not found in PATH{}; install it (Debian, Ubuntu: apt-get install "
              "gnuplot-nox) or set QUEST_GNUPLOT to its path",
              std::getenv("QUEST_GNUPLOT") == nullptr ? "" : " or at QUEST_GNUPLOT");
  return program;
}

std::string gnuplot_quote(std::string_view text) {
  std::string quoted = "'";
  while (!text.empty()) {
    const size_t length = utf8_length(text);
    const auto lead = static_cast<unsigned char>(text[0]);
    if (length == 0) {
      quoted += "\xef\xbf\xbd";  // U+FFFD, the replacement character
    } else if (lead < 0x20 || lead == 0x7f) {
      quoted += ' ';
    } else if (lead == '\'') {
      quoted += "''";
    } else {
      quoted += text.substr(0, length);
    }
    text.remove_prefix(std::max<size_t>(length, 1));
  }
  return quoted + "'";
}

void run_gnuplot(std::string_view script, const fs::path& output) {
  const fs::path program = require_gnuplot();
  const TemporaryBeside temporary(output);
  const fs::path picture = temporary / "picture", script_file = temporary / "script.gp",
                 messages = temporary / "messages";
  write_file_atomically(
      script_file, fmt::format("quest_output = {}\n{}", gnuplot_quote(picture.string()), script));
  const int status = spawn_gnuplot(program, script_file, messages);
  const bool ended_well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  std::error_code no_picture;
  const bool drawn = fs::file_size(picture, no_picture) > 0 && !no_picture;
  QUEST_CHECK(ended_well && drawn, ErrorKind::kEnvironment,
              "{} did not draw {} (wait status {}): {}", program.string(), output.string(), status,
              read_file(messages));
  std::error_code error;
  fs::rename(picture, output, error);
  QUEST_CHECK(!error, ErrorKind::kIo, "cannot write {}: {}", output.string(), error.message());
}

}  // namespace quest::plot
