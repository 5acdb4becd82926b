#include "quest/cli/child_process.h"

#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "quest/base/error.h"

extern char** environ;

namespace quest::cli {
namespace {

constexpr const char* kSelf = "/proc/self/exe";
constexpr int kNotStarted = 127;

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> out;
  for (std::string& text : texts) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

std::vector<std::string> environment_with(
    const std::vector<std::pair<std::string, std::string>>& added) {
  std::vector<std::string> out;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    bool replaced = false;
    for (const auto& [name, value] : added) replaced |= text.starts_with(name + "=");
    if (!replaced) out.push_back(text);
  }
  for (const auto& [name, value] : added) out.push_back(name + "=" + value);
  return out;
}

// Between fork and exec: nothing that allocates or locks.
[[noreturn]] void become(char** argv, char** envp, int log, int input, pid_t parent,
                         const sigset_t& mask) {
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (getppid() != parent) _exit(kNotStarted);  // it died before this one could be told
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGTERM, SIG_DFL);
  if (dup2(input, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0) _exit(kNotStarted);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  execve(kSelf, argv, envp);
  _exit(kNotStarted);
}

class File {
 public:
  File(const char* path, int flags) : fd_(open(path, flags | O_CLOEXEC, 0666)) {
    QUEST_CHECK(fd_ >= 0, ErrorKind::kIo, "cannot open {}: {}", path, errno_text(errno));
  }
  ~File() { close(fd_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

ChildProcess::ChildProcess(const ChildOptions& options) {
  std::vector<std::string> arguments = {"quest"};
  arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
  std::vector<std::string> environment = environment_with(options.environment);
  const std::vector<char*> argv = pointers(arguments), envp = pointers(environment);
  const File log(options.log.c_str(), O_WRONLY | O_CREAT | O_APPEND);
  const File input("/dev/null", O_RDONLY);
  // A signal that comes before exec must not be taken by this process's handlers in the child.
  sigset_t both, mask;
  sigemptyset(&both);
  sigaddset(&both, SIGINT);
  sigaddset(&both, SIGTERM);
  sigprocmask(SIG_BLOCK, &both, &mask);
  const pid_t parent = getpid();
  pid_ = fork();
  if (pid_ == 0) {
    become(const_cast<char**>(argv.data()), const_cast<char**>(envp.data()), log.fd(), input.fd(),
           parent, mask);
  }
  const int reason = errno;
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  QUEST_CHECK(pid_ > 0, ErrorKind::kEnvironment, "cannot start another process: {}",
              errno_text(reason));
}

ChildProcess::~ChildProcess() {
  if (poll()) return;
  send(SIGTERM);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

std::optional<int> ChildProcess::poll() {
  if (code_) return code_;
  int status = 0;
  const pid_t ended = waitpid(pid_, &status, WNOHANG);
  if (ended == 0 || (ended < 0 && errno == EINTR)) return std::nullopt;
  QUEST_CHECK(ended == pid_, ErrorKind::kEnvironment, "cannot wait for process {}: {}", pid_,
              errno_text(errno));
  code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return code_;
}

void ChildProcess::send(int signal_number) {
  if (!code_) kill(pid_, signal_number);
}

}  // namespace quest::cli
