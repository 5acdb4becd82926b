// How a run begins: as a child of another, from a model, beside others, and when it is refused.
#include <filesystem>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/base/testing.h"
#include "quest/train/testing_trainer.h"
#include "quest/train/trainer.h"

namespace quest::train {
namespace {

namespace fs = std::filesystem;
using testing::learned_values;
using testing::metrics;
using testing::TrainerTest;
using testing::weights;
using testing::write_tokens;

// A run of its own from the first step on, also for what is measured.
TEST_F(TrainerTest, AChildRunDiagnosesBeforeItsFirstStep) {
  TrainConfig c = tiny("parent");
  c.diagnostics.every = 3;
  c.train.steps = 4;
  const TrainOutcome parent = train(c);
  c.run.name = "child";
  c.run.parent = (parent.run / "checkpoints" / "step-00000004").string();
  c.train.steps = 6;
  std::vector<int64_t> steps;
  for (const auto& line : metrics(train(c).run)) {
    if (!line.contains("diagnostics")) continue;
    steps.push_back(line.at("step").get<int64_t>());
    EXPECT_EQ(line["diagnostics"].contains("masks_retained"), steps.size() > 1);
  }
  EXPECT_EQ(steps, (std::vector<int64_t>{4, 6}));
}

TEST_F(TrainerTest, AChildRunGoesOnWithOptimizerAndData) {
  TrainConfig c = tiny("long");
  c.schedule.name = "constant";
  c.schedule.warmup_fraction = 0;
  const TrainOutcome straight = train(c);
  TrainConfig first = c;
  first.run.name = "short";
  first.train.steps = 4;
  const TrainOutcome parent = train(first);
  TrainConfig child = c;
  child.run.name = "short";
  child.run.parent = (parent.run / "checkpoints" / "step-00000004").string();
  const TrainOutcome outcome = train(child);
  EXPECT_NE(outcome.run, parent.run);
  EXPECT_EQ(weights(outcome), weights(straight));
  EXPECT_EQ(metrics(outcome.run).front()["step"], 5);
  const TrainState state = read_train_state(outcome.run / "checkpoints" / "latest");
  EXPECT_EQ(state.parent, child.run.parent);
  EXPECT_EQ(state.tokens, 6 * 4 * 16);
  // The name still leads to the first run.
  EXPECT_TRUE(fs::equivalent(folder_ / "runs" / "short", parent.run));
}

// A recipe of its own: what the parent's quantizers learned, and its history, is not taken over.
TEST_F(TrainerTest, AChildRunMayLearnOtherQuantizers) {
  for (const char* optimizer : {"adamw", "schedule_free_adamw"}) {
    for (const char* recipe : {"w4a4", "w8a8_lsq"}) {
      SCOPED_TRACE(std::string(optimizer) + " " + recipe);
      TrainConfig c = tiny(fmt::format("parent_{}_{}", optimizer, recipe));
      c.optimizer.name = optimizer;
      c.optimizer.lr = 1e-3;
      c.schedule.name = "constant";
      c.quant = recipe_from_name(recipe);
      if (c.optimizer.name == "adamw") c.averaging.ema_decay = 0.9;
      c.train.steps = 4;
      const TrainOutcome parent = train(c);
      c.run.name = fmt::format("child_{}_{}", optimizer, recipe);
      c.run.parent = (parent.run / "checkpoints" / "step-00000004").string();
      c.quant = recipe_from_name("w2a2_lsq");
      c.train.steps = 6;
      const std::vector<float> two_bits = learned_values(train(c));
      ASSERT_EQ(two_bits.size(), 16u);
      // First steps are 2 mean|x| / sqrt(q_max): at 2 bits 11 times those at 8.
      for (const float value : two_bits) EXPECT_TRUE(value > 0 && value < 10) << value;
      c.quant = recipe_from_name("w8a8_lsq");
      c.run.name += "_back";
      const std::vector<float> eight_bits = learned_values(train(c));
      for (size_t i = 0; i < two_bits.size(); ++i) EXPECT_GT(two_bits[i], 4 * eight_bits[i]) << i;
    }
  }
}

TEST_F(TrainerTest, OtherSettingsAreAnotherRun) {
  TrainConfig c = tiny("x");
  const TrainOutcome a = train(c);
  c.optimizer.lr = 2e-2;
  const TrainOutcome b = train(c);
  EXPECT_NE(a.run, b.run);
  EXPECT_NE(weights(a), weights(b));
  EXPECT_FALSE(b.was_complete);
}

TEST_F(TrainerTest, OtherDataUnderTheSameNameIsRefused) {
  TrainConfig c = tiny("data");
  const TrainOutcome outcome = train(c);
  fs::remove(outcome.run / "summary.json");
  write_tokens(folder_ / "train.qtok", testing::markov_text(3000, 77));
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kData, "other token files");
}

TEST_F(TrainerTest, InitTakesShapeAndWeights) {
  const TrainOutcome source = train(tiny("source"));
  TrainConfig c = tiny("init");
  c.model.hidden_size = 64;  // not what the folder holds
  c.run.init = (source.run / "final").string();
  c.optimizer.lr = 0;
  c.optimizer.weight_decay = 0;
  const TrainOutcome outcome = train(c);
  EXPECT_EQ(weights(outcome), weights(source));
  EXPECT_EQ(outcome.summary["validation_loss"], source.summary["validation_loss"]);
  TrainConfig written;
  apply_toml(written, parse_toml_file(outcome.run / "config.toml"));
  EXPECT_EQ(written.model.hidden_size, 32);
  c.run.init = (folder_ / "nothing").string();
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kIo, "nothing");
}

TEST_F(TrainerTest, InitTakesTheRecipeUnlessOneIsGiven) {
  const TrainOutcome source = train(tiny("source"));
  TrainConfig c = tiny("init");
  c.quant = TrainConfig().quant;  // w4a4 in the folder
  c.run.init = (source.run / "final").string();
  c.optimizer.lr = 0;
  c.optimizer.weight_decay = 0;
  const TrainOutcome taken = train(c);
  EXPECT_EQ(taken.summary["recipe"], "w4a4");
  EXPECT_EQ(taken.summary["validation_loss"], source.summary["validation_loss"]);
  apply_setting(c, "quant.recipe", "bf16");
  const TrainOutcome given = train(c);
  EXPECT_EQ(given.summary["recipe"], "bf16");
  EXPECT_NE(given.summary["validation_loss"], source.summary["validation_loss"]);
  EXPECT_NE(given.run, taken.run);
}

// By its name, which is the new run's name too.
TEST_F(TrainerTest, InitLeavesTheNameToItsSource) {
  const TrainOutcome source = train(tiny("same"));
  TrainConfig c = tiny("same");
  c.run.init = (folder_ / "runs" / "same" / "final").string();
  const TrainOutcome outcome = train(c);
  EXPECT_NE(outcome.run, source.run);
  EXPECT_TRUE(fs::equivalent(folder_ / "runs" / "same", source.run));
  EXPECT_TRUE(train(c).was_complete);
  c.run.name = "other";
  EXPECT_TRUE(fs::equivalent(train(c).run, folder_ / "runs" / "other"));
}

TEST_F(TrainerTest, AStartThatFailsLeavesNameAndFolderAsTheyWere) {
  const TrainOutcome first = train(tiny("name"));
  TrainConfig c = tiny("name");
  c.run.init = (folder_ / "nothing").string();  // shape and recipe are given: only weights are not
  const fs::path run = fs::path(c.run.folder) / run_folder_name(c);
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kIo, "nothing");
  EXPECT_FALSE(fs::exists(run));
  EXPECT_TRUE(fs::equivalent(folder_ / "runs" / "name", first.run));

  // A folder that was there stays, whatever is in it.
  fs::create_directories(run / "checkpoints");
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kIo, "nothing");
  EXPECT_TRUE(fs::exists(run / "checkpoints"));
  EXPECT_TRUE(fs::equivalent(folder_ / "runs" / "name", first.run));
}

TEST_F(TrainerTest, TwoProcessesCannotShareARun) {
  const TrainConfig c = tiny("locked");
  SingleProcess group;
  Trainer trainer(c, group);
  const RunFolder holder(trainer.config(), true);
  EXPECT_QUEST_ERROR(trainer.run(), ErrorKind::kIo, "another process");
}

TEST_F(TrainerTest, EditedConfigIsRefused) {
  const TrainConfig c = tiny("edited");
  const TrainOutcome outcome = train(c);
  TrainConfig other = c;
  other.train.steps = 7;
  std::ofstream(outcome.run / "config.toml", std::ios::trunc) << config_to_toml(other);
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kData, "edited");
}

TEST_F(TrainerTest, UnwritableFolderIsAnError) {
  TrainConfig c = tiny("unwritable");
  c.run.folder = (folder_.write("file", "x") / "runs").string();
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kIo, "file/runs");
}

TEST_F(TrainerTest, WrongTokenizerOrBatchIsRefused) {
  TrainConfig c = tiny("wrong");
  c.train.batch_size = 5;
  c.train.micro_batch_size = 2;
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kUsage, "does not divide");
  c = tiny("wrong");
  c.data.train = "";
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kUsage, "data.train is empty");
  c = tiny("wrong");
  c.data.train = (folder_ / "missing.qtok").string();
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kIo, "missing.qtok");
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kIo, "`quest data` makes one");
}

}  // namespace
}  // namespace quest::train
