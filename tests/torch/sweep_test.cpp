// quest sweep, as the program does it: a grid that a kill interrupts, a trial that fails, a signal,
// and successive halving; on models that train in moments.
#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/json_util.h"
#include "quest/base/testing_command.h"
#include "quest/data/build_token_file.h"
#include "quest/train/sweep_table.h"

namespace quest {
namespace {

namespace fs = std::filesystem;
using testing::CommandResult;
using train::SweepTable;

class SweepProgram : public ::testing::Test {
 protected:
  void SetUp() override {
    TextSource source({QUEST_SOURCE_DIR "/ARCHITECTURE.md"}, {});
    BuildOptions options;
    options.show_progress = false;
    fs::create_directories(folder_ / "data");
    build_token_files(source, *make_byte_tokenizer(), options, folder_ / "data/train.qtok",
                      folder_ / "data/validation.qtok");
    folder_.write("base.toml",
                  "[model]\npreset = \"none\"\nhidden_size = 32\nnum_layers = 1\nnum_heads = 1\n"
                  "intermediate_size = 64\n"
                  "[train]\nsteps = 8\nbatch_size = 2\nsequence_length = 16\n"
                  "compute_type = \"fp32\"\n"
                  "[data]\ntokenizer = \"bytes\"\ntrain = \"" +
                      (folder_ / "data").string() +
                      "\"\n[eval]\nevery = 0\ntokens = 512\nfull_at_end = false\n"
                      "[log]\npeak_tflops = 1.0\ntensorboard = false\n");
  }

  std::string command(const std::string& arguments) const {
    return "\"" QUEST_PROGRAM "\" " + arguments + " -c " + (folder_ / "base.toml").string();
  }
  std::string sweep(const std::string& name, const std::string& arguments) const {
    return command("sweep --jobs 2 --out " + (folder_ / name).string() + " " + arguments);
  }
  SweepTable table(const std::string& name) const {
    return train::read_trials_csv(folder_ / name / "trials.csv");
  }
  size_t count(const SweepTable& table, const char* state) const {
    return static_cast<size_t>(
        std::count_if(table.rows.begin(), table.rows.end(),
                      [&](const train::TrialRow& row) { return row.state == state; }));
  }
  // Of all runs of a sweep, those that still have weights.
  std::vector<std::string> runs_with_weights(const std::string& name) const {
    std::vector<std::string> runs;
    for (const auto& run : fs::directory_iterator(folder_ / name / "runs")) {
      if (run.is_symlink()) continue;
      const bool has_checkpoints = fs::exists(run.path() / "checkpoints");
      EXPECT_EQ(has_checkpoints, fs::exists(run.path() / "final/model.safetensors"));
      EXPECT_TRUE(fs::exists(run.path() / "metrics.jsonl"));
      if (has_checkpoints) runs.push_back("runs/" + run.path().filename().string());
    }
    return runs;
  }
  // Starts a command and gives it this signal once `reached` is true.
  int signalled(const std::string& text, int signal_number, const std::function<bool()>& reached) {
    const std::string exec = "exec " + text + " >" + (folder_ / "out").string() + " 2>&1";
    const pid_t pid = fork();
    if (pid == 0) {
      execl("/bin/sh", "sh", "-c", exec.c_str(), nullptr);
      _exit(127);
    }
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!reached() && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    EXPECT_TRUE(reached()) << read_file(folder_ / "out");
    kill(pid, signal_number);
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  testing::TemporaryFolder folder_;
};

// What a run is worth must not depend on who started it, nor on a kill.
TEST_F(SweepProgram, GridGoesOnAfterAKill) {
  const std::string grid = sweep("grid", "--grid lr=1e-3,1e-2 --grid quant=bf16,w4a4 --threads 1");
  const auto one_done = [&] {
    return fs::exists(folder_ / "grid/trials.csv") && count(table("grid"), "done") > 0;
  };
  EXPECT_EQ(signalled(grid, SIGKILL, one_done), 128 + SIGKILL);
  const SweepTable before = table("grid");
  EXPECT_LT(count(before, "done"), 4u);

  const CommandResult again = testing::run_command(grid);
  EXPECT_EQ(again.code, 0) << again.errors;
  const SweepTable after = table("grid");
  ASSERT_EQ(after.rows.size(), 4u);
  EXPECT_EQ(count(after, "done"), 4u);
  for (size_t i = 0; i < 4; ++i) {
    const train::TrialRow& row = after.rows[i];
    const std::string log = read_file(folder_ / "grid/logs" / (row.trial + ".log"));
    if (before.rows[i].state == "done") {
      EXPECT_EQ(log.find("\nrun "), log.rfind("\nrun ")) << "trained again: " << row.trial;
      EXPECT_EQ(before.rows[i].loss, row.loss);
    }
    const Json summary = read_json(folder_ / "grid" / row.run / "summary.json");
    EXPECT_EQ(row.loss, summary["validation_loss"].get<double>());
    EXPECT_EQ(summary["recipe"], row.values[1]);
    EXPECT_EQ(row.steps, 8);
    EXPECT_EQ(row.tokens, 8 * 2 * 16);
  }
  EXPECT_LT(*after.rows[2].loss, *after.rows[0].loss);  // the higher rate learns more in 8 steps

  const CommandResult alone =
      testing::run_command(command("train --lr 1e-2 --quant w4a4 --threads 1 --name alone --out " +
                                   (folder_ / "alone").string()));
  EXPECT_EQ(alone.code, 0) << alone.errors;
  EXPECT_EQ(read_json(folder_ / "alone/alone/summary.json")["validation_loss"].get<double>(),
            after.rows[3].loss);

  const CommandResult report = testing::run_command(
      "\"" QUEST_PROGRAM "\" sweep --top 1 --report " + (folder_ / "grid").string());
  EXPECT_EQ(report.code, 0) << report.errors;
  EXPECT_NE(report.output.find("4 trials: 4 done"), std::string::npos) << report.output;
  EXPECT_NE(report.output.find("and 3 more"), std::string::npos) << report.output;
  const CommandResult other = testing::run_command(sweep("grid", "--grid lr=1e-3,1e-1"));
  EXPECT_EQ(other.code, 2);
  EXPECT_NE(other.errors.find("holds another sweep"), std::string::npos) << other.errors;
}

TEST_F(SweepProgram, AFailingTrialIsRecordedAndASignalPassedOn) {
  // Of the first the weights grow a million times a step.
  const std::string failing =
      "--grid lr=1000,1e-3 --weight-decay 1000 --clip-norm 0 --guards.nonfinite stop";
  const CommandResult first = testing::run_command(sweep("failing", failing));
  EXPECT_EQ(first.code, 3) << first.errors;  // only after the others were trained
  EXPECT_NE(first.errors.find("1 of 2 trials failed: 001;"), std::string::npos) << first.errors;
  const SweepTable failed = table("failing");
  EXPECT_EQ(failed.rows[0].state, "failed");
  EXPECT_FALSE(failed.rows[0].loss);
  EXPECT_EQ(failed.rows[1].state, "done");
  EXPECT_NE(first.output.find("guards.nonfinite is stop"), std::string::npos) << first.output;
  EXPECT_NE(read_file(folder_ / "failing/failed/001.txt").find("guards.nonfinite is stop"),
            std::string::npos);
  // It stays failed, and is tried again only on demand.
  const CommandResult second = testing::run_command(sweep("failing", failing));
  EXPECT_EQ(second.code, 3);
  EXPECT_NE(second.output.find("guards.nonfinite is stop"), std::string::npos) << second.output;
  EXPECT_EQ(second.output.find("[1/2]"), std::string::npos) << second.output;
  const CommandResult stopped =
      testing::run_command(sweep("failing", failing + " --retry-failed --stop-on-failure"));
  EXPECT_EQ(stopped.code, 3) << stopped.errors;
  EXPECT_NE(stopped.errors.find("--stop-on-failure"), std::string::npos) << stopped.errors;

  const auto training = [&] { return fs::exists(folder_ / "long/runs/001/metrics.jsonl"); };
  const std::string endless = sweep("long", "--grid lr=1e-3,1e-2,1e-1 --steps 10000000");
  EXPECT_EQ(signalled(endless, SIGINT, training), 128 + SIGINT);
  EXPECT_EQ(count(table("long"), "pending"), 3u);
  EXPECT_TRUE(fs::exists(folder_ / "long/runs/001/checkpoints/latest/state.json"));
}

// With a constant rate a promoted trial goes on, and is worth what a run without rungs is.
TEST_F(SweepProgram, HalvingGoesOnFromCheckpoints) {
  const std::string constant = "--schedule constant --warmup 0 --threads 1 ";
  const CommandResult outcome = testing::run_command(
      sweep("halving", constant + "--grid lr=1e-2,1e-9,1e-8 --halving --eta 3 --keep-best"));
  EXPECT_EQ(outcome.code, 0) << outcome.errors;
  const SweepTable halved = table("halving");
  EXPECT_EQ(halved.rows[0].state, "done");
  EXPECT_EQ(halved.rows[0].steps, 8);
  for (const size_t i : {1, 2}) {
    EXPECT_EQ(halved.rows[i].state, "stopped");
    EXPECT_EQ(halved.rows[i].steps, 2);
    EXPECT_TRUE(halved.rows[i].loss);
  }
  EXPECT_EQ(runs_with_weights("halving"), std::vector{halved.rows[0].run});
  const std::string log = read_file(folder_ / "halving/logs/001-r2.log");
  EXPECT_NE(log.find("from step 2"), std::string::npos) << log;
  const CommandResult alone = testing::run_command(
      command("train --lr 1e-2 --name alone " + constant + "--out " + folder_.path().string()));
  EXPECT_EQ(alone.code, 0) << alone.errors;
  EXPECT_EQ(read_json(folder_ / "alone/summary.json")["validation_loss"].get<double>(),
            halved.rows[0].loss);
}

TEST_F(SweepProgram, OnlyTheBestKeepsItsWeightsIfAskedTo) {
  const std::string grid = "--threads 1 --grid lr=1e-9,1e-2,1e-8";
  EXPECT_EQ(testing::run_command(sweep("grid", grid)).code, 0);
  EXPECT_EQ(runs_with_weights("grid").size(), 3u);
  const std::string before = read_file(folder_ / "grid/trials.csv");
  // Also of runs that had ended before; none is trained again for its missing weights.
  for (int time = 0; time < 2; ++time) {
    const CommandResult outcome = testing::run_command(sweep("grid", grid + " --keep-best"));
    EXPECT_EQ(outcome.code, 0) << outcome.errors;
    EXPECT_EQ(runs_with_weights("grid"), std::vector{table("grid").rows[1].run});
    EXPECT_EQ(read_file(folder_ / "grid/trials.csv"), before);
  }
}

TEST_F(SweepProgram, WhatIsWrongIsSaidBeforeAnythingRuns) {
  const auto expect = [&](const std::string& arguments, int code, const char* message) {
    const CommandResult outcome = testing::run_command(sweep("none", arguments));
    EXPECT_EQ(outcome.code, code) << arguments;
    EXPECT_NE(outcome.errors.find(message), std::string::npos) << outcome.errors;
  };
  expect("--grid lr=1e-3,fast", 2, "trial 002 (optimizer.lr=fast)");
  expect("--grid model.num_heads=1,3", 2, "trial 002 (model.num_heads=3)");
  expect("--grid lr=1 --name x", 2, "run.name");
  fs::remove(folder_ / "data/validation.qtok");
  expect("--grid lr=1", 2, "validation loss");
  fs::remove(folder_ / "data/train.qtok");
  expect("--grid lr=1", 4, "train.qtok");
  EXPECT_FALSE(fs::exists(folder_ / "none"));
}

}  // namespace
}  // namespace quest
