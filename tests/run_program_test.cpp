// The program quest-run from outside: it writes, evaluates, measures and chats with packed models,
// says what is wrong with exit codes by kind, needs no torch and is small.
#include <algorithm>
#include <array>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/cpu_features.h"
#include "quest/base/json_util.h"
#include "quest/base/testing_command.h"
#include "quest/cli_run/bench_shapes.h"
#include "quest/packed/random_model.h"
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

TEST(QuestRun, BiasesAndStopsAreRepeatable) {
  // 97 is 'a', 98 'b', which is all that is written.
  const std::string bias = " --max-tokens 8 --logit-bias 97=inf";
  EXPECT_EQ(run("generate " + model() + bias).code, 2);
  const std::string only_b = " --max-tokens 8 --logit-bias 98=1e6 --logit-bias 97=-inf ";
  const Outcome written = run("generate" + only_b + model() + " --prompt H");
  EXPECT_EQ(written.output, "Hbbbbbbbb\n") << written.errors;
  // The option takes one text at a time, so MODEL may follow; and the first that comes ends it.
  const Outcome stopped = run("generate" + only_b + "--prompt H --stop xyz --stop bbb " + model());
  EXPECT_EQ(stopped.output, "H\n") << stopped.errors;
  const Outcome talk = run("chat" + only_b + model(), "Hi\n");
  EXPECT_EQ(talk.code, 0) << talk.errors;
  EXPECT_NE(talk.output.find("bbbbbbbb"), std::string::npos) << talk.output;
}

// The same text as with a config.json that says it, without that one's warning.
TEST(QuestRun, RopeScalingLengthensTheContext) {
  const TemporaryFolder folder;
  std::filesystem::copy(model(), folder / "m");
  const std::string prompt = " --prompt " + std::string(100, 'a') + " --max-tokens 8 --ignore-end";
  for (const std::string type : {"linear", "dynamic", "llama3"}) {
    Json config = read_json(std::filesystem::path(model()) / "config.json");
    config["rope_scaling"] = {{"rope_type", type}, {"factor", 2}};
    if (type == "llama3") {
      config["rope_scaling"]["low_freq_factor"] = 1;
      config["rope_scaling"]["high_freq_factor"] = 4;
      config["rope_scaling"]["original_max_position_embeddings"] = 64;
    }
    if (type != "dynamic") config["max_position_embeddings"] = 128;
    folder.write("m/config.json", config.dump());
    const std::string edited = (folder / "m").string();
    const Outcome want = run("generate " + edited + prompt + " --context 128");
    const Outcome got = run("generate " + model() + prompt + " --rope-scaling " + type + ":2");
    ASSERT_EQ(got.code, 0) << got.errors;
    EXPECT_EQ(got.output, want.output) << type << want.errors;
    EXPECT_EQ(got.errors.find("config.json"), std::string::npos) << got.errors;
    EXPECT_NE(got.errors.find("a context of 128 tokens"), std::string::npos) << got.errors;
    EXPECT_EQ(run("generate " + edited + prompt + " --rope-scaling linear:2").code, 2);
  }
  const std::string text = folder.write("a.txt", std::string(300, 'x')).string();
  EXPECT_EQ(run("eval " + model() + " " + text + " --rope-scaling dynamic:2").code, 0);
  EXPECT_EQ(run("bench " + model() +
                " --rope-scaling linear:2 --prompt-tokens 100 --tokens 8 "
                "--repeats 1")
                .code,
            0);
}

TEST(QuestRun, InspectsMeasuresAndKnowsTheMachine) {
  const Outcome inspected = run("inspect " + model());
  ASSERT_EQ(inspected.code, 0) << inspected.errors;
  EXPECT_NE(inspected.output.find("w4a4"), std::string::npos) << inspected.output;
  const TemporaryFolder folder;
  const std::string json = (folder / "bench.json").string();
  const Outcome bench = run("bench " + model() + " --prompt-tokens 16 --tokens 8 --batch 2 " +
                            "--repeats 1 --depth 0 --measure --json " + json);
  ASSERT_EQ(bench.code, 0) << bench.errors;
  EXPECT_NE(bench.output.find("% of memory"), std::string::npos) << bench.output;
  const auto measured = read_json(json);
  EXPECT_GT(measured["decode_tokens_per_second"].get<double>(), 0);
  EXPECT_EQ(measured["depth"], 0);
  EXPECT_GT(measured["bytes_per_step"].get<int64_t>(), 0);
  EXPECT_GT(measured["memory_bytes_per_second"].get<double>(), 0);
  // Without numbers: what the context of 64 holds.
  const Outcome usual = run("bench " + model() + " --repeats 1");
  EXPECT_EQ(usual.code, 0) << usual.errors;
  EXPECT_NE(usual.output.find("48 tokens"), std::string::npos) << usual.output;
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
  expect("chat " + model() + " --logit-bias 5=x", 2, "TOKEN=NUMBER");
  expect("generate " + model() + " --stop x --stop ''", 2, "--stop is empty");
  expect("chat " + model() + " --stop=", 2, "--stop");
  expect("generate " + model() + " --prompt a --prompt-file b", 2, "exclude each other");
  expect("generate " + model() + " --context 100", 2, "rope_scaling");
  expect("generate " + model() + " --rope-scaling linear", 2, "is not TYPE:FACTOR");
  expect("eval " + model() + " x --rope-scaling :2", 2, "is not TYPE:FACTOR");
  expect("chat " + model() + " --rope-scaling dynamic:2x", 2, "is not TYPE:FACTOR");
  expect("generate " + model() + " --rope-scaling yarn:2", 2, "linear, dynamic, llama3");
  expect("generate " + model() + " --rope-scaling linear:0.5", 2, "between 1 and 1e6");
  expect("generate " + model() + " --rope-scaling linear:2 --context 129", 2, "trained for 128");
  expect("generate " + model() + " --prompt " + std::string(64, 'a'), 2, "64 tokens");
  expect("generate " + model() + " --threads 100000", 2, "threads");
  expect("eval " + model(), 2, "exactly one");
  expect("", 2, "generate, chat, eval");
  expect("generate " + model() + "/config.json", 4, "is a file: MODEL is the folder");
  expect("inspect /", 4, "/ holds no model");
  expect("generate " + model() + " --top-k 1.5", 2, "'1.5'");
  expect("generate " + model() + " --prompt a --logit-bias 999=1", 2, "the last one is 256");
  expect("eval " + model() + " x --json /missing-folder/x.json", 4, "no folder /missing-folder");
  expect("bench " + model() + " --prompt-tokens 60 --tokens 5", 2, "--prompt-tokens and --tokens");
  expect("bench " + model() + " --shape 30M", 2, "both were");
  expect("bench", 2, "--shape");
  expect("bench --shape 7M", 2, "'7M'");
  expect("bench " + model() + " --prompt-tokens 4 --depth 5", 2, "--depth 5");
  expect("bench " + model() + " --keep x", 2, "--shape");
  // One flipped byte of the codes, and a config.json that says something else.
  const TemporaryFolder folder;
  std::filesystem::copy(model(), folder / "bad");
  folder.write("bad/config.json", read_file(folder / "bad/config.json") + "\n");
  const Outcome edited =
      run("generate " + (folder / "bad").string() + " --prompt a --max-tokens 2");
  EXPECT_EQ(edited.code, 0) << edited.errors;
  EXPECT_NE(edited.errors.find("config.json is not the one that was exported"), std::string::npos)
      << edited.errors;
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
  // While a random model is written: its folder goes, too.
  const TemporaryFolder folder;
  const Outcome writing = run_command("TMPDIR=" + folder.path().string() +
                                      " timeout --preserve-status -s INT 0.3 "
                                      "\"" QUEST_RUN_PROGRAM "\" bench --shape 8B");
  EXPECT_EQ(writing.code, 128 + SIGINT) << writing.errors;
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
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

// The most memory (VmHWM) that quest-run had with these arguments, seen from outside; 0 if it
// failed or /proc does not tell.
int64_t peak_memory_of(const std::vector<std::string>& arguments) {
  std::vector<char*> argv = {const_cast<char*>(QUEST_RUN_PROGRAM)};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    const int nowhere = open("/dev/null", O_WRONLY);
    dup2(nowhere, STDOUT_FILENO);
    dup2(nowhere, STDERR_FILENO);
    execv(QUEST_RUN_PROGRAM, argv.data());
    _exit(127);
  }
  int64_t peak = 0;
  int status = 0;
  while (waitpid(child, &status, WNOHANG) == 0) {
    std::ifstream file(fmt::format("/proc/{}/status", child));
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    const size_t at = text.find("VmHWM:");
    // Before exec it is this test's memory.
    if (text.starts_with("Name:\tquest-run\n") && at != std::string::npos) {
      peak = std::max(peak, int64_t{std::atoll(text.c_str() + at + 6)} * 1024);
    }
    usleep(500);
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? peak : 0;
}

// At most 1.15 times the model's file and the cache, beside the program itself.
TEST(QuestRun, TakesLittleMemoryBesideModelAndCache) {
  if (QUEST_IS_SANITIZED) GTEST_SKIP() << "sanitizers take memory of their own";
  constexpr int64_t kProgram = 8 << 20;
  const TemporaryFolder folder;
  const std::string path = (folder / "model").string(), json = (folder / "bench.json").string();
  write_random_packed_model(path, cli::bench_shape("100M"), recipe_from_name("w4a4"));
  const auto file_bytes =
      static_cast<int64_t>(std::filesystem::file_size(path + "/model.safetensors"));
  ASSERT_GT(file_bytes, 100'000'000);
  // A prompt of more than a chunk, whose scratch is the largest.
  const int64_t bench = peak_memory_of(
      {"bench", path, "--prompt-tokens", "516", "--tokens", "4", "--repeats", "1", "--json", json});
  if (bench == 0 && !std::filesystem::exists("/proc/self/status")) GTEST_SKIP() << "no /proc";
  const Json result = read_json(json);
  const auto limit = static_cast<int64_t>(
      1.15 * static_cast<double>(file_bytes + result["cache_bytes"].get<int64_t>()) + kProgram);
  EXPECT_GT(bench, file_bytes);
  EXPECT_LE(bench, limit);
  EXPECT_LE(result["peak_bytes"].get<int64_t>(), limit);
  const int64_t generate = peak_memory_of(
      {"generate", path, "--prompt", std::string(516, 'a'), "--max-tokens", "4", "--ignore-end"});
  EXPECT_GT(generate, file_bytes);
  EXPECT_LE(generate, limit);
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
