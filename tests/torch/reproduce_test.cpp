// quest reproduce as a user runs it: the refit of the paper's law, an experiment that trains, going
// on with what is there, wrong input. (What the experiments show is judged at their real length:
// docs/reproduce.md.)
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/testing_command.h"
#include "quest/plot/gnuplot.h"
#include "quest/text/testing_text.h"

namespace {

namespace fs = std::filesystem;

class ReproduceTest : public ::testing::Test {
 protected:
  quest::testing::CommandResult run(const std::string& arguments) {
    return quest::testing::run_command("cd " + folder_.path().string() +
                                       " && \"" QUEST_PROGRAM "\" " + arguments + " >out.txt");
  }
  std::string printed() { return quest::read_file(folder_ / "out.txt"); }
  bool says(const std::string& text) { return printed().find(text) != std::string::npos; }

  quest::testing::TemporaryFolder folder_;
};

TEST_F(ReproduceTest, RefitsThePapersLaw) {
  const auto outcome = run("reproduce table1 --no-pictures --out r");
  EXPECT_EQ(outcome.code, 0) << outcome.errors;
  EXPECT_TRUE(says("| w4a4 | 0.69")) << printed();
  EXPECT_TRUE(says("17 values compared with the stored expectation")) << printed();
  EXPECT_TRUE(says("table1          reproduced")) << printed();
  EXPECT_TRUE(fs::exists(folder_ / "r/table1-tiny.md"));
}

TEST_F(ReproduceTest, TrainsAndGoesOnWithWhatIsThere) {
  folder_.write("a.txt", quest::testing::kSampleText);
  ASSERT_EQ(run("data a.txt --tokenizer bytes --validation-fraction 0.2 --out 'my data'").code, 0);
  const bool pictures = !quest::plot::find_gnuplot().empty();
  const std::string again = std::string("reproduce w1a1-stability --data 'my data' --out r") +
                            " --steps 4" + (pictures ? "" : " --no-pictures");
  const std::string command = again + " --scale tiny --seeds 0";  // which are the defaults
  EXPECT_EQ(run(command + " --dry-run").code, 0);
  EXPECT_TRUE(says("optimizer.lr=0.008")) << printed();
  EXPECT_FALSE(fs::exists(folder_ / "r"));
  const auto first = run(command);
  // Four steps show nothing: whether the checks hold is left open, that they are made is not.
  EXPECT_TRUE(first.code == 0 || first.errors.find("not reproduced") != std::string::npos)
      << first.errors;
  EXPECT_TRUE(says(first.code == 0 ? "reproduced (orders only: with --steps" : "NOT reproduced"))
      << printed();
  const std::string report = quest::read_file(folder_ / "r/w1a1-stability-tiny.md");
  for (const std::string& text :
       {std::string("W1A1 trains at every learning rate"),
        std::string("- with --steps there is no expectation"), "\n    quest " + again + "\n"}) {
    EXPECT_NE(report.find(text), std::string::npos) << text << " is not in\n" << report;
  }
  EXPECT_EQ(fs::exists(folder_ / "r/w1a1-stability-tiny.png"), pictures);
  const auto time = fs::last_write_time(folder_ / "r/w1a1-stability-tiny/seed-0/runs");
  EXPECT_EQ(run(command).code, first.code);
  EXPECT_EQ(fs::last_write_time(folder_ / "r/w1a1-stability-tiny/seed-0/runs"), time);
  EXPECT_EQ(quest::read_file(folder_ / "r/w1a1-stability-tiny.md"), report);
}

// Runs of the same settings, as Figure 11's W2A2 is Figure 3's.
TEST_F(ReproduceTest, TakesRunsFromOtherExperiments) {
  folder_.write("a.txt", quest::testing::kSampleText);
  ASSERT_EQ(run("data a.txt --tokenizer bytes --validation-fraction 0.2 --out data").code, 0);
  const std::string command = "reproduce fig11 --data data --steps 4 --no-pictures --out r";
  run(command);
  EXPECT_TRUE(says("[1/4]")) << printed();
  const std::string report = quest::read_file(folder_ / "r/fig11-tiny.md");
  fs::rename(folder_ / "r/fig11-tiny", folder_ / "r/fig3-tiny");
  // One of them becomes a run with other settings, by its name.
  for (const auto& entry : fs::directory_iterator(folder_ / "r/fig3-tiny/seed-0/runs")) {
    if (!entry.path().filename().string().starts_with("003-")) continue;
    fs::rename(entry.path(), entry.path().parent_path() / "003-00000000");
    break;
  }
  run(command);
  EXPECT_FALSE(says("[3/4]")) << printed();  // three have ended before
  EXPECT_TRUE(says("[4/4] 003")) << printed();
  const std::string trials = quest::read_file(folder_ / "r/fig11-tiny/seed-0/trials.csv");
  EXPECT_NE(trials.find("../../fig3-tiny/seed-0/runs/004-"), std::string::npos) << trials;
  EXPECT_NE(trials.find(",runs/003-"), std::string::npos) << trials;
  EXPECT_EQ(quest::read_file(folder_ / "r/fig11-tiny.md"), report);
}

// Where no GPU can be used, the first run says so, and the others are not tried.
TEST_F(ReproduceTest, EndsAtTheFirstRunThatFails) {
  folder_.write("a.txt", quest::testing::kSampleText);
  ASSERT_EQ(run("data a.txt --tokenizer bytes --validation-fraction 0.2 --out data").code, 0);
  const auto outcome =
      run("reproduce fig11 --data data --steps 4 --device cuda --no-pictures --out r");
  if (outcome.errors.find("trial 001 failed") == std::string::npos) {
    GTEST_SKIP() << "there is a GPU, on which the runs do not fail";
  }
  EXPECT_NE(outcome.code, 0);
  EXPECT_NE(outcome.errors.find("GPU"), std::string::npos) << outcome.errors;
  EXPECT_TRUE(says("[1/4] 001")) << printed();
  EXPECT_FALSE(says("[2/4]")) << printed();
}

TEST_F(ReproduceTest, SaysWhatIsWrong) {
  const auto expect = [&](const std::string& arguments, int code, const std::string& text) {
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, code) << arguments << "\n" << outcome.errors;
    EXPECT_NE(outcome.errors.find(text), std::string::npos) << outcome.errors;
  };
  EXPECT_EQ(run("reproduce").code, 0);
  EXPECT_TRUE(says("w1a1-stability  W1A1")) << printed();
  expect("reproduce fig99", 2, "w1a1-stability");
  expect("reproduce fig3 --data nowhere", 4, "quest data");
  expect("reproduce table1 --paper-data nowhere", 4, "nowhere");
  expect("reproduce fig3 --scale large", 2, "large");
  expect("reproduce table1 --seeds 0,1,0", 2, "--seeds 0,1,0: 0 is there twice");
}

}  // namespace
