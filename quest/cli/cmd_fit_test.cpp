// The command lines of quest fit, quest plan and quest sweep --report: what they refuse and warn
// of.
#include <CLI/CLI.hpp>
#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/json_util.h"
#include "quest/base/testing.h"
#include "quest/cli/commands.h"

namespace quest::cli {
namespace {

const std::string kRuns = QUEST_SOURCE_DIR "/data/paper/runs.csv";

void run(const std::string& command_line) {
  CLI::App app;
  add_fit_command(app);
  add_plan_command(app);
  add_sweep_command(app);
  app.parse(command_line);
}

struct Output {
  std::string out, err;
};
Output output_of(const std::string& command_line) {
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  run(command_line);
  const std::string out = ::testing::internal::GetCapturedStdout();
  return {out, ::testing::internal::GetCapturedStderr()};
}

class FitCommand : public ::testing::Test {
 protected:
  std::string path(const char* name) const { return (folder_ / name).string(); }
  testing::TemporaryFolder folder_;
};

TEST_F(FitCommand, SaysWhatTheRunsDoNotTell) {
  const std::string table = read_file(kRuns);
  size_t end = 0;
  for (int line = 0; line < 30; ++line) end = table.find('\n', end) + 1;
  folder_.write("head.csv", table.substr(0, end));
  const Output few = output_of("fit " + path("head.csv") + " --bootstrap 40 --starts 8 --json " +
                               path("fit.json"));
  EXPECT_NE(few.out.find("w1a1_nohadamard       not known"), std::string::npos) << few.out;
  EXPECT_NE(few.err.find("eff of w1a1, w1a16, w1a1_nohadamard"), std::string::npos) << few.err;
  EXPECT_EQ(std::count(few.err.begin(), few.err.end(), '\n'), 1) << few.err;
  EXPECT_GE(read_json(folder_ / "fit.json")["eff_not_known"].size(), 3u);
  const Output plan = output_of("plan --memory 1GB --tokens 10B --fit " + path("fit.json"));
  EXPECT_NE(plan.err.find("w1a1_nohadamard"), std::string::npos) << plan.err;
  const Output all = output_of("fit " + kRuns + " --bootstrap 20 --starts 4");
  EXPECT_EQ(all.out.find("not known"), std::string::npos) << all.out;
  EXPECT_EQ(all.err, "");
}

TEST_F(FitCommand, WarnsOfRunsThatCountTwice) {
  const Output twice = output_of("fit --bootstrap 0 --starts 2 " + kRuns + " " + kRuns);
  EXPECT_NE(twice.err.find("104 runs given more than once"), std::string::npos) << twice.err;
}

TEST_F(FitCommand, AsksForRefitsEnough) {
  for (const char* wrong : {"1", "19", "-1", "100001", "x", "20.5"}) {
    EXPECT_THROW(run("fit " + kRuns + " --bootstrap " + wrong), CLI::ValidationError) << wrong;
    EXPECT_THROW(run("plan --bootstrap " + std::string(wrong)), CLI::ValidationError) << wrong;
  }
}

TEST_F(FitCommand, ProvesThePlaceOfItsResultBeforeTheWork) {
  ::testing::internal::CaptureStdout();
  EXPECT_QUEST_ERROR(run("fit " + kRuns + " --json " + path("none/fit.json")), ErrorKind::kIo,
                     "none");
  EXPECT_QUEST_ERROR(run("plan --memory 1GB --tokens 1B --json " + folder_.path().string()),
                     ErrorKind::kIo, "names a folder");
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), "") << "it has fitted first";
}

TEST_F(FitCommand, APlanWithoutMemoryNamesTheLeast) {
  ::testing::internal::CaptureStdout();
  EXPECT_QUEST_ERROR(run("plan --memory 10B --tokens 1B --bootstrap 0 " + kRuns), ErrorKind::kUsage,
                     "the least memory is ");
  ::testing::internal::GetCapturedStdout();
}

TEST_F(FitCommand, ASweepsTableWithoutTrialsIsAnError) {
  folder_.write("trials.csv", "trial,state,optimizer.lr,steps,tokens,loss,run\n");
  EXPECT_QUEST_ERROR(run("sweep --report " + folder_.path().string()), ErrorKind::kData,
                     "trials.csv: ends after its heading");
}

}  // namespace
}  // namespace quest::cli
