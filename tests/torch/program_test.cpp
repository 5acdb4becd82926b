// The program's front door: what a mistyped command and a full output say, and their exit codes.
#include <array>
#include <cstdio>
#include <string>
#include <sys/wait.h>

#include <gtest/gtest.h>

namespace {

struct Outcome {
  int code = -1;
  std::string errors;
};

// Runs `quest ARGUMENTS` in a shell and collects its stderr; stdout goes to `output`.
Outcome run(const std::string& arguments, const std::string& output = "/dev/null") {
  const std::string command =
      std::string("\"" QUEST_PROGRAM "\" ") + arguments + " 2>&1 >" + output + " </dev/null";
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return {};
  Outcome outcome;
  std::array<char, 256> part;
  while (fgets(part.data(), part.size(), pipe) != nullptr) outcome.errors += part.data();
  const int status = pclose(pipe);
  if (WIFEXITED(status)) outcome.code = WEXITSTATUS(status);
  return outcome;
}

TEST(Program, NamesTheCommandThatItDoesNotKnow) {
  for (const char* arguments : {"frob", "tokenizer frob"}) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments;
    EXPECT_NE(outcome.errors.find("'frob'"), std::string::npos) << outcome.errors;
  }
}

TEST(Program, AFullOutputIsAnError) {
  EXPECT_EQ(run("tokenizer inspect bytes").code, 0);
  for (const char* arguments : {"tokenizer inspect bytes", "tokenizer inspect bytes --count 257"}) {
    const Outcome outcome = run(arguments, "/dev/full");
    EXPECT_EQ(outcome.code, 4) << outcome.errors;
    EXPECT_NE(outcome.errors.find("No space left on device"), std::string::npos) << outcome.errors;
  }
}

}  // namespace
