#include "quest/cli/child_process.h"

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <iostream>
#include <thread>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/testing.h"

namespace quest::cli {
namespace {

using quest::testing::TemporaryFolder;

// The children below are this test program, told to run this test, and by the environment what to
// do in it. Otherwise it is nothing.
TEST(Child, PlaysItsPart) {
  const char* part = std::getenv("QUEST_CHILD");
  if (part == nullptr) return;
  std::cout << "part " << part << std::endl;
  std::cerr << "an error\n";
  if (part == std::string("sleep")) std::this_thread::sleep_for(std::chrono::seconds(60));
  std::exit(7);
}

ChildOptions child(const char* part, const std::filesystem::path& log) {
  return {.arguments = {"--gtest_filter=Child.PlaysItsPart"},
          .environment = {{"QUEST_CHILD", part}},
          .log = log};
}

int code_of(ChildProcess& process) {
  for (int i = 0; i < 3000; ++i) {
    if (const std::optional<int> code = process.poll()) return *code;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return -1;
}

TEST(ChildProcess, HasItsEnvironmentLogAndExitCode) {
  const TemporaryFolder folder;
  const std::filesystem::path log = folder.write("log", "before\n");
  ChildProcess first(child("3", log));
  EXPECT_EQ(code_of(first), 7);
  EXPECT_EQ(first.poll(), 7);
  setenv("QUEST_CHILD", "parent", 1);  // which the child's own replaces
  ChildProcess second(child("4", log));
  EXPECT_EQ(code_of(second), 7);
  unsetenv("QUEST_CHILD");
  const std::string text = read_file(log);
  EXPECT_TRUE(text.starts_with("before\n"));
  EXPECT_LT(text.find("part 3"), text.find("part 4"));
  EXPECT_NE(text.find("an error"), std::string::npos);
  EXPECT_EQ(text.find("parent"), std::string::npos);
  EXPECT_QUEST_ERROR(ChildProcess(child("5", folder / "none/log")), ErrorKind::kIo, "none/log");
}

TEST(ChildProcess, EndsBySignalsAndWithItsOwner) {
  const TemporaryFolder folder;
  const std::filesystem::path log = folder / "log";
  const auto asleep = [&] { return read_file(log).find("part sleep") != std::string::npos; };
  ChildProcess process(child("sleep", log));
  EXPECT_FALSE(process.poll());
  for (int i = 0; i < 3000 && !asleep(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  process.send(SIGINT);
  EXPECT_EQ(code_of(process), 128 + SIGINT);
  process.send(SIGINT);  // to nobody
  const auto begin = std::chrono::steady_clock::now();
  { const ChildProcess left(child("sleep", log)); }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));
}

}  // namespace
}  // namespace quest::cli
