// The program's front door: what a mistyped command and a full output say, and their exit codes;
// what flags make of each other.
#include <array>
#include <cstdio>
#include <filesystem>
#include <string>
#include <sys/wait.h>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/testing.h"
#include "quest/model/llama_config.h"

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

TEST(Program, OneIsSingular) {
  const quest::testing::TemporaryFolder folder;
  const auto printed = [&](const std::string& arguments) {
    EXPECT_EQ(run(arguments, (folder / "out").string()).code, 0) << arguments;
    return quest::read_file(folder / "out");
  };
  EXPECT_EQ(printed("tokenizer encode bytes a"), "      97  <0x61>\n1 token, 1 byte\n");
  const std::string text = folder.write("a.txt", "In the beginning").string();
  const std::string data = printed("data " + text + " --tokenizer bytes --validation-fraction 0 " +
                                   "--out " + (folder / "data").string());
  EXPECT_NE(data.find(": 1 document of 1 file, tokenizer bytes of 257 tokens\n"), std::string::npos)
      << data;
}

TEST(Program, AFullOutputIsAnError) {
  EXPECT_EQ(run("tokenizer inspect bytes").code, 0);
  for (const char* arguments : {"tokenizer inspect bytes", "tokenizer inspect bytes --count 257"}) {
    const Outcome outcome = run(arguments, "/dev/full");
    EXPECT_EQ(outcome.code, 4) << outcome.errors;
    EXPECT_NE(outcome.errors.find("No space left on device"), std::string::npos) << outcome.errors;
  }
}

// The printed configuration is the run's: what --init gives is in it, and no link that may move.
TEST(Program, InitIsPartOfThePrintedConfiguration) {
  namespace fs = std::filesystem;
  const quest::testing::TemporaryFolder folder;
  folder.write("source/config.json",
               quest::llama_config_json({}, quest::recipe_from_name("w2a2"), "float32"));
  fs::create_directory_symlink("source", folder / "newest");
  const std::string init = "train --steps 1 --print-config --init " + (folder / "newest").string();
  const auto printed = [&](const std::string& arguments) {
    const Outcome outcome = run(arguments, (folder / "out").string());
    EXPECT_EQ(outcome.code, 0) << outcome.errors;
    return quest::read_file(folder / "out");
  };
  const std::string taken = printed(init);
  EXPECT_NE(taken.find("/source\"\n"), std::string::npos) << taken;
  EXPECT_EQ(taken.find("/newest"), std::string::npos) << taken;
  EXPECT_NE(taken.find("\nrecipe = \"w2a2\"\n"), std::string::npos) << taken;
  EXPECT_NE(printed(init + " --quant bf16").find("\nrecipe = \"bf16\"\n"), std::string::npos);
  EXPECT_EQ(run(init + "-missing").code, 4);
}

}  // namespace
