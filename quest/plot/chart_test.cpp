#include "quest/plot/chart.h"

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/testing.h"
#include "quest/plot/chart_axis.h"
#include "quest/plot/gnuplot.h"

namespace quest::plot {
namespace {

Figure small_figure() {
  Figure figure;
  figure.title = "it's a title";
  figure.note = "a note";
  Chart chart;
  chart.x = {.label = "size", .log = true, .numbers = Numbers::kBytes};
  chart.y = {.label = "loss"};
  chart.series.push_back({.name = "first", .points = {{1e6, 3.5}, {1e9, 2.5}}, .color = 1});
  chart.series.push_back({.points = {{1e6, 3, 2.5, 3.25}}, .look = Look::kBand});
  chart.lines.push_back({.vertical = true, .at = 1e7});
  figure.panels.emplace_back(chart);
  return figure;
}

size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

bool has(const std::string& text, const std::string& part) { return count(text, part) > 0; }

std::vector<std::string> texts(const std::vector<Tic>& tics) {
  std::vector<std::string> result;
  for (const Tic& tic : tics) result.push_back(tic.text);
  return result;
}

using Texts = std::vector<std::string>;

TEST(FigureScript, HoldsDataAxesAndLegend) {
  const std::string script = figure_script(small_figure(), ".png");
  EXPECT_EQ(script, figure_script(small_figure(), ".png")) << "not deterministic";
  EXPECT_TRUE(has(script, "set terminal pngcairo size 1400,900 font 'DejaVu Sans,20' noenhanced"));
  EXPECT_TRUE(has(script, "label 90 'it''s a title'")) << script;
  EXPECT_TRUE(has(script, "'a note'"));
  EXPECT_TRUE(has(script, "\n1000000 3.5\n1e+09 2.5\nEOD\n"));
  EXPECT_TRUE(has(script, "\n1000000 3 2.5 3.25\nEOD\n")) << "a band has its two ends";
  EXPECT_TRUE(has(script, "'10 MB' 10000000, '100 MB' 100000000"));
  EXPECT_TRUE(has(script, "from first 10000000, graph 0 to first 10000000, graph 1"));
  EXPECT_EQ(count(script, "'first'"), 1u) << "one entry; the unnamed band has none";
  EXPECT_TRUE(has(script, "lc rgb '#D55E00'"));
}

TEST(FigureScript, RangesLeaveAMarginAndTakeGivenEnds) {
  Figure figure = small_figure();
  Chart& chart = std::get<Chart>(figure.panels[0]);
  EXPECT_TRUE(has(figure_script(figure, ".png"), "set yrange [2.46:3.54]"));
  chart.y.low = 0;
  EXPECT_TRUE(has(figure_script(figure, ".png"), "set yrange [0:3.54]"));
  figure.panels.emplace_back(chart);
  std::get<Chart>(figure.panels[1]).series[0].points.push_back({1e6, 5});
  figure.columns = 2;
  EXPECT_EQ(count(figure_script(figure, ".png"), "set yrange [0:5.1]"), 1u);
  figure.same_y = true;
  const std::string script = figure_script(figure, ".png");
  EXPECT_EQ(count(script, "set yrange [0:5.1]"), 2u);
  EXPECT_EQ(count(script, "'first'"), 1u) << "one entry for both panels";
}

TEST(FigureScript, LegendStandsBelowWhenItsNamesAreLong) {
  Figure figure = small_figure();
  const std::string beside = figure_script(figure, ".png");
  std::get<Chart>(figure.panels[0]).series[0].name = std::string(60, 'm');
  const std::string below = figure_script(figure, ".png");
  const auto right_margin = [](const std::string& script) {
    return std::stod(script.substr(script.find("rmargin at screen ") + 18));
  };
  EXPECT_LT(right_margin(beside), 0.9);
  EXPECT_GT(right_margin(below), 0.95);
}

TEST(FigureScript, LeavesOutWhatALogarithmCannotShow) {
  Figure figure = small_figure();
  Chart& chart = std::get<Chart>(figure.panels[0]);
  chart.series[0].points = {{0, 1}, {-1, 1}, {1e6, std::nan("")}, {1e6, 3}};
  EXPECT_TRUE(has(figure_script(figure, ".svg"), "panel0_0 << EOD\n1000000 3\nEOD\n"));
  chart.series.clear();
  EXPECT_QUEST_ERROR(figure_script(figure, ".svg"), ErrorKind::kData, "it's a title");
  chart.series.push_back({.points = {{0, 1}}});
  EXPECT_QUEST_ERROR(figure_script(figure, ".svg"), ErrorKind::kData, "no point to draw");
}

TEST(FigureScript, RefusesWhatCannotBeDrawn) {
  Figure figure = small_figure();
  EXPECT_QUEST_ERROR(figure_script(figure, ".pdf"), ErrorKind::kUsage, ".pdf");
  figure.scale = 0.01;
  EXPECT_QUEST_ERROR(figure_script(figure, ".png"), ErrorKind::kUsage, "14 x 9");
  EXPECT_NO_THROW(figure_script(figure, ".svg")) << "an SVG has no pixels to scale";
  figure.panels.clear();
  EXPECT_QUEST_ERROR(figure_script(figure, ".png"), ErrorKind::kData, "nothing to draw");
}

HeatMap small_map() {
  return {.title = "map",
          .x_label = "x",
          .y_label = "y",
          .x_tics = {"1", "2"},
          .y_tics = {"a", "b"},
          .rows = {{1.0, 3.0}, {std::nullopt, 2.0}},
          .digits = 1};
}

TEST(FigureScript, HeatMapShadesItsCells) {
  Figure figure;
  figure.panels.emplace_back(small_map());
  const std::string script = figure_script(figure, ".png");
  const std::string dark = std::to_string(0x005590), light = std::to_string(0xe8f1f8);
  EXPECT_TRUE(has(script, "\n0 0 -0.48 0.48 -0.48 0.48 " + dark + "\n")) << "low is dark";
  EXPECT_TRUE(has(script, "\n1 0 0.52 1.48 -0.48 0.48 " + light + "\n"));
  EXPECT_TRUE(has(script, "\n0 0 \"1.0\" ")) << script;
  EXPECT_TRUE(has(script, "\n0 1 \"–\" ")) << "an empty cell";
  EXPECT_TRUE(has(script, "set xtics ('1' 0, '2' 1)"));
  std::get<HeatMap>(figure.panels[0]).low_is_dark = false;
  EXPECT_TRUE(has(figure_script(figure, ".png"), "\n1 0 0.52 1.48 -0.48 0.48 " + dark + "\n"));
  std::get<HeatMap>(figure.panels[0]).rows = {{std::nullopt, std::nullopt}};
  EXPECT_QUEST_ERROR(figure_script(figure, ".png"), ErrorKind::kData, "'map'");
}

TEST(FigureScript, HeatMapCanCompareWithinAColumn) {
  Figure figure;
  HeatMap map = small_map();
  map.rows = {{1.0, 30.0}, {2.0, 20.0}};
  map.shade_by_column = true;
  figure.panels.emplace_back(map);
  const std::string script = figure_script(figure, ".png"), dark = std::to_string(0x005590);
  EXPECT_TRUE(has(script, "\n0 0 -0.48 0.48 -0.48 0.48 " + dark + "\n"));
  EXPECT_TRUE(has(script, "\n1 1 0.52 1.48 0.52 1.48 " + dark + "\n"));
}

TEST(Tics, AreRoundAndAsManyAsFit) {
  const Axis bytes{.log = true, .numbers = Numbers::kBytes};
  EXPECT_EQ(texts(tics_of(bytes, {9e6, 2.1e8}, 50)),
            (Texts{"10 MB", "20 MB", "50 MB", "100 MB", "200 MB"}));
  EXPECT_EQ(texts(tics_of(bytes, {9e6, 2.1e8}, 15)), (Texts{"10 MB", "100 MB"}));
  EXPECT_EQ(texts(tics_of({.log = true, .numbers = Numbers::kCounts}, {2.5e7, 4.5e7}, 50)),
            (Texts{"30M", "40M"}))
      << "less than a step of 1, 2, 5";
  EXPECT_EQ(texts(tics_of({.log = true, .numbers = Numbers::kPowersOfTwo}, {30, 17000}, 50)),
            (Texts{"32", "128", "512", "2048", "8192"}));
  EXPECT_EQ(texts(tics_of({.log = true}, {1e-12, 1e12}, 30)).size(), 4u);
  EXPECT_TRUE(tics_of({}, {0, 1}, 50).empty()) << "gnuplot's own";
}

TEST(Tics, TextsHaveUnits) {
  EXPECT_EQ(count_text(822151168), "822M");
  EXPECT_EQ(count_text(1.6e9), "1.6B");
  EXPECT_EQ(count_text(999), "999");
  EXPECT_EQ(byte_text(1e9), "1 GB");
  EXPECT_EQ(byte_text(15241280), "15.2 MB");
  EXPECT_EQ(byte_text(999999), "1 MB");
}

TEST(ShownRange, OfOneValueIsNotEmpty) {
  const Range zero = shown_range({}, {0, 0}), one = shown_range({}, {-3, -3}),
              log = shown_range({.log = true}, {8, 8});
  EXPECT_LT(zero.low, zero.high);
  EXPECT_LT(one.low, -3);
  EXPECT_GT(one.high, -3);
  EXPECT_LT(log.low, 8);
  EXPECT_GT(log.high, 8);
}

TEST(WriteFigure, PngAndSvgAreWhatTheirNamesSay) {
  if (find_gnuplot().empty()) GTEST_SKIP() << "gnuplot is not installed";
  const testing::TemporaryFolder folder;
  Figure figure = small_figure();
  figure.panels.emplace_back(small_map());
  figure.columns = 2;
  std::get<Chart>(figure.panels[0]).series[0].name = "it's \"$(id)\" `x` _{a}^b @ & \\n";
  figure.scale = 0.5;
  write_figure(figure, folder / "a.png");
  const std::string png = read_file(folder / "a.png");
  EXPECT_EQ(png.substr(0, 8), "\x89PNG\r\n\x1a\n");
  EXPECT_EQ(png.substr(16, 8), std::string("\0\0\x02\xbc\0\0\x01\xc2", 8)) << "700 x 450";
  write_figure(figure, folder / "a.svg");
  const std::string svg = read_file(folder / "a.svg");
  EXPECT_TRUE(has(svg, "<svg"));
  EXPECT_TRUE(has(svg, "$(id)"));
  EXPECT_TRUE(has(svg, "2.0")) << "a cell's number";
}

}  // namespace
}  // namespace quest::plot
