#include "quest/plot/paper_figures.h"

#include <cmath>
#include <fstream>

#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/testing.h"
#include "quest/plot/figure_groups.h"
#include "quest/plot/gnuplot.h"
#include "quest/quant/registered_quantizer.h"

namespace quest::plot {
namespace {

const PaperData& paper() {
  static const PaperData data = read_paper_data(std::string(QUEST_SOURCE_DIR) + "/data/paper");
  return data;
}

Figure draw(std::string_view name, const FigureOptions& options = {}) {
  return paper_figure(name, paper(), options);
}

const Chart& chart_of(const Figure& figure, size_t panel = 0) {
  return std::get<Chart>(figure.panels.at(panel));
}

const Series& series_of(const Chart& chart, const std::string& name) {
  for (const Series& series : chart.series) {
    if (series.name == name) return series;
  }
  ADD_FAILURE() << "no series '" << name << "'";
  return chart.series.at(0);
}

double y_at(const Chart& chart, const std::string& name, double x) {
  for (const ChartPoint& p : series_of(chart, name).points) {
    if (std::fabs(p.x - x) <= 1e-9 * std::fabs(x)) return p.y;
  }
  ADD_FAILURE() << name << " has no point at " << x;
  return 0;
}

TEST(PaperFigures, AllOfThemAreDrawnFromThePaper) {
  int drawn = 0;
  for (const FigureInfo& info : paper_figures()) {
    if (!info.has_paper_data) continue;
    for (const char* extension : {".png", ".svg"}) {
      EXPECT_NO_THROW(figure_script(draw(info.name), extension)) << info.name;
    }
    ++drawn;
  }
  EXPECT_EQ(drawn, 13);
  for (const char* name : {"fig10", "fig12"}) {
    EXPECT_QUEST_ERROR(draw(name), ErrorKind::kUsage, "trials.csv");
  }
  EXPECT_QUEST_ERROR(draw("fig15"), ErrorKind::kUsage, "fig14");
}

TEST(PaperFigures, Figure1HasMeasuredLossAndLawByBytes) {
  const Figure figure = draw("fig1");
  const Chart& chart = chart_of(figure);
  EXPECT_NEAR(y_at(chart, "BF16", 2.0 * 30482560), 3.20714, 1e-5);
  EXPECT_NEAR(y_at(chart, "W4A4", 0.5 * 30482560), 3.27212, 1e-5);
  EXPECT_EQ(series_of(chart, "W1A1").points.size(), 6u) << "six sizes at 100 tokens a parameter";
  EXPECT_EQ(series_of(chart, "W2A2").points.size(), 4u) << "not those of fewer tokens";
  // The curve of a format stands before its points; the authors' law is 0.4 % off at most.
  for (size_t i = 0; i + 1 < chart.series.size(); i += 2) {
    ASSERT_EQ(chart.series[i].look, Look::kLine);
    const ChartPoint& first = chart.series[i + 1].points.front();
    double nearest = 1e300, law = 0;
    for (const ChartPoint& p : chart.series[i].points) {
      if (std::fabs(std::log(p.x / first.x)) < nearest) {
        nearest = std::fabs(std::log(p.x / first.x));
        law = p.y;
      }
    }
    EXPECT_NEAR(law / first.y, 1, 0.015) << chart.series[i + 1].name;
  }
}

TEST(PaperFigures, Figure2GoesFromTheFirstBlockToTheLast) {
  const Figure figure = draw("fig2");
  const Chart& chart = chart_of(figure);
  EXPECT_EQ(y_at(chart, "QuEST", 5.5), 0.98828125);
  EXPECT_EQ(y_at(chart, "QuEST", 0), 0.828125);
  EXPECT_EQ(y_at(chart, "STE", 0), 0.008873962797224522);
  EXPECT_EQ(series_of(chart, "QuEST without Hadamard").points.front().x, 0);
  const Series& band = chart.series.front();
  ASSERT_EQ(band.look, Look::kBand);
  EXPECT_EQ(band.points.back().high, 1) << "no cosine above 1";
  EXPECT_DOUBLE_EQ(band.points.back().low, 0.98828125 - 0.0771484375);
}

TEST(PaperFigures, Figure3HasMethodsByBits) {
  const Figure figure = draw("fig3");
  ASSERT_EQ(figure.panels.size(), 2u);
  EXPECT_EQ(y_at(chart_of(figure, 0), "STE", 1), 5.256);
  EXPECT_EQ(y_at(chart_of(figure, 0), "LSQ", 8), 3.23049);
  EXPECT_EQ(y_at(chart_of(figure, 1), "QuEST", 1), 3.791);
  EXPECT_EQ(y_at(chart_of(figure, 1), "QuaRot (post-training)", 4), 3.201);
  EXPECT_EQ(series_of(chart_of(figure, 1), "STE").points.size(), 4u);
}

TEST(PaperFigures, Figure4DividesByBits) {
  const Figure figure = draw("fig4");
  EXPECT_EQ(y_at(chart_of(figure, 0), "weights and activations", 4), 0.6918);
  EXPECT_EQ(y_at(chart_of(figure, 0), "weights and activations", 16), 1);
  EXPECT_DOUBLE_EQ(y_at(chart_of(figure, 1), "weights and activations", 4), 0.6918 / 4);
  EXPECT_DOUBLE_EQ(y_at(chart_of(figure, 1), "weights only", 3), 0.6531 / 3);
  EXPECT_DOUBLE_EQ(y_at(chart_of(figure, 1), "without Hadamard", 8), 0.9376 / 8);
  EXPECT_DOUBLE_EQ(y_at(chart_of(figure, 1), "INT4, 4:8 sparse", 2.5), 0.3812 / 2.5);
  EXPECT_EQ(y_at(chart_of(figure, 0), "FP4", 4), 0.6296);
  FigureOptions own;
  own.own_law = paper().law;
  own.own_law->eff["gauss3"] = 0.4;
  const Figure both = draw("fig4", own);
  EXPECT_EQ(y_at(chart_of(both), "own: weights and activations", 4), 0.6918);
  EXPECT_EQ(y_at(chart_of(both), "own: GAUSS3", 3), 0.4);
}

TEST(PaperFigures, Figure5SeparatesTokensPerParameter) {
  const Figure figure = draw("fig5");
  ASSERT_EQ(figure.panels.size(), 3u);
  for (size_t panel = 0; panel < 3; ++panel) {
    for (const char* name : {"D/N = 25", "D/N = 50"}) {
      EXPECT_EQ(series_of(chart_of(figure, panel), name).points.size(), 4u) << panel << name;
    }
  }
  EXPECT_EQ(series_of(chart_of(figure, 2), "D/N = 100").points.size(), 6u) << "W4A4";
  EXPECT_GT(y_at(chart_of(figure, 0), "D/N = 25", 30482560),
            y_at(chart_of(figure, 0), "D/N = 50", 30482560));
}

TEST(PaperFigures, Figures6And7AreTimesOfBf16OverInt4) {
  const Figure layers = draw("fig6");
  ASSERT_EQ(layers.panels.size(), 8u);
  EXPECT_EQ(chart_of(layers, 0).title, "Q, K, V: 7680×2560");
  EXPECT_EQ(chart_of(layers, 3).title, "down: 2560×6912");
  EXPECT_EQ(chart_of(layers, 4).title, "Q, K, V: 12288×4096");
  EXPECT_DOUBLE_EQ(y_at(chart_of(layers, 0), "RTX 4090, INT4", 4096),
                   0.0009382009506225586 / 0.00038763284683227537);
  const Figure prefill = draw("fig7");
  ASSERT_EQ(prefill.panels.size(), 2u);
  EXPECT_EQ(chart_of(prefill, 0).title, "800M parameters");
  EXPECT_DOUBLE_EQ(y_at(chart_of(prefill, 1), "RTX 4090, INT4 with Hadamard", 8),
                   0.11581301689147949 / 0.07539033889770508);
}

TEST(PaperFigures, Figure8HasTheShareOfAGaussian) {
  const Figure figure = draw("fig8");
  const Chart& chart = chart_of(figure);
  EXPECT_DOUBLE_EQ(y_at(chart, "paper, with Hadamard", 0), 100 * 9.036064147949219e-05);
  EXPECT_DOUBLE_EQ(y_at(chart, "paper, without Hadamard", 11000), 100 * 0.00043457746505737305);
  // P(|x| > 3.8849387 * 256 / 255) of N(0, 1).
  EXPECT_NEAR(y_at(chart, "N(0, 1) on the 8-bit grid", 500), 0.009618, 2e-5);
}

TEST(PaperFigures, Figure9IsATriangle) {
  const Figure figure = draw("fig9");
  ASSERT_EQ(figure.panels.size(), 2u);
  const HeatMap& map = std::get<HeatMap>(figure.panels[0]);
  EXPECT_EQ(map.x_tics.front(), "2000") << "a column without values is left out";
  EXPECT_EQ(map.y_tics, (std::vector<std::string>{"0", "2000", "4000", "6000", "8000"}));
  EXPECT_EQ(map.rows[4][4], 0.7263157894736842);
  EXPECT_FALSE(map.rows[4][3]);
  EXPECT_EQ(map.rows[0][0], 0.0);
}

TEST(PaperFigures, Figures11And13HaveTheOtherFormats) {
  const Figure formats = draw("fig11");
  EXPECT_NEAR(y_at(chart_of(formats, 0), "INT4, 4:8 sparse", 30482560 * 2.5 / 8), 3.38, 0.005);
  EXPECT_EQ(y_at(chart_of(formats, 1), "FP4", 0.012684904138719949), 0.6296);
  const Figure families = draw("fig13");
  ASSERT_EQ(families.panels.size(), 3u);
  EXPECT_EQ(series_of(chart_of(families, 0), "1 bit").points.size(), 4u);
  EXPECT_EQ(series_of(chart_of(families, 1), "1 bit").points.size(), 5u);
  EXPECT_EQ(series_of(chart_of(families, 2), "INT4, 4:8 sparse").points.size(), 6u);
}

TEST(PaperFigures, Figure14CrossesWhereTheLossesAreEqual) {
  for (const double memory : {1e7, 4e8}) {
    const std::optional<double> ratio = crossing_ratio(paper().law, "w4a4", "w3a3", memory);
    ASSERT_TRUE(ratio);
    const double n4 = 2 * memory, n3 = 8 * memory / 3;
    EXPECT_NEAR(paper().law.loss(n4, *ratio * n4, "w4a4"),
                paper().law.loss(n3, *ratio * n3, "w3a3"), 1e-9);
  }
  EXPECT_FALSE(crossing_ratio(paper().law, "w1a1", "w4a4", 4e8)) << "never better";
  const Figure figure = draw("fig14");
  const Chart& chart = chart_of(figure);
  EXPECT_EQ(chart.lines.size(), 1u);
  EXPECT_EQ(series_of(chart, "4 bits").points.back().y, 0) << "best with many tokens";
  FigureOptions wrong;
  wrong.memory_bytes = 0;
  EXPECT_QUEST_ERROR(draw("fig14", wrong), ErrorKind::kUsage, "memory");
}

TEST(PaperFigures, Table4IsShadedByColumn) {
  const Figure figure = draw("table4");
  const HeatMap& map = std::get<HeatMap>(figure.panels.at(0));
  EXPECT_EQ(map.x_tics, (std::vector<std::string>{"2", "3", "4"}));
  EXPECT_EQ(map.y_tics[2], "0.1");
  EXPECT_EQ(map.rows[2][1], 30.26);
  EXPECT_TRUE(map.shade_by_column);
}

class OwnRuns : public ::testing::Test {
 protected:
  testing::TemporaryFolder folder_;
  std::string path(const char* name) const { return (folder_ / name).string(); }
};

TEST_F(OwnRuns, AreLaidOverTheLawFigures) {
  folder_.write("t.csv",
                "format,params,tokens,loss\n"
                "w4a4,30482560,3e9,3.3\nw4a4,30482560,9e8,3.4\ngauss3,1e6,1e8,4\n"
                "w4a4_nohadamard_ste,30482560,3e9,3.9\nbf16,30482560,3e9,3.2\n");
  const FigureOptions own{.own = {path("t.csv")}};
  const Figure law = draw("fig1", own);
  EXPECT_EQ(series_of(chart_of(law), "own W4A4").points.size(), 2u);
  EXPECT_EQ(y_at(chart_of(law), "own GAUSS3", 3e6 / 8), 4) << "a format that the paper lacks";
  const Figure data = draw("fig5", own);
  EXPECT_EQ(data.panels.size(), 6u) << "a panel for each other format";
  EXPECT_EQ(y_at(chart_of(data, 2), "own, D/N = 30", 30482560), 3.4);
  const Figure families = draw("fig13", own);
  EXPECT_EQ(chart_of(families, 3).title, "other own formats");
  const Figure methods = draw("fig3", own);
  ASSERT_EQ(methods.panels.size(), 3u) << "30M, 50M and the 1M of gauss3";
  EXPECT_EQ(y_at(chart_of(methods, 0), "own QuEST", 4), 3.3) << "the best of two";
  EXPECT_EQ(y_at(chart_of(methods, 0), "own STE", 4), 3.9);
  EXPECT_EQ(y_at(chart_of(methods, 0), "own BF16", 1), 3.2) << "a line for all widths";
  // What was rounded after training is no QuEST, and is drawn in QuaRot's color.
  FigureOptions rounded = own;
  rounded.own_rounded = {{"w4a4", 30482560, 3e9, 3.6, "r"}, {"w2a2", 30482560, 3e9, 4.5, "r"}};
  const Chart with_rounded = chart_of(draw("fig3", rounded), 0);
  EXPECT_EQ(y_at(with_rounded, "own QuEST", 4), 3.3);
  EXPECT_EQ(y_at(with_rounded, "own BF16 rounded after training", 2), 4.5);
  EXPECT_EQ(series_of(with_rounded, "own BF16 rounded after training").color,
            series_of(with_rounded, "QuaRot (post-training)").color);
  const Figure alone = draw("fig3", {.own = {path("t.csv")}, .own_only = true});
  EXPECT_EQ(chart_of(alone, 0).title, "own runs, 1M parameters");
  for (const char* name : {"fig1", "fig3", "fig5", "fig11", "fig13"}) {
    EXPECT_NO_THROW(figure_script(draw(name, own), ".png")) << name;
    EXPECT_NO_THROW(figure_script(draw(name, {.own = {path("t.csv")}, .own_only = true}), ".png"))
        << name;
  }
  folder_.write("u.csv", "format,params,tokens,loss\nq9,1,1,1\n");
  for (const char* name : {"fig1", "fig3", "fig11", "fig13"}) {
    EXPECT_QUEST_ERROR(draw(name, {.own = {path("u.csv")}}), ErrorKind::kUsage,
                       "u.csv line 2: format 'q9': the figure needs the bits");
  }
  EXPECT_EQ(chart_of(draw("fig5", {.own = {path("u.csv")}}), 3).title, "Q9") << "needs no bits";
}

// Of quantizers that another program registers: drawn by the width in their names.
TEST_F(OwnRuns, OfUnknownFormatsBearTheirNames) {
  folder_.write("t.csv",
                "format,params,tokens,loss\nw2a2_mine,30482560,3e9,3.9\n"
                "w4a4_mine,30482560,3e9,3.5\nw9a9,30482560,3e9,3.1\n");
  FigureOptions own{.own = {path("t.csv")}};
  EXPECT_EQ(y_at(chart_of(draw("fig1", own)), "own W2A2 MINE", 2 * 30482560. / 8), 3.9);
  const Chart methods = chart_of(draw("fig3", own));
  EXPECT_EQ(y_at(methods, "own MINE", 2), 3.9);
  EXPECT_EQ(y_at(methods, "own MINE", 4), 3.5);
  EXPECT_EQ(y_at(methods, "own W9A9", 9), 3.1);
  EXPECT_EQ(chart_of(draw("fig13", own), 3).series.size(), 3u) << "other own formats";
  own.own_law = paper().law;
  own.own_law->eff = {{"bf16", 1}, {"w2a2_mine", 0.2}, {"soft", 0.3}};
  own.own.clear();
  const Figure efficiency = draw("fig4", own);
  EXPECT_EQ(y_at(chart_of(efficiency), "own: W2A2 MINE", 2), 0.2);
  EXPECT_EQ(efficiency.note.substr(efficiency.note.size() - 6), ": soft");
  EXPECT_EQ(draw("fig4").note.find("left out"), std::string::npos);
}

// As the program that has torch registers them.
TEST_F(OwnRuns, OfRegisteredQuantizersBearTheirNames) {
  for (const char* name : {"lsq", "pact"}) {
    if (find_registered_quantizer(name) == nullptr)
      register_quantizer_name({.name = name, .help = ""});
  }
  folder_.write("t.csv",
                "format,params,tokens,loss\nw4a4_lsq,30482560,3e9,3.3\n"
                "w4a4_lsq_hadamard,30482560,3e9,3.2\nw2a16_pact,30482560,3e9,3.6\n"
                "w4a4_ste,30482560,3e9,3.4\n");
  const Chart chart = chart_of(draw("fig3", {.own = {path("t.csv")}}));
  EXPECT_EQ(y_at(chart, "own LSQ", 4), 3.3);
  EXPECT_EQ(series_of(chart, "own LSQ").color, series_of(chart, "LSQ").color);
  EXPECT_EQ(y_at(chart, "own LSQ with Hadamard", 4), 3.2);
  EXPECT_EQ(y_at(chart, "own PACT, weights only", 2), 3.6);
  EXPECT_EQ(y_at(chart, "own STE with Hadamard", 4), 3.4);
}

TEST_F(OwnRuns, AreLaidOverTheDiagnosticsFigures) {
  std::string text;
  for (int step = 0; step <= 2400; step += 100) {
    std::string retained;
    for (int since = 0; since < step; since += 100) {
      retained += fmt::format("{}{{\"since_step\":{},\"retained\":0.5}}",
                              retained.empty() ? "" : ",", since);
    }
    text += fmt::format(
        R"({{"step":{0},"tokens":{0},"diagnostics":{{"layers":[{{"weight":{{"masked":0.01}}}}],)"
        R"("gradient_cosine":[{{"block":0,"part":"mlp","mean":0.5,"std":0.1}}],)"
        R"("masks_retained":[{1}]}}}})"
        "\n",
        step, retained);
  }
  folder_.write("run/metrics.jsonl", text);
  const FigureOptions own{.own = {path("run")}, .labels = {"mine"}};
  EXPECT_EQ(y_at(chart_of(draw("fig2", own)), "own, mine (step 2400)", 0.5), 0.5);
  EXPECT_DOUBLE_EQ(y_at(chart_of(draw("fig8", own)), "own, mine", 2400), 1) << "in percent";
  const Figure retention = draw("fig9", own);
  const HeatMap& map = std::get<HeatMap>(retention.panels.at(2));
  EXPECT_EQ(map.title, "own, mine");
  EXPECT_LE(map.x_tics.size(), 10u) << "thinned";
  EXPECT_EQ(map.x_tics.back(), "2400");
  EXPECT_EQ(map.y_tics.front(), "0");
  FigureOptions inputs = own;
  inputs.side = "input";
  EXPECT_QUEST_ERROR(draw("fig8", inputs), ErrorKind::kData, "mine");
  inputs.side = "output";
  EXPECT_QUEST_ERROR(draw("fig8", inputs), ErrorKind::kUsage, "output");
  folder_.write("bare/metrics.jsonl", "{\"step\":1,\"tokens\":1,\"diagnostics\":{}}\n");
  EXPECT_QUEST_ERROR(draw("fig2", {.own = {path("bare")}}), ErrorKind::kData, "gradient_cosine");
  EXPECT_QUEST_ERROR(draw("fig9", {.own = {path("bare")}}), ErrorKind::kData, "masks_retained");
}

TEST_F(OwnRuns, AreLaidOverTheSpeedFigures) {
  folder_.write(
      "l.json",
      R"({"columns":["batch_tokens","bf16","int4"],"layers":{"7680x2560":[[32,2e-5,1e-5]],"x":[[1,1,4]]}})");
  const Figure layers = draw("fig6", {.own = {path("l.json")}, .labels = {"H100"}});
  EXPECT_EQ(layers.panels.size(), 9u) << "a panel for the other layer";
  EXPECT_EQ(y_at(chart_of(layers, 0), "own, H100: INT4", 1), 0.25);
  EXPECT_EQ(y_at(chart_of(layers, 1), "own, H100: INT4", 32), 2);
  folder_.write("p.json",
                R"({"columns":["bf16","int4"],"batch_sizes":[1,2],"model_7B":[[2,1],[3,1]]})");
  const Figure prefill = draw("fig7", {.own = {path("p.json")}, .own_only = true});
  EXPECT_EQ(y_at(chart_of(prefill, 0), "own, p: INT4", 2), 3);
  // As `quest bench --json` writes them: columns by recipe, null where nothing was measured.
  folder_.write("bench.json", R"({"gpu":"NVIDIA H200","measurements":[],
      "columns":["batch_tokens","bf16","w4a4_nohadamard","w4a4","w4a4_int8_weights"],
      "layers":{"12288x4096":[[1,4,1,2,null],[4096,4,2,2,1]]}})");
  const Figure bench = draw("fig6", {.own = {path("bench.json")}});
  EXPECT_EQ(y_at(chart_of(bench, 4), "own, H200: W4A4 without Hadamard", 1), 4);
  const Series& kept = series_of(chart_of(bench, 4), "own, H200: W4A4, weights kept as int8");
  EXPECT_EQ(kept.points.size(), 1u);
  EXPECT_EQ(kept.points.front().y, 4);
  folder_.write("sizes.json", R"({"columns":["bf16","w4a4"],"batch_sizes":[8],
      "model_1.6B":[[3,2]],"model_800M":[[3,1]]})");
  const Figure sizes = draw("fig7", {.own = {path("sizes.json")}});
  ASSERT_EQ(sizes.panels.size(), 2u) << "the paper's 1600M is 1.6B";
  EXPECT_EQ(chart_of(sizes, 1).title, "1.6B parameters");
  EXPECT_EQ(y_at(chart_of(sizes, 1), "own, sizes: W4A4", 8), 1.5);
  const auto wrong = [&](const char* name, const char* content, const char* text) {
    folder_.write("w.json", content);
    EXPECT_QUEST_ERROR(draw(name, {.own = {path("w.json")}}), ErrorKind::kData, text);
  };
  wrong("fig6", R"({"columns":["a","b","c"],"layers":{"1x1":[[1,null,2]]}})", "no positive number");
  wrong("fig6", "{}", "columns");
  wrong("fig6", "[]", "expected an object");
  wrong("fig6", R"({"columns":["a","b"],"layers":{}})", "2 columns");
  wrong("fig6", R"({"columns":["a","b","c"]})", "layers");
  wrong("fig6", R"({"columns":["a","b","c"],"layers":{"1x1":[[1,2]]}})", "1x1: a row must have 3");
  wrong("fig6", R"({"columns":["a","b","c"],"layers":{"1x1":[[1,0,2]]}})", "no positive number");
  wrong("fig7", R"({"columns":["a","b"],"batch_sizes":[1]})", "model_NAME");
  wrong("fig7", R"({"columns":["a","b"],"batch_sizes":[1,2],"model_x":[[1,1]]})", "1 rows for 2");
}

TEST_F(OwnRuns, OfASweepBecomeAHeatMap) {
  folder_.write("s/trials.csv", "state,lr,s,seed,loss\ndone,1,1,0,3\ndone,2,1,0,4\ndone,2,3,0,5\n");
  const Figure figure = draw("fig10", {.own = {path("s")}});
  const HeatMap& map = std::get<HeatMap>(figure.panels.at(0));
  EXPECT_EQ(map.x_label, "lr") << "the two that vary";
  EXPECT_EQ(map.y_label, "s");
  const Figure turned = draw("fig12", {.own = {path("s")}, .x_key = "s"});
  EXPECT_EQ(std::get<HeatMap>(turned.panels.at(0)).y_label, "lr");
  EXPECT_EQ(draw("table4", {.own = {path("s")}}).panels.size(), 2u);
  folder_.write("t/trials.csv", "state,lr,s,seed,loss\ndone,1,1,1,4\ndone,2,1,1,5\ndone,2,3,1,6\n");
  const std::vector<std::string> both = {path("s"), path("t")};
  EXPECT_EQ(draw("fig10", {.own = both}).panels.size(), 2u);
  const Figure mean = draw("fig10", {.own = both, .labels = {"seed 0", "seed 1"}, .mean = true});
  ASSERT_EQ(mean.panels.size(), 1u);
  EXPECT_EQ(std::get<HeatMap>(mean.panels[0]).title, "mean of seed 0, seed 1");
  EXPECT_EQ(std::get<HeatMap>(mean.panels[0]).rows[0][0], 3.5);
  folder_.write("v/trials.csv", "state,lr,s,seed,loss\ndone,1,1,0,3\ndone,2,2,2,4\n");
  EXPECT_QUEST_ERROR(draw("fig10", {.own = {path("v")}}), ErrorKind::kUsage, "varies lr, s, seed");
  folder_.write("e/trials.csv", "state,lr,s,loss\nfailed,1,1,\npending,2,2,\n");
  EXPECT_QUEST_ERROR(figure_script(draw("fig10", {.own = {path("e")}}), ".png"), ErrorKind::kData,
                     "no value");
}

TEST_F(OwnRuns, ThatDoNotFitAreRefused) {
  EXPECT_QUEST_ERROR(draw("fig4", {.own = {"x"}}), ErrorKind::kUsage, "leave out x");
  EXPECT_QUEST_ERROR(draw("fig3", {.own_only = true}), ErrorKind::kUsage, "give own data");
  EXPECT_QUEST_ERROR(draw("fig8", {.own = {"a"}, .labels = {"b", "c"}}), ErrorKind::kUsage,
                     "2 times for 1");
  EXPECT_QUEST_ERROR(draw("fig1", {.own = {path("absent.csv")}}), ErrorKind::kIo, "absent.csv");
}

TEST_F(OwnRuns, MissingOrBrokenPaperDataSayWhatIsWrong) {
  EXPECT_QUEST_ERROR(read_paper_data(folder_.path()), ErrorKind::kIo, "--paper-data");
  const std::string runs = read_file(paper().folder / "runs.csv");
  folder_.write("runs.csv", runs);
  folder_.write("figures.json", "{}");
  EXPECT_QUEST_ERROR(read_paper_data(folder_.path()), ErrorKind::kData, "reference_fit");
  // A folder with the law alone draws what needs no more.
  const Json law = {{"reference_fit", paper().figure("reference_fit")}};
  folder_.write("figures.json", law.dump());
  const PaperData part = read_paper_data(folder_.path());
  EXPECT_NO_THROW(paper_figure("fig1", part, {}));
  for (const char* name : {"fig2", "fig3", "fig6", "fig7", "fig8", "fig9", "fig11", "table4"}) {
    EXPECT_QUEST_ERROR(paper_figure(name, part, {}), ErrorKind::kData, "figures.json");
  }
}

TEST(PaperLaw, IsThatOfTheAuthors) {
  // What it says of the 30M models, to the digits that figures.json has of it.
  EXPECT_NEAR(paper().law.loss(30482560, 2999975936, "bf16"), 3.2076, 3e-4);
  EXPECT_NEAR(paper().law.loss(30482560, 2999975936, "w4a4"), 3.2721, 3e-4);
  EXPECT_EQ(paper().law.efficiency("w2a16"), 0.4137);
  EXPECT_EQ(paper().law.efficiency("w2a2_nohadamard"), 0.0784);
  EXPECT_EQ(paper().law.eff.size(), 17u);
}

TEST(FormatLabel, IsForReaders) {
  EXPECT_EQ(format_label("bf16"), "BF16");
  EXPECT_EQ(format_label("w4a4_nohadamard"), "W4A4 without Hadamard");
  EXPECT_EQ(format_label("w4a4_nohadamard_ste"), "W4A4 without Hadamard STE");
  EXPECT_EQ(format_label("bitnet_hadamard"), "BitNet with Hadamard");
  EXPECT_EQ(format_label("int4_4of8_ste"), "INT4, 4:8 sparse STE");
}

TEST(PaperFigures, OnePictureIsDrawn) {
  if (find_gnuplot().empty()) GTEST_SKIP() << "gnuplot is not installed";
  const testing::TemporaryFolder folder;
  Figure figure = draw("fig9");
  figure.scale = 0.4;
  write_figure(figure, folder / "a.png");
  EXPECT_EQ(read_file(folder / "a.png").substr(1, 3), "PNG");
  write_figure(draw("fig1"), folder / "a.svg");
  EXPECT_NE(read_file(folder / "a.svg").find("W4A4"), std::string::npos);
}

}  // namespace
}  // namespace quest::plot
