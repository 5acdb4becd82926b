#include "quest/train/sweep.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <gtest/gtest.h>

#include "quest/base/testing.h"
#include "quest/train/sweep_table.h"

namespace quest::train {
namespace {

using quest::testing::TemporaryFolder;

TEST(SweepAxes, AreRead) {
  const GridAxis grid = parse_grid(" lr = 1e-4, 3e-4 ");
  EXPECT_EQ(grid.key, "optimizer.lr");
  EXPECT_EQ(grid.values, (std::vector<std::string>{"1e-4", "3e-4"}));
  EXPECT_EQ(parse_grid("train.batch_size=8").key, "train.batch_size");
  const RandomAxis log = parse_random("optimizer.lr=log:1e-4:1e-2");
  EXPECT_EQ(log.kind, "log");
  EXPECT_EQ(log.low, 1e-4);
  EXPECT_EQ(log.high, 1e-2);
  const RandomAxis choice = parse_random("quant=w4a4,w1a1");
  EXPECT_EQ(choice.kind, "choice");
  EXPECT_EQ(choice.key, "quant.recipe");
  EXPECT_EQ(choice.values.size(), 2u);
}

TEST(SweepAxes, RefuseWhatCannotBeSwept) {
  const auto grid = [](const char* text, const char* message) {
    EXPECT_QUEST_ERROR(parse_grid(text), ErrorKind::kUsage, message);
  };
  grid("lr", "KEY=VALUES");
  grid("optimizer.rl=1", "nearest is 'optimizer.lr'");
  grid("lr=", "empty value");
  grid("lr=1,,2", "empty value");
  grid("lr=1,1", "'1' is given twice");
  grid("quant=w4\"", "quote");
  for (const char* own : {"run.name", "name", "out", "run.folder", "threads", "run.parent"}) {
    EXPECT_QUEST_ERROR(parse_grid(std::string(own) + "=1"), ErrorKind::kUsage, "cannot be swept");
  }
  const auto random = [](const char* text, const char* message) {
    EXPECT_QUEST_ERROR(parse_random(text), ErrorKind::kUsage, message);
  };
  random("lr=log:1e-4", "must be log:LOW:HIGH");
  random("lr=log:a:b", "must be log:LOW:HIGH");
  random("lr=uniform:0:inf", "must be uniform:LOW:HIGH");
  random("lr=uniform:1:1", "is not below");
  random("lr=log:0:1", "above 0");
  random("lr=int:1:2.5", "whole numbers");
}

TEST(PlanTrials, AreEveryPointOfTheGrid) {
  Sweep sweep;
  sweep.grid = {parse_grid("lr=1e-4,3e-4,1e-3"), parse_grid("quant=w4a4,w1a1")};
  const std::vector<Trial> trials = plan_trials(sweep);
  ASSERT_EQ(trials.size(), 6u);
  EXPECT_EQ(trials[0].name, "001");
  EXPECT_EQ(settings_text(trials[0]), "optimizer.lr=1e-4 quant.recipe=w4a4");
  EXPECT_EQ(settings_text(trials[1]), "optimizer.lr=1e-4 quant.recipe=w1a1");
  EXPECT_EQ(settings_text(trials[5]), "optimizer.lr=1e-3 quant.recipe=w1a1");
}

TEST(PlanTrials, DrawWithinTheirRangesAndReproducibly) {
  Sweep sweep;
  sweep.random = {parse_random("lr=log:1e-4:1e-2"), parse_random("warmup=uniform:0.1:0.3"),
                  parse_random("run.seed=int:3:5"), parse_random("quant=w4a4,w1a1")};
  sweep.grid = {parse_grid("batch=8,16")};
  sweep.trials = 300;
  sweep.seed = 5;
  const std::vector<Trial> trials = plan_trials(sweep);
  ASSERT_EQ(trials.size(), 600u);
  int below_middle = 0;
  std::set<std::string> seeds, recipes;
  for (size_t i = 0; i < trials.size(); i += 2) {
    const auto& settings = trials[i].settings;
    ASSERT_EQ(settings.size(), 5u);
    EXPECT_EQ(settings[0].second, "8");
    EXPECT_EQ(trials[i + 1].settings[0].second, "16");
    EXPECT_EQ(trials[i + 1].settings[1], settings[1]);  // one draw for every point of the grid
    const double lr = std::stod(settings[1].second), warmup = std::stod(settings[2].second);
    EXPECT_TRUE(lr >= 1e-4 && lr <= 1e-2) << lr;
    EXPECT_TRUE(warmup >= 0.1 && warmup <= 0.3) << warmup;
    below_middle += lr < 1e-3;
    seeds.insert(settings[3].second);
    recipes.insert(settings[4].second);
    trial_config({}, trials[i]);  // every draw is a value of its setting
  }
  EXPECT_NEAR(below_middle, 150, 40);  // the middle of a logarithmic range
  EXPECT_EQ(seeds, (std::set<std::string>{"3", "4", "5"}));
  EXPECT_EQ(recipes.size(), 2u);
  // More draws begin with the same ones; another seed has others.
  sweep.trials = 301;
  const std::vector<Trial> more = plan_trials(sweep);
  EXPECT_TRUE(std::equal(trials.begin(), trials.end(), more.begin(), [](auto& a, auto& b) {
    return a.name == b.name && a.settings == b.settings;
  }));
  sweep.seed = 6;
  EXPECT_NE(plan_trials(sweep)[0].settings, trials[0].settings);
}

TEST(PlanTrials, RefuseWhatMakesNoSweep) {
  Sweep sweep;
  EXPECT_QUEST_ERROR(plan_trials(sweep), ErrorKind::kUsage, "at least one axis");
  sweep.grid = {parse_grid("lr=1,2")};
  sweep.trials = 3;
  EXPECT_QUEST_ERROR(plan_trials(sweep), ErrorKind::kUsage, "--trials 3 is of random axes");
  sweep.random = {parse_random("lr=log:1:2")};
  EXPECT_QUEST_ERROR(plan_trials(sweep), ErrorKind::kUsage, "optimizer.lr is on two axes");
  sweep.random = {parse_random("steps=int:1:2")};
  EXPECT_EQ(plan_trials(sweep).size(), 6u);
  sweep.halving = true;
  EXPECT_QUEST_ERROR(plan_trials(sweep), ErrorKind::kUsage, "cannot be swept with halving");
  sweep.trials = 0;
  EXPECT_QUEST_ERROR(plan_trials(sweep), ErrorKind::kUsage, "number of draws");
  sweep.trials = 1000000;
  sweep.halving = false;
  EXPECT_QUEST_ERROR(plan_trials(sweep), ErrorKind::kUsage, "too large");
}

// Recipe before its sides, whatever the order of the axes; a swept length takes the place of
// another.
TEST(TrialConfig, AppliesSettingsInOrderOfDeclaration) {
  TrainConfig base;
  apply_setting(base, "train.tokens", "1e6");
  apply_setting(base, "quant.recipe", "w2a2");
  const Trial trial{"007",
                    {{"quant.weight.bits", "3"}, {"train.steps", "9"}, {"quant.recipe", "w4a4"}}};
  const TrainConfig config = trial_config(base, trial);
  EXPECT_EQ(config.quant.weight.bits, 3);
  EXPECT_EQ(config.quant.activation.bits, 4);
  EXPECT_EQ(config.train.steps, 9);
  EXPECT_EQ(config.train.tokens, 0);
  EXPECT_QUEST_ERROR(trial_config(base, {"007", {{"optimizer.lr", "-1"}}}), ErrorKind::kUsage,
                     "trial 007 (optimizer.lr=-1): optimizer.lr is -1");
}

TEST(SweepFile, IsTakenOutOfTheSettingsAndReadBack) {
  TomlTable table = parse_toml(
      "optimizer.lr = 1e-3\n[sweep]\ntrials = 4\nhalving = true\nrungs = \"10, 30\"\n"
      "[sweep.grid]\nquant.recipe = \"w4a4, w1a1\"\nrun.seed = 3\n"
      "[sweep.random]\noptimizer.weight_decay = \"log:1e-3:1\"\noptimizer.beta1 = \"0.8,0.9\"\n"
      "[train]\nsteps = 5\n",
      "sweep.toml");
  Sweep sweep;
  sweep.grid = {parse_grid("quant=bf16")};  // the file's takes its place
  sweep.seed = 8;
  take_sweep(table, sweep);
  ASSERT_EQ(table.size(), 2u);
  EXPECT_EQ(table[0].key, "optimizer.lr");
  EXPECT_EQ(table[1].key, "train.steps");
  EXPECT_EQ(sweep.trials, 4);
  EXPECT_TRUE(sweep.halving);
  EXPECT_EQ(sweep.rungs, (std::vector<int64_t>{10, 30}));
  ASSERT_EQ(sweep.grid.size(), 2u);
  EXPECT_EQ(sweep.grid[0].values.size(), 2u);
  EXPECT_EQ(sweep.grid[1].values, (std::vector<std::string>{"3"}));
  ASSERT_EQ(sweep.random.size(), 2u);

  TomlTable again = parse_toml(sweep_to_toml(sweep), "again");
  Sweep back;
  take_sweep(again, back);
  EXPECT_EQ(back, sweep);
  EXPECT_TRUE(again.empty());
}

TEST(SweepFile, ErrorsNameTheLine) {
  const auto expect = [](const char* text, const char* message) {
    TomlTable table = parse_toml(text, "s.toml");
    Sweep sweep;
    EXPECT_QUEST_ERROR(take_sweep(table, sweep), ErrorKind::kUsage, message);
  };
  expect("[sweep]\n\ntrails = 3", "s.toml:3: unknown setting 'sweep.trails'");
  expect("[sweep]\ntrials = -3", "s.toml:2: sweep.trials is -3");
  expect("[sweep]\neta = 1", "at least 2");
  expect("[sweep]\nhalving = 1", "true or false");
  expect("[sweep]\nrungs = \"1,x\"", "rungs is '1,x'");
  expect("[sweep.grid]\noptimizer.lrr = 1", "s.toml:2: unknown setting 'optimizer.lrr'");
}

std::vector<int64_t> steps_of(const std::vector<Rung>& rungs) {
  std::vector<int64_t> steps;
  for (const Rung& rung : rungs) steps.push_back(rung.steps);
  return steps;
}

TEST(Halving, RungsAndTheirTrials) {
  Sweep sweep;
  sweep.halving = true;
  const std::vector<Rung> rungs = halving_rungs(sweep, 27, 900);
  EXPECT_EQ(steps_of(rungs), (std::vector<int64_t>{33, 100, 300, 900}));
  EXPECT_EQ(rungs[0].trials, 27);
  EXPECT_EQ(rungs[1].trials, 9);
  EXPECT_EQ(rungs[3].trials, 1);
  EXPECT_EQ(steps_of(halving_rungs(sweep, 2, 900)), (std::vector<int64_t>{900}));
  EXPECT_EQ(steps_of(halving_rungs(sweep, 1000, 5)), (std::vector<int64_t>{1, 5}));
  sweep.rungs = {10, 20, 40, 80};
  sweep.eta = 2;
  const std::vector<Rung> given = halving_rungs(sweep, 5, 0);
  EXPECT_EQ(given[1].trials, 2);
  EXPECT_EQ(given[3].trials, 1);
  sweep.rungs = {10, 10};
  EXPECT_QUEST_ERROR(halving_rungs(sweep, 5, 0), ErrorKind::kUsage, "rungs are 10,10");
  sweep.rungs = {0, 10};
  EXPECT_QUEST_ERROR(halving_rungs(sweep, 5, 0), ErrorKind::kUsage, "rungs are 0,10");
  sweep.rungs.clear();
  EXPECT_QUEST_ERROR(halving_rungs(sweep, 5, 0), ErrorKind::kUsage, "--steps");
  sweep.eta = 1;
  EXPECT_QUEST_ERROR(halving_rungs(sweep, 5, 10), ErrorKind::kUsage, "eta is 1");
}

TEST(Halving, PromotesTheLowestLosses) {
  const std::vector<std::optional<double>> losses = {3.0, std::nullopt, 2.0, 2.5, 2.0, 9.0};
  EXPECT_EQ(promoted(losses, 1), (std::vector<size_t>{2}));
  EXPECT_EQ(promoted(losses, 3), (std::vector<size_t>{2, 3, 4}));
  EXPECT_EQ(promoted(losses, 100).size(), 5u);
  EXPECT_TRUE(promoted(std::vector<std::optional<double>>(3), 2).empty());
}

TEST(Halving, GoesOnOnlyWhereTheRateDoesNotKnowTheEnd) {
  TrainConfig config;
  EXPECT_FALSE(goes_on_from_checkpoint(config));
  config.schedule.name = "constant";
  EXPECT_FALSE(goes_on_from_checkpoint(config));  // warm-up is a part of all steps
  config.schedule.warmup_steps = 10;
  EXPECT_TRUE(goes_on_from_checkpoint(config));
  config.schedule.warmup_steps = 0;
  config.schedule.warmup_fraction = 0;
  EXPECT_TRUE(goes_on_from_checkpoint(config));
  config.schedule.name = "wsd";
  EXPECT_FALSE(goes_on_from_checkpoint(config));
}

SweepTable some_table() {
  SweepTable table;
  table.keys = {"optimizer.lr", "quant.recipe"};
  table.rows = {{"001", "done", {"1e-3", "w4a4"}, 100, 6400, 3.25, "runs/001-x"},
                {"002", "stopped", {"1e-3", "w1a1"}, 50, 3200, 3.0, "runs/002-x"},
                {"003", "failed", {"1e-2", "w4a4"}, 0, 0, {}, ""},
                {"004", "done", {"1e-2", "w1a1"}, 100, 6400, 3.125, "runs/004-x"},
                {"005", "pending", {"1e-1", "w1a1"}, 10, 640, 1.0, "runs/005-x"}};
  return table;
}

TEST(SweepTable, IsReadBack) {
  const TemporaryFolder folder;
  const std::string text = trials_csv(some_table());
  EXPECT_TRUE(
      text.starts_with("trial,state,optimizer.lr,quant.recipe,steps,tokens,loss,run\n"
                       "001,done,1e-3,w4a4,100,6400,3.25,runs/001-x\n"));
  EXPECT_NE(text.find("003,failed,1e-2,w4a4,0,0,,\n"), std::string::npos);
  const SweepTable back = read_trials_csv(folder.write("trials.csv", text));
  EXPECT_EQ(trials_csv(back), text);
  const auto expect = [&](const std::string& wrong, const char* message) {
    EXPECT_QUEST_ERROR(read_trials_csv(folder.write("w.csv", wrong)), ErrorKind::kData, message);
  };
  expect("", "is empty");
  expect("trial,state,steps,tokens,loss\n", "line 1: must be trial,state");
  const std::string header = "trial,state,a,steps,tokens,loss,run\n";
  expect(header + "001,done,1,2,3,4\n", "line 2: 6 values");
  expect(header + "001,over,1,2,3,4,r\n", "state is 'over'");
  expect(header + "001,done,1,x,3,4,r\n", "steps is 'x'");
  expect(header + "001,done,1,2,3,nan,r\n", "loss is nan");
}

TEST(SweepTable, RanksAndReports) {
  const SweepTable table = some_table();
  std::vector<std::string> order;
  for (const TrialRow* row : ranking(table)) order.push_back(row->trial);
  EXPECT_EQ(order, (std::vector<std::string>{"004", "001", "002"}));
  const std::string text = best_of_text(table, {{"003", "loss is not finite"}}, 2);
  const auto has = [&](const char* part) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  };
  has("5 trials: 2 done, 1 stopped, 1 failed, 1 pending\n");
  has("1  004    1e-2          w1a1            100  3.1250  runs/004-x\n");
  has("and 1 more in trials.csv\n");
  has("1e-1                       -\n");
  has("w4a4                  3.2500  001    optimizer.lr=1e-3\n");
  has("failed\n003  optimizer.lr=1e-2 quant.recipe=w4a4  loss is not finite\n");
}

}  // namespace
}  // namespace quest::train
