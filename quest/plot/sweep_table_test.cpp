#include "quest/plot/sweep_table.h"

#include <gtest/gtest.h>

#include "quest/base/testing.h"

namespace quest::plot {
namespace {

constexpr const char* kHeader =
    "trial,state,optimizer.lr,quant.weight.trust_scale,seed,steps,tokens,loss,run\n";

SweepTable table_of(const std::string& rows) { return parse_sweep_table(kHeader + rows, "t"); }

TEST(SweepTable, ReadsSettingsAndLosses) {
  const SweepTable table =
      table_of("0,done,1e-3,\"a,\"\"b\"\"\",0,10,99,3.5,r0\r\n\n1,failed,1e-2,1,0,5,40,,r1\n");
  EXPECT_EQ(table.keys,
            (std::vector<std::string>{"optimizer.lr", "quant.weight.trust_scale", "seed"}));
  ASSERT_EQ(table.trials.size(), 2u);
  EXPECT_EQ(table.trials[0].loss, 3.5);
  EXPECT_EQ(table.trials[0].settings.at("quant.weight.trust_scale"), "a,\"b\"");
  EXPECT_EQ(table.trials[1].state, "failed");
  EXPECT_FALSE(table.trials[1].loss);
  EXPECT_EQ(varied_keys(table),
            (std::vector<std::string>{"optimizer.lr", "quant.weight.trust_scale"}));
}

TEST(SweepTable, ErrorsNameTheLine) {
  EXPECT_QUEST_ERROR(parse_sweep_table("", "t"), ErrorKind::kData, "no trials");
  EXPECT_QUEST_ERROR(parse_sweep_table("trial,loss\n0,1\n", "t"), ErrorKind::kData, "state");
  EXPECT_QUEST_ERROR(parse_sweep_table("state,loss,a,a\n", "t"), ErrorKind::kData, "'a'");
  EXPECT_QUEST_ERROR(table_of("0,done,1\n"), ErrorKind::kData, "t line 2: 3 values");
  EXPECT_QUEST_ERROR(table_of("0,done,1,1,0,1,1,high,r\n"), ErrorKind::kData, "loss is 'high'");
  EXPECT_QUEST_ERROR(table_of("0,done,1,1,0,1,1,\"3,r\n"), ErrorKind::kData, "quotation");
  EXPECT_QUEST_ERROR(read_sweep_table("/nonexistent"), ErrorKind::kIo, "nonexistent");
}

TEST(SweepTable, CutOffAnywhereIsReadOrRefused) {
  const std::string text =
      std::string(kHeader) + "0,done,1e-3,\"a,b\",0,10,99,3.5,r0\n1,failed,1e-2,1,0,5,40,,r1\n";
  for (size_t size = 0; size < text.size(); ++size) {
    try {
      EXPECT_FALSE(parse_sweep_table(text.substr(0, size), "t").trials.empty());
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData) << size;
    }
  }
}

TEST(SweepHeatMap, HoldsTheBestOfEachPair) {
  const SweepTable table = table_of(
      "0,done,0.01,2,0,1,1,3.5,r\n"
      "1,done,0.01,2,1,1,1,3.25,r\n"
      "2,failed,0.01,10,0,1,1,,r\n"
      "3,done,0.002,10,0,1,1,3.75,r\n"
      "4,stopped,0.002,2,0,1,1,3.5,r\n"
      "5,pending,0.01,2,2,1,1,1.5,r\n"
      "6,done,0.01,10,1,1,1,nan,r\n");
  const std::string x = "optimizer.lr", y = "quant.weight.trust_scale";
  const HeatMap map = sweep_heat_map({&table, 1}, x, y, false);
  EXPECT_EQ(map.x_tics, (std::vector<std::string>{"0.002", "0.01"})) << "in numerical order";
  EXPECT_EQ(map.y_tics, (std::vector<std::string>{"2", "10"}));
  using Row = std::vector<std::optional<double>>;
  EXPECT_EQ(map.rows, (std::vector<Row>{{std::nullopt, 3.25}, {3.75, std::nullopt}}));
  const HeatMap perplexity = sweep_heat_map({&table, 1}, x, y, true);
  EXPECT_DOUBLE_EQ(perplexity.rows[0][1].value(), std::exp(3.25));
  EXPECT_QUEST_ERROR(sweep_heat_map({&table, 1}, "lr", "seed", false), ErrorKind::kUsage,
                     "no setting 'lr'; it has optimizer.lr");
  EXPECT_QUEST_ERROR(sweep_heat_map({&table, 1}, "seed", "seed", false), ErrorKind::kUsage,
                     "both seed");
}

TEST(SweepHeatMap, OfSeveralSweepsHoldsTheMean) {
  const std::string x = "optimizer.lr", y = "quant.weight.trust_scale";
  const std::vector<SweepTable> sweeps = {table_of("0,done,1,1,0,1,1,3,r\n"
                                                   "1,done,1,1,0,1,1,5,r\n"
                                                   "2,done,2,1,0,1,1,3.5,r\n"),
                                          table_of("0,done,1,1,1,1,1,4,r\n"
                                                   "1,failed,2,1,1,1,1,,r\n"
                                                   "2,done,0.5,1,1,1,1,2,r\n")};
  const HeatMap map = sweep_heat_map(sweeps, x, y, false);
  EXPECT_EQ(map.x_tics, (std::vector<std::string>{"0.5", "1", "2"})) << "the values of both";
  using Row = std::vector<std::optional<double>>;
  EXPECT_EQ(map.rows, (std::vector<Row>{{std::nullopt, 3.5, std::nullopt}}))
      << "of the best of each; none where one has none";
  EXPECT_DOUBLE_EQ(sweep_heat_map(sweeps, x, y, true).rows[0][1].value(), std::exp(3.5));
}

TEST(SweepHeatMap, KeepsTheOrderOfWords) {
  const SweepTable table = table_of("0,done,w4a4,1,0,1,1,3,r\n1,done,bf16,1,0,1,1,3,r\n");
  EXPECT_EQ(sweep_heat_map({&table, 1}, "optimizer.lr", "seed", false).x_tics,
            (std::vector<std::string>{"w4a4", "bf16"}));
}

TEST(SweepChart, HasALineForEachSweep) {
  const std::string key = "optimizer.lr";
  const std::vector<NamedSweep> sweeps = {{"seed 0", table_of("0,done,8e-3,1,0,1,1,3.5,r\n"
                                                              "1,done,1e-3,1,0,1,1,3.75,r\n"
                                                              "2,done,1e-3,2,0,1,1,3.25,r\n"
                                                              "3,failed,1,1,0,1,1,,r\n")},
                                          {"seed 1", table_of("0,done,2e-3,1,1,1,1,4,r\n")}};
  const Chart chart = sweep_chart(sweeps, key);
  EXPECT_TRUE(chart.x.log);
  ASSERT_EQ(chart.series.size(), 2u);
  const Series& first = chart.series[0];
  ASSERT_EQ(first.points.size(), 2u) << "by rising value, the failed one left out";
  EXPECT_EQ(first.points[0].x, 1e-3);
  EXPECT_EQ(first.points[0].y, 3.25) << "the best of two";
  EXPECT_EQ(first.points[1].y, 3.5);
  EXPECT_NE(first.color, chart.series[1].color);
  ASSERT_EQ(chart.x.tics.size(), 3u) << "each value of either";
  EXPECT_EQ(chart.x.tics[1].text, "2e-3");
  EXPECT_QUEST_ERROR(sweep_chart(sweeps, "lr"), ErrorKind::kUsage, "no setting 'lr'");
  for (const char* value : {"0", "-1", "high"}) {
    const std::vector<NamedSweep> bad = {
        {"x", table_of(fmt::format("0,done,{},1,0,1,1,3,r\n", value))}};
    EXPECT_QUEST_ERROR(sweep_chart(bad, key), ErrorKind::kData, "positive number");
  }
}

}  // namespace
}  // namespace quest::plot
