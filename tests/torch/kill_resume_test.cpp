// kill -9 at random moments of a real run of the real program, then resume, again and again: the
// final weights and the learning curve must be those of a run that nobody disturbed.
//
// QUEST_KILL_COUNT (default 20) kills in all, at moments drawn from QUEST_KILL_SEED (default 1), of
// the program QUEST_KILL_PROGRAM (default: the one built with this test).
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <fstream>
#include <iostream>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "quest/base/atomic_folder.h"
#include "quest/base/philox.h"
#include "quest/base/testing.h"
#include "quest/data/build_token_file.h"

namespace quest {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

int64_t from_environment(const char* name, int64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::stoll(text);
}

// The program as a process of its own; its messages go to `log`.
pid_t start(const std::vector<std::string>& arguments, const fs::path& log) {
  std::vector<char*> argv;
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = fork();
  if (pid != 0) return pid;
  const int fd = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
  if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0) _exit(126);
  execv(argv[0], argv.data());
  _exit(127);
}

// True if the process ended by itself within `seconds`; it is killed otherwise.
bool ends_within(pid_t pid, double seconds, int& status) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  while (Clock::now() < deadline) {
    if (waitpid(pid, &status, WNOHANG) == pid) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  // It may have ended between the last look and the signal.
  return !WIFSIGNALED(status);
}

struct Result {
  std::string weights;
  std::vector<nlohmann::json> curve;  // metrics.jsonl without what depends on the clock
};

Result read_result(const fs::path& run) {
  Result result;
  result.weights = nlohmann::json::parse(read_file(run / "summary.json")).at("weights_xxh3_128");
  std::ifstream file(run / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    result.curve.push_back(nlohmann::json::parse(line));
    for (const char* key : {"tokens_per_second", "mfu", "seconds"}) result.curve.back().erase(key);
  }
  return result;
}

class KillResume : public ::testing::Test {
 protected:
  // Real text: this project's own.
  void SetUp() override {
    TextSource source({QUEST_SOURCE_DIR "/ARCHITECTURE.md", QUEST_SOURCE_DIR "/LICENSE"}, {});
    const auto tokenizer = make_byte_tokenizer();
    BuildOptions options;
    options.show_progress = false;
    build_token_files(source, *tokenizer, options, folder_ / "train.qtok",
                      folder_ / "validation.qtok");
  }

  std::vector<std::string> command(const std::string& out) const {
    const std::vector<std::string> settings = {"--model.preset=none",
                                               "--model.hidden_size=64",
                                               "--model.num_layers=2",
                                               "--model.num_heads=2",
                                               "--quant=w4a4",
                                               "--compute=fp32",
                                               "--data.tokenizer=bytes",
                                               "--batch=8",
                                               "--micro-batch=4",
                                               "--sequence-length=64",
                                               "--steps=48",
                                               "--lr=3e-3",
                                               "--eval-every=6",
                                               "--eval.tokens=512",
                                               "--checkpoint-every=3",
                                               "--ema=0.9",
                                               "--averaging.horizon=4",
                                               "--diagnostics.every=4",
                                               "--diagnostics.keep_masks=3",
                                               "--threads=1",
                                               "--log.peak_tflops=1",
                                               "--name=kill"};
    const char* program = std::getenv("QUEST_KILL_PROGRAM");
    std::vector<std::string> all = {program == nullptr ? QUEST_PROGRAM : program, "train"};
    all.insert(all.end(), settings.begin(), settings.end());
    all.push_back("--data=" + folder_.path().string());
    all.push_back("--out=" + (folder_ / out).string());
    return all;
  }
  fs::path log() const { return folder_ / "log.txt"; }

  testing::TemporaryFolder folder_;
};

TEST_F(KillResume, FinalWeightsAndCurveAreThoseOfAnUndisturbedRun) {
  // Twice: the second start finds the program in memory and tells how long a run takes.
  int status = 0;
  double whole = 0;
  for (const char* name : {"calm", "calm again"}) {
    const auto begin = Clock::now();
    ASSERT_TRUE(ends_within(start(command(name), log()), 300, status)) << read_file(log());
    ASSERT_EQ(status, 0) << read_file(log());
    whole = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  const Result calm = read_result(folder_ / "calm" / "kill");
  ASSERT_EQ(calm.curve.size(), 48u + 8u + 13u);
  EXPECT_EQ(read_result(folder_ / "calm again" / "kill").weights, calm.weights);

  const int64_t wanted = from_environment("QUEST_KILL_COUNT", 20);
  const Philox random(static_cast<uint64_t>(from_environment("QUEST_KILL_SEED", 1)));
  int64_t kills = 0, starts = 0, compared = 0;
  while (kills < wanted || compared == 0) {
    // After the last kill the run is left to finish.
    const double patience =
        kills < wanted ? whole * random.uniform(static_cast<uint64_t>(starts)) : 300;
    ++starts;
    if (!ends_within(start(command("harried"), log()), patience, status)) {
      ASSERT_LT(kills, wanted) << "the program hangs\n" << read_file(log());
      ++kills;
      continue;
    }
    ASSERT_EQ(status, 0) << read_file(log());
    const Result harried = read_result(folder_ / "harried" / "kill");
    EXPECT_EQ(harried.weights, calm.weights) << "after " << kills << " kills";
    EXPECT_EQ(harried.curve, calm.curve) << "after " << kills << " kills";
    ++compared;
    fs::remove_all(folder_ / "harried");
    if (kills == wanted) break;
  }
  EXPECT_EQ(kills, wanted);
  std::cout << kills << " kills, " << starts << " starts, " << compared << " runs compared, "
            << whole << " s undisturbed\n";
}

// SIGTERM and SIGINT: the step is finished and saved, the exit code says why, the run goes on.
TEST_F(KillResume, SignalsSaveAndLeaveWithTheirExitCode) {
  int status = 0;
  std::vector<std::string> slow = command("calm");
  slow.push_back("--steps=100000");
  for (const int signal_number : {SIGTERM, SIGINT}) {
    const pid_t pid = start(slow, log());
    const fs::path metrics = folder_ / "calm" / "kill" / "metrics.jsonl";
    const auto lines = [&] {
      std::error_code ignored;
      return fs::exists(metrics, ignored) ? fs::file_size(metrics, ignored) : 0;
    };
    const auto before = lines();
    const auto deadline = Clock::now() + std::chrono::seconds(120);
    while (lines() <= before && Clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    kill(pid, signal_number);
    ASSERT_TRUE(ends_within(pid, 120, status)) << read_file(log());
    ASSERT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 128 + signal_number) << read_file(log());
    EXPECT_TRUE(fs::exists(folder_ / "calm" / "kill" / "checkpoints" / "latest" / "state.json"));
  }
  EXPECT_NE(read_file(log()).find("resumed from"), std::string::npos);
}

}  // namespace
}  // namespace quest
