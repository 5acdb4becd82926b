// The command line of quest plot: which words are runs, which are figures.
#include <CLI/CLI.hpp>
#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/testing.h"
#include "quest/cli/commands.h"
#include "quest/plot/gnuplot.h"

namespace quest::cli {
namespace {

void run(const std::string& command_line) {
  CLI::App app;
  add_plot_command(app);
  app.parse("plot " + command_line);
}

class PlotCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    if (plot::find_gnuplot().empty()) GTEST_SKIP() << "gnuplot is not installed";
    folder_.write("run/metrics.jsonl",
                  "{\"step\":1,\"tokens\":9,\"loss\":3}\n{\"step\":2,\"tokens\":18,\"loss\":2}\n");
  }
  std::string path(const char* name) const { return (folder_ / name).string(); }
  testing::TemporaryFolder folder_;
};

TEST_F(PlotCommand, DrawsRunsOrAFigure) {
  run(path("run") + " --out " + path("loss.svg"));
  EXPECT_NE(read_file(folder_ / "loss.svg").find("nats per token"), std::string::npos);
  run("fig9 --scale 0.5 --title mine --out " + path("fig9.svg"));
  EXPECT_NE(read_file(folder_ / "fig9.svg").find("mine"), std::string::npos);
  folder_.write("t.csv", "format,params,tokens,loss\nw4a4,1e6,1e8,3\n");
  run("fig1 " + path("t.csv") + " --own-only --out " + path("own.svg"));
  EXPECT_NE(read_file(folder_ / "own.svg").find("own W4A4"), std::string::npos);
}

TEST_F(PlotCommand, AllDrawsEveryFigureOfThePaper) {
  run("all --out-dir " + path("new/all") +
      " --format svg --paper-data " QUEST_SOURCE_DIR "/data/paper");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_ / "new/all"), {}), 13);
  EXPECT_TRUE(std::filesystem::exists(folder_ / "new/all/table4.svg"));
}

TEST_F(PlotCommand, RefusesMixturesAndUnknownFigures) {
  const std::string out = " --out " + path("x.png");
  EXPECT_QUEST_ERROR(run(path("run") + " fig1" + out), ErrorKind::kUsage, "./fig1");
  EXPECT_QUEST_ERROR(run("fig15" + out), ErrorKind::kUsage, "there is no figure 'fig15'");
  EXPECT_QUEST_ERROR(run(""), ErrorKind::kUsage, "no runs to plot");
  EXPECT_QUEST_ERROR(run("fig10" + out), ErrorKind::kUsage, "give own data");
  EXPECT_QUEST_ERROR(run("fig1 --paper-data " + path("none") + out), ErrorKind::kIo,
                     "--paper-data");
  EXPECT_THROW(run("fig4 " + path("run")), CLI::ParseError) << "takes no own data";
  EXPECT_FALSE(std::filesystem::exists(folder_ / "x.png"));
}

}  // namespace
}  // namespace quest::cli
