#include "quest/plot/loss_plot.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/testing.h"
#include "quest/plot/gnuplot.h"

namespace quest::plot {
namespace {

// Sets an environment variable for the life of the object.
class ScopedEnvironment {
 public:
  ScopedEnvironment(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old, had_ = true;
    setenv(name, value, 1);
  }
  ~ScopedEnvironment() { had_ ? setenv(name_, old_.c_str(), 1) : unsetenv(name_); }
  ScopedEnvironment(const ScopedEnvironment&) = delete;
  ScopedEnvironment& operator=(const ScopedEnvironment&) = delete;

 private:
  const char* name_;
  std::string old_;
  bool had_ = false;
};

RunMetrics falling_run(const std::string& name, double final_loss) {
  RunMetrics run;
  run.name = name;
  for (int step = 0; step <= 400; ++step) {
    const double noise = 0.2 * ((step * 37) % 11 - 5) / 5.0;
    const double loss = final_loss + 6.0 / (1.0 + 0.05 * step);
    run.training.push_back({step, step * 2048, loss + noise});
    if (step % 50 == 0) run.validation.push_back({step, step * 2048, loss + 0.05});
  }
  return run;
}

TEST(SmoothTrainingLoss, KeepsALine) {
  std::vector<MetricsPoint> line;
  for (int i = 0; i < 5000; ++i) line.push_back({i, 10 * i, 3.0 - 1e-4 * i});
  const std::vector<MetricsPoint> smoothed = smooth_training_loss(line);
  EXPECT_LE(smoothed.size(), 1000u);
  EXPECT_GE(smoothed.size(), 900u);
  for (const MetricsPoint& p : smoothed) {
    // The last window is cut off at half: it lags by at most a quarter of 100 points.
    EXPECT_NEAR(p.loss, 3.0 - 1e-4 * static_cast<double>(p.step), p.step < 4950 ? 1e-9 : 26e-4)
        << p.step;
    EXPECT_EQ(p.tokens, 10 * p.step);
  }
}

TEST(SmoothTrainingLoss, TakesNoiseOutOfLongCurvesAndLeavesShortOnesAlone) {
  std::vector<MetricsPoint> noisy;
  for (int i = 0; i < 1000; ++i) noisy.push_back({i, i, i % 2 == 0 ? 1.0 : 3.0});
  const std::vector<MetricsPoint> smoothed = smooth_training_loss(noisy);
  for (size_t i = 100; i < 900; ++i) EXPECT_NEAR(smoothed[i].loss, 2.0, 0.1);
  const std::vector<MetricsPoint> same = smooth_training_loss(std::span(noisy).first(10));
  ASSERT_EQ(same.size(), 10u);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(same[i].loss, noisy[i].loss);
  EXPECT_TRUE(smooth_training_loss({}).empty());
}

TEST(LossPlotScript, HoldsDataLegendAndAxes) {
  const std::vector<RunMetrics> runs = {falling_run("w4a4", 3.0), falling_run("w1a1", 4.0)};
  const std::string script = loss_plot_script(runs, {.title = "KJV"}, ".png");
  EXPECT_EQ(script, loss_plot_script(runs, {.title = "KJV"}, ".png")) << "not deterministic";
  EXPECT_NE(script.find("set terminal pngcairo size 1400,900"), std::string::npos);
  EXPECT_NE(script.find("set title 'KJV'"), std::string::npos);
  EXPECT_NE(script.find("'training tokens (thousands)'"), std::string::npos);
  EXPECT_NE(script.find("\n819.2 3.335714\n"), std::string::npos) << "last validation point";
  EXPECT_NE(script.find("title 'w4a4: 3.336'"), std::string::npos);
  EXPECT_NE(script.find("title 'w1a1: 4.336'"), std::string::npos);
  const std::string steps = loss_plot_script(runs, {.x = XAxis::kSteps, .log_x = true}, ".svg");
  EXPECT_NE(steps.find("set terminal svg"), std::string::npos);
  EXPECT_NE(steps.find("optimizer steps"), std::string::npos);
  EXPECT_NE(steps.find("set logscale x"), std::string::npos);
  EXPECT_EQ(steps.find("\n0 "), std::string::npos) << "zero cannot be on a logarithmic axis";
  EXPECT_EQ(steps.find("set title"), std::string::npos);
}

TEST(LossPlotScript, QuotesNamesSoThatTheyStayText) {
  RunMetrics run = falling_run("it's $(reboot) `id` \n\x80 _{x} é", 3.0);
  const std::string script = loss_plot_script({&run, 1}, {.title = "a'b\\n"}, ".png");
  EXPECT_NE(script.find("'it''s $(reboot) `id`  � _{x} é: 3.336'"), std::string::npos) << script;
  EXPECT_NE(script.find("set title 'a''b\\n'"), std::string::npos);
}

TEST(LossPlotScript, RefusesWhatCannotBeDrawn) {
  const RunMetrics run = falling_run("a", 3.0);
  EXPECT_QUEST_ERROR(loss_plot_script({}, {}, ".png"), ErrorKind::kUsage, "no runs");
  EXPECT_QUEST_ERROR(loss_plot_script({&run, 1}, {}, ".pdf"), ErrorKind::kUsage, ".pdf");
  EXPECT_QUEST_ERROR(loss_plot_script({&run, 1}, {.width = 10}, ".png"), ErrorKind::kUsage, "10");
}

TEST(GnuplotQuote, ReplacesWhatIsNoText) {
  EXPECT_EQ(gnuplot_quote("plain"), "'plain'");
  EXPECT_EQ(gnuplot_quote("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"), "'é€😀'");
  EXPECT_EQ(gnuplot_quote("\xc0\xaf"), "'��'") << "overlong";
  EXPECT_EQ(gnuplot_quote("\xed\xa0\x80"), "'���'") << "surrogate";
  EXPECT_EQ(gnuplot_quote("\xf4\x90\x80\x80"), "'����'") << "beyond Unicode";
  EXPECT_EQ(gnuplot_quote("\xe2\x82"), "'��'") << "cut off";
  EXPECT_EQ(gnuplot_quote("a\tb\x7f"), "'a b '");
}

TEST(Gnuplot, MissingProgramSaysHowToGetIt) {
  const ScopedEnvironment chosen("QUEST_GNUPLOT", "/nonexistent/gnuplot");
  const RunMetrics run = falling_run("a", 3.0);
  const testing::TemporaryFolder folder;
  EXPECT_QUEST_ERROR(write_loss_plot({&run, 1}, {}, folder / "a.png"), ErrorKind::kEnvironment,
                     "apt-get install gnuplot-nox");
}

class DrawnPicture : public ::testing::Test {
 protected:
  void SetUp() override {
    if (find_gnuplot().empty()) GTEST_SKIP() << "gnuplot is not installed";
  }
  testing::TemporaryFolder folder_;
};

TEST_F(DrawnPicture, PngAndSvgAreWhatTheirNamesSay) {
  // The name holds every character that means something to gnuplot or to a shell.
  const std::vector<RunMetrics> runs = {falling_run("it's \"$(id)\" `x` _{a}^b @ & \\n", 3.0),
                                        falling_run("w1a1", 4.0)};
  write_loss_plot(runs, {.title = "curves"}, folder_ / "loss.png");
  const std::string png = read_file(folder_ / "loss.png");
  EXPECT_EQ(png.substr(0, 8), "\x89PNG\r\n\x1a\n");
  EXPECT_GT(png.size(), 10000u);
  EXPECT_EQ(png.substr(16, 8), std::string("\0\0\x05\x78\0\0\x03\x84", 8)) << "1400 x 900";
  write_loss_plot(runs, {.log_x = true, .log_y = true}, folder_ / "loss.svg");
  const std::string svg = read_file(folder_ / "loss.svg");
  EXPECT_NE(svg.find("<svg"), std::string::npos);
  EXPECT_NE(svg.find("$(id)"), std::string::npos);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 2)
      << "temporary files were left behind";
}

TEST_F(DrawnPicture, RunsWithOnePointOrOneKindOfLossAreDrawn) {
  RunMetrics training_only = falling_run("training", 3.0), one_point;
  training_only.validation.clear();
  one_point.name = "one";
  one_point.validation = {{1, 100, 5.0}};
  write_loss_plot({&training_only, 1}, {}, folder_ / "a.png");
  write_loss_plot({&one_point, 1}, {}, folder_ / "b.png");
  EXPECT_TRUE(std::filesystem::exists(folder_ / "a.png"));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "b.png"));
}

TEST_F(DrawnPicture, FailureKeepsTheOldPictureAndTellsWhy) {
  folder_.write("old.png", "old");
  EXPECT_QUEST_ERROR(run_gnuplot("this is no command\n", folder_ / "old.png"),
                     ErrorKind::kEnvironment, "invalid command");
  EXPECT_EQ(read_file(folder_ / "old.png"), "old");
  EXPECT_QUEST_ERROR(run_gnuplot("plot x\n", folder_ / "no/folder/a.png"), ErrorKind::kIo,
                     "no/folder");
}

}  // namespace
}  // namespace quest::plot
