// The program quest-run from outside: it writes, evaluates, measures and chats with packed models,
// says what is wrong with exit codes by kind, needs no torch and is small.
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/cpu_features.h"
#include "quest/base/json_util.h"
#include "quest/base/testing_command.h"
#include "quest/packed/testing_packed.h"

namespace quest {
namespace {

using testing::run_command;
using testing::TemporaryFolder;
using Outcome = testing::CommandResult;

Outcome run(const std::string& arguments, const std::string& input = "") {
  return run_command("\"" QUEST_RUN_PROGRAM "\" " + arguments, input);
}

// A model that all tests of this file use.
const std::string& model() {
  static const TemporaryFolder folder;
  static const std::string path =
      testing::write_small_packed_model(folder / "w4a4", "w4a4").string();
  return path;
}

TEST(QuestRun, WritesTheSameTextAtEveryLevelAndThreadCount) {
  const std::string arguments =
      "generate " + model() + " --prompt Hello --max-tokens 40 --seed 3 --ignore-end";
  const Outcome first = run(arguments);
  ASSERT_EQ(first.code, 0) << first.errors;
  EXPECT_EQ(first.output.substr(0, 5), "Hello");
  EXPECT_GT(first.output.size(), 20u);
  EXPECT_NE(first.errors.find("tokens/s"), std::string::npos) << first.errors;
  for (const IsaLevel level : available_isa_levels()) {
    const std::string with = fmt::format("QUEST_ISA={} ", isa_level_name(level));
    const Outcome other =
        run_command(with + "\"" QUEST_RUN_PROGRAM "\" " + arguments + " --threads 3 --chunk 2");
    EXPECT_EQ(other.output, first.output) << isa_level_name(level);
  }
  const Outcome stopped =
      run(arguments + " --no-echo --stop " + fmt::format("'{}'", first.output.substr(9, 1)));
  EXPECT_LT(stopped.output.size(), first.output.size() - 5);
  EXPECT_NE(run(arguments + " --print-plans").errors.find("qkv_proj"), std::string::npos);
}

TEST(QuestRun, EvaluatesTextTokensAndChoices) {
  const TemporaryFolder folder;
  const std::string text = folder.write("a.txt", std::string(300, 'x') + " and more").string();
  const std::string json = (folder / "out.json").string();
  const Outcome outcome = run("eval " + model() + " " + text + " --json " + json);
  ASSERT_EQ(outcome.code, 0) << outcome.errors;
  EXPECT_NE(outcome.output.find("perplexity"), std::string::npos) << outcome.output;
  const Json result = read_json(json);
  EXPECT_EQ(result["tokens"], 309);  // with the end mark
  EXPECT_GT(result["loss"].get<double>(), 0);
  EXPECT_EQ(result["recipe"], "w4a4");
  const std::string choices =
      folder.write("c.jsonl", R"({"ctx": "a b", "endings": ["c", "d e"], "label": 1})").string();
  const Outcome chosen =
      run("eval " + model() + " --choices " + choices + " --choice-format plain");
  ASSERT_EQ(chosen.code, 0) << chosen.errors;
  EXPECT_NE(chosen.output.find("acc_norm"), std::string::npos) << chosen.output;
}

TEST(QuestRun, ChatsAndObeysCommands) {
  const Outcome outcome =
      run("chat " + model() + " --max-tokens 6 --temperature 0 --ignored", "Hi\n");
  EXPECT_EQ(outcome.code, 2);
  const Outcome talk = run("chat " + model() + " --max-tokens 6 --temperature 0",
                           "Hi\n/stats\n/frob\n/system Be kind.\n/exit\nnever read\n");
  ASSERT_EQ(talk.code, 0) << talk.errors;
  EXPECT_NE(talk.output.find("Be kind."), std::string::npos) << talk.output;
  EXPECT_NE(talk.output.find("wrote"), std::string::npos) << talk.output;
  EXPECT_NE(talk.errors.find("/frob"), std::string::npos) << talk.errors;
}

TEST(QuestRun, InspectsMeasuresAndKnowsTheMachine) {
  const Outcome inspected = run("inspect " + model());
  ASSERT_EQ(inspected.code, 0) << inspected.errors;
  EXPECT_NE(inspected.output.find("w4a4"), std::string::npos) << inspected.output;
  const TemporaryFolder folder;
  const std::string json = (folder / "bench.json").string();
  const Outcome bench = run("bench " + model() + " --prompt-tokens 16 --tokens 8 --batch 2 " +
                            "--repeats 1 --json " + json);
  ASSERT_EQ(bench.code, 0) << bench.errors;
  EXPECT_GT(read_json(json)["decode_tokens_per_second"].get<double>(), 0);
  const Outcome doctor = run("doctor --threads 1");
  ASSERT_EQ(doctor.code, 0) << doctor.errors;
  EXPECT_NE(doctor.output.find("product, w1a1"), std::string::npos) << doctor.output;
}

TEST(QuestRun, SaysWhatIsWrong) {
  const auto expect = [](const std::string& arguments, int code, const std::string& text) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, code) << arguments << "\n" << outcome.errors;
    EXPECT_NE(outcome.errors.find(text), std::string::npos) << outcome.errors;
  };
  expect("frob", 2, "'frob'");
  expect("generate", 2, "MODEL");
  expect("generate " + model() + "-missing", 4, "-missing");
  expect("generate " + model() + " --temperature -1", 2, "temperature is -1");
  expect("generate " + model() + " --logit-bias 5", 2, "TOKEN=NUMBER");
  expect("generate " + model() + " --prompt a --prompt-file b", 2, "exclude each other");
  expect("generate " + model() + " --context 100", 2, "rope_scaling");
  expect("generate " + model() + " --prompt " + std::string(64, 'a'), 2, "64 tokens");
  expect("generate " + model() + " --threads 100000", 2, "threads");
  expect("eval " + model(), 2, "exactly one");
  expect("bench", 2, "--shape");
  expect("bench --shape 7M", 2, "'7M'");
  // One flipped byte of the codes.
  const TemporaryFolder folder;
  std::filesystem::copy(model(), folder / "bad");
  std::string file = read_file(folder / "bad/model.safetensors");
  file[file.size() / 2] = static_cast<char>(file[file.size() / 2] ^ 1);
  folder.write("bad/model.safetensors", file);
  expect("generate " + (folder / "bad").string(), 3, "checksum");
}

TEST(QuestRun, AFullOutputIsAnErrorAndASignalIsAnExitCode) {
  const std::string arguments = "generate " + model() + " --prompt a --max-tokens 5";
  EXPECT_EQ(run(arguments + " >/dev/full").code, 4);
  const std::string loop = "timeout -s TERM 1 \"" QUEST_RUN_PROGRAM "\" bench " + model() +
                           " --prompt-tokens 32 --tokens 32 --repeats 1000 --batch 64";
  EXPECT_EQ(run_command("sh -c '" + loop + "; exit $?'").code, 124);  // timeout's own: it ended
}

TEST(QuestRun, NeedsNoTorchAndIsSmall) {
  const Outcome libraries = run_command("ldd \"" QUEST_RUN_PROGRAM "\"");
  ASSERT_EQ(libraries.code, 0) << libraries.errors;
  for (const char* name : {"libtorch", "libc10", "not found"}) {
    EXPECT_EQ(libraries.output.find(name), std::string::npos) << libraries.output;
  }
  if (QUEST_IS_SANITIZED) GTEST_SKIP() << "sanitizers make the program large";
  const TemporaryFolder folder;
  const std::string stripped = (folder / "quest-run").string();
  const Outcome strip = run_command("strip -o " + stripped + " \"" QUEST_RUN_PROGRAM "\"");
  ASSERT_EQ(strip.code, 0) << strip.errors;
  EXPECT_LT(std::filesystem::file_size(stripped), 8u << 20);
}

TEST(QuestRun, TheExampleInCRuns) {
  const Outcome outcome = run_command("\"" QUEST_RUN_EXAMPLE "\" " + model() + " 'And God' 12");
  ASSERT_EQ(outcome.code, 0) << outcome.errors;
  const Outcome program =
      run("generate " + model() + " --prompt 'And God' --max-tokens 12 --temperature 0");
  EXPECT_EQ(outcome.output, program.output);
  EXPECT_EQ(run_command("\"" QUEST_RUN_EXAMPLE "\"").code, 2);
}

}  // namespace
}  // namespace quest
