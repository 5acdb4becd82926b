// quest-run chat in a terminal (a pseudo terminal): keys, pasted text, signals, and the terminal's
// modes afterwards.
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <poll.h>
#include <pty.h>
#include <string>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/testing.h"
#include "quest/cli_run/bench_shapes.h"
#include "quest/packed/random_model.h"
#include "quest/packed/testing_packed.h"

namespace quest {
namespace {

using testing::TemporaryFolder;

// quest-run chat with a terminal of 80 columns.
class Chat {
 public:
  explicit Chat(const std::string& model, const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments = {QUEST_RUN_PROGRAM, "chat", model, "--threads", "2"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    winsize size = {};
    size.ws_col = 80;
    size.ws_row = 24;
    child_ = forkpty(&terminal_, nullptr, nullptr, &size);
    if (child_ == 0) {
      execv(QUEST_RUN_PROGRAM, argv.data());
      _exit(127);
    }
    EXPECT_EQ(tcgetattr(terminal_, &before_), 0);
  }
  ~Chat() {
    if (child_ > 0) {
      kill(child_, SIGKILL);
      waitpid(child_, nullptr, 0);
    }
    close(terminal_);
  }
  Chat(const Chat&) = delete;
  Chat& operator=(const Chat&) = delete;

  void type(const std::string& keys) const {
    ASSERT_EQ(write(terminal_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }
  // True once `text` is written, behind what was expected before.
  bool shows(const std::string& text) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (true) {
      const size_t at = output_.find(text, seen_);
      if (at != std::string::npos) {
        seen_ = at + text.size();
        return true;
      }
      if (std::chrono::steady_clock::now() > end || !read_some()) return false;
    }
  }
  void signal(int number) const { kill(child_, number); }
  // Exit code (128 + n for a signal) after the rest of the output.
  int finish() {
    while (read_some()) {
    }
    int status = 0;
    waitpid(child_, &status, 0);
    child_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  bool has_modes_as_before() const {
    termios now = {};
    return tcgetattr(terminal_, &now) == 0 && now.c_lflag == before_.c_lflag &&
           now.c_iflag == before_.c_iflag && now.c_oflag == before_.c_oflag;
  }
  const std::string& output() const { return output_; }

 private:
  bool read_some() {
    pollfd input = {terminal_, POLLIN, 0};
    if (poll(&input, 1, 20000) <= 0) return false;
    std::array<char, 4096> part;
    const ssize_t count = read(terminal_, part.data(), part.size());
    if (count <= 0) return false;  // EIO: the program has ended
    output_.append(part.data(), static_cast<size_t>(count));
    return true;
  }

  pid_t child_ = -1;
  int terminal_ = -1;
  termios before_ = {};
  std::string output_;
  size_t seen_ = 0;
};

constexpr const char* kReady = "> \x1b[K";  // an empty line

const std::string kAnswer = "\x1b[?2004l";  // the line was taken

const std::string& small_model() {
  static const TemporaryFolder folder;
  static const std::string path =
      testing::write_small_packed_model(folder / "w4a4", "w4a4").string();
  return path;
}

TEST(ChatTerminal, EditsLinesAndKeepsThem) {
  Chat chat(small_model());
  ASSERT_TRUE(chat.shows(kReady)) << chat.output();
  EXPECT_FALSE(chat.has_modes_as_before());  // the program's own editing
  chat.type(
      "seex 4\x1b[D\x1b[D\x1b[D\x1b[3~d\x01/\x05"
      "2\r");  // left, delete, home, end
  ASSERT_TRUE(chat.shows(kAnswer + "seed 42")) << chat.output();
  ASSERT_TRUE(chat.shows(kReady)) << chat.output();
  chat.type("/seed 7\r");
  ASSERT_TRUE(chat.shows(kAnswer + "seed 7")) << chat.output();
  ASSERT_TRUE(chat.shows(kReady)) << chat.output();
  chat.type("new\x1b[A\x1b[A\r");  // two lines up
  ASSERT_TRUE(chat.shows(kAnswer + "seed 42")) << chat.output();
  ASSERT_TRUE(chat.shows(kReady)) << chat.output();
  // Pasted lines wait for Enter; a character of two columns puts the cursor two further.
  chat.type("\x1b[200~/system a\r\nb\n\x1b[201~\xE6\xBC\xA2");
  ASSERT_TRUE(
      chat.shows("/system a\xE2\x86\xB5"
                 "b\xE6\xBC\xA2\x1b[K\r\x1b[15C"))
      << chat.output();
  chat.type("\r");
  ASSERT_TRUE(chat.shows(kAnswer + "a\r\nb\xE6\xBC\xA2")) << chat.output();
  ASSERT_TRUE(chat.shows(kReady)) << chat.output();
  chat.type("x\x03");  // drops the line
  ASSERT_TRUE(chat.shows("^C\r\n")) << chat.output();
  ASSERT_TRUE(chat.shows(kReady)) << chat.output();
  chat.type("\x04");
  EXPECT_EQ(chat.finish(), 0);
  EXPECT_TRUE(chat.has_modes_as_before());
}

TEST(ChatTerminal, InterruptsEndTheAnswerOrAnEmptyLineTwice) {
  const TemporaryFolder folder;
  const std::string model = (folder / "model").string();
  write_random_packed_model(model, cli::bench_shape("30M"), recipe_from_name("w4a4"));
  Chat chat(model, {"--max-tokens", "100000"});  // far longer than this test
  ASSERT_TRUE(chat.shows(kReady)) << chat.output();
  chat.type("Hello\r");
  ASSERT_TRUE(chat.shows("Hello\x1b[K")) << chat.output();
  ASSERT_TRUE(chat.shows("\r\n")) << chat.output();
  while (!chat.has_modes_as_before()) usleep(1000);  // it answers
  chat.type("\x03");
  ASSERT_TRUE(chat.shows("interrupted")) << chat.output();
  ASSERT_TRUE(chat.shows(kReady)) << chat.output();
  chat.type("\x03");
  ASSERT_TRUE(chat.shows("once more")) << chat.output();
  ASSERT_TRUE(chat.shows(kReady)) << chat.output();
  chat.type("\x03");
  EXPECT_EQ(chat.finish(), 0);
  EXPECT_TRUE(chat.has_modes_as_before());
}

TEST(ChatTerminal, ASignalEndsItAndRestoresTheTerminal) {
  Chat chat(small_model());
  ASSERT_TRUE(chat.shows(kReady)) << chat.output();
  chat.signal(SIGTERM);
  EXPECT_EQ(chat.finish(), 128 + SIGTERM);
  EXPECT_TRUE(chat.has_modes_as_before());
}

}  // namespace
}  // namespace quest
