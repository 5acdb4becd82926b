#include "quest/train/trainer.h"

#include <algorithm>
#include <barrier>
#include <csignal>
#include <fstream>
#include <limits>
#include <sys/resource.h>
#include <thread>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/safetensors.h"
#include "quest/base/shutdown.h"
#include "quest/base/testing.h"
#include "quest/model/checkpoint_files.h"
#include "quest/train/testing_text.h"
#include "quest/train/weights.h"

namespace quest::train {
namespace {

namespace fs = std::filesystem;

// A text whose next byte depends on the last: there is something to learn.
void write_tokens(const fs::path& path, int64_t count, uint64_t seed) {
  const auto tokenizer = make_byte_tokenizer();
  TokenFileInfo info;
  info.vocab_size = tokenizer->vocab_size();
  info.eos_id = tokenizer->eos_id();
  info.tokenizer_fingerprint = tokenizer->fingerprint();
  TokenFileWriter writer(path, info);
  writer.begin_document();
  const std::vector<int32_t> tokens = testing::markov_text(count, seed);
  writer.append(tokens, count);
  writer.finish();
}

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write_tokens(folder_ / "train.qtok", 3000, 1);
    write_tokens(folder_ / "validation.qtok", 400, 2);
    reset_shutdown_signal();
  }
  void TearDown() override { reset_shutdown_signal(); }

  // 6 steps of 4 sequences of 16 bytes with a model of 2 blocks.
  TrainConfig tiny(const std::string& name) const {
    TrainConfig c;
    c.run.name = name;
    c.run.folder = (folder_ / "runs").string();
    c.run.threads = 1;
    c.model.preset = "none";
    c.model.hidden_size = 32;
    c.model.num_layers = 2;
    c.model.num_heads = 2;
    c.model.intermediate_size = 64;
    c.quant = recipe_from_name("w4a4");
    c.data.train = folder_.path().string();
    c.data.tokenizer = "bytes";
    c.train.steps = 6;
    c.train.batch_size = 4;
    c.train.sequence_length = 16;
    c.train.compute_type = "fp32";
    c.optimizer.lr = 1e-2;
    c.eval.every = 2;
    c.eval.tokens = 100;
    c.checkpoint.every = 2;
    c.checkpoint.minutes = 0;
    c.log.tensorboard = true;
    c.log.peak_tflops = 1;
    return c;
  }

  TrainOutcome train(const TrainConfig& config) {
    SingleProcess group;
    Trainer trainer(config, group);
    return trainer.run();
  }

  testing::TemporaryFolder folder_;
};

std::string weights(const TrainOutcome& outcome) {
  return outcome.summary.at("weights_xxh3_128").get<std::string>();
}

// The first value of each tensor that quantizers learned.
std::vector<float> learned_values(const TrainOutcome& outcome) {
  const SafetensorsReader file(outcome.run / "final" / "model.safetensors");
  std::vector<float> values;
  for (const TensorView& t : file.tensors()) {
    if (is_quantizer_tensor(t.name)) values.push_back(t.to_vector<float>().at(0));
  }
  return values;
}

// The lines of metrics.jsonl without what depends on the clock.
std::vector<nlohmann::ordered_json> metrics(const fs::path& run) {
  std::vector<nlohmann::ordered_json> out;
  std::ifstream file(run / "metrics.jsonl");
  for (std::string line; std::getline(file, line);) {
    out.push_back(nlohmann::ordered_json::parse(line));
    for (const char* key : {"tokens_per_second", "mfu", "seconds"}) out.back().erase(key);
  }
  return out;
}

TEST_F(TrainerTest, LearnsAndLeavesACompleteFolder) {
  TrainConfig c = tiny("learns");
  c.train.steps = 40;
  c.averaging.ema_decay = 0.5;
  const TrainOutcome outcome = train(c);
  EXPECT_EQ(outcome.run.filename(), run_folder_name(c));
  EXPECT_TRUE(fs::equivalent(outcome.run, folder_ / "runs" / "learns"));
  const auto lines = metrics(outcome.run);
  EXPECT_LT(lines.back()["validation_loss"].get<double>(), 4.0);
  EXPECT_GT(lines.front()["loss"].get<double>(), 5.4);  // ln 257 is 5.55
  EXPECT_EQ(outcome.summary["validation_tokens"], 399);
  EXPECT_TRUE(outcome.summary.contains("bits_per_byte"));
  EXPECT_TRUE(outcome.summary.contains("ema_validation_loss"));
  for (const char* name :
       {"config.toml", "metrics.jsonl", "summary.json", "final/config.json", "final/config.toml",
        "final/model.safetensors", "final/tokenizer_config.json", "final_ema/model.safetensors",
        "checkpoints/latest/state.json", "checkpoints/best/state.json"}) {
    EXPECT_TRUE(fs::exists(outcome.run / name)) << name;
  }
  verify_folder(outcome.run / "final");

  // Every setting of the run, from its own file.
  TrainConfig again;
  apply_toml(again, parse_toml_file(outcome.run / "config.toml"));
  EXPECT_EQ(config_to_toml(again), config_to_toml(c));

  const TrainOutcome second = train(c);
  EXPECT_TRUE(second.was_complete);
  EXPECT_EQ(weights(second), weights(outcome));
}

// What quantizers learn goes with the weights: trained, decayed, taken over by --init where the
// recipe is the same, begun anew where it is not.
TEST_F(TrainerTest, LearnedQuantizersAreParametersOfTheRun) {
  TrainConfig c = tiny("lsq");
  c.quant = recipe_from_name("w4a4_lsq");
  c.optimizer.lr = 1e-3;
  const std::vector<float> first = learned_values(train(c));
  ASSERT_EQ(first.size(), 16u);  // 2 blocks of 4 layers of 2 sides
  for (const float value : first) EXPECT_GT(value, 0);

  TrainConfig decayed = c;
  decayed.run.name = "decayed";
  decayed.optimizer.quantizer_weight_decay = 500;
  EXPECT_NE(config_hash(decayed), config_hash(c));
  const std::vector<float> smaller = learned_values(train(decayed));
  for (size_t i = 0; i < first.size(); ++i) EXPECT_LT(smaller[i], first[i]);

  TrainConfig on = c;
  on.run.name = "on";
  on.run.init = (folder_ / "runs" / "lsq" / "final").string();
  on.optimizer.lr = 0;
  EXPECT_EQ(learned_values(train(on)), first);
  on.run.name = "other";
  on.quant = recipe_from_name("w2a2_lsq");
  const std::vector<float> anew = learned_values(train(on));
  for (size_t i = 0; i < first.size(); ++i) EXPECT_GT(anew[i], 1.5f * first[i]);
  on.run.name = "without";
  on.quant = recipe_from_name("w4a4");
  EXPECT_TRUE(learned_values(train(on)).empty());
}

TEST_F(TrainerTest, StoppedAfterEveryStepAndResumedIsBitwiseTheSame) {
  std::vector<TrainConfig> configs(5, tiny(""));
  configs[0].run.name = "accumulation";
  configs[0].train.micro_batch_size = 2;
  configs[0].averaging.ema_decay = 0.9;
  configs[0].averaging.horizon = 4;
  configs[0].averaging.interval = 2;
  configs[0].diagnostics.every = 2;
  configs[0].diagnostics.keep_masks = 2;
  configs[1].run.name = "schedule_free";
  configs[1].optimizer.name = "schedule_free_adamw";
  configs[1].schedule.name = "constant";
  configs[1].quant = recipe_from_name("w1a1");
  configs[1].diagnostics.every = 1;
  configs[2].run.name = "sgd";
  configs[2].optimizer.name = "sgd";
  configs[2].optimizer.lr = 0.1;
  configs[2].data.mask_document_starts = true;
  configs[3].run.name = "bf16";
  configs[3].train.compute_type = "bf16";
  configs[3].quant = recipe_from_name("bf16");
  configs[4].run.name = "learned";
  configs[4].quant = recipe_from_name("w3a3_lsq_plus_hadamard");
  configs[4].averaging.ema_decay = 0.9;
  for (TrainConfig c : configs) {
    SCOPED_TRACE(c.run.name);
    const TrainOutcome straight = train(c);
    c.run.folder = (folder_ / "stopped").string();
    install_shutdown_handlers();
    TrainOutcome outcome;
    int stops = 0;
    do {
      std::raise(SIGTERM);
      outcome = train(c);
      reset_shutdown_signal();
      EXPECT_EQ(outcome.step, ++stops);
    } while (outcome.interrupted && stops < 10);
    EXPECT_EQ(stops, 6);
    EXPECT_EQ(weights(outcome), weights(straight));
    EXPECT_EQ(metrics(outcome.run), metrics(straight.run));
    for (const char* name : {"ema_validation_loss", "mean_validation_loss", "validation_loss"}) {
      EXPECT_EQ(outcome.summary.contains(name), straight.summary.contains(name)) << name;
      if (straight.summary.contains(name)) {
        EXPECT_EQ(outcome.summary[name], straight.summary[name]) << name;
      }
    }
  }
}

TEST_F(TrainerTest, DiagnosticsChangeNothing) {
  std::vector<TrainConfig> configs(4, tiny(""));
  configs[0].run.name = "accumulation";
  configs[0].train.micro_batch_size = 2;
  configs[0].averaging.ema_decay = 0.9;
  configs[1].run.name = "recompute";
  configs[1].train.recompute = "block";
  configs[1].quant = recipe_from_name("w1a1");
  configs[2].run.name = "bf16";
  configs[2].train.compute_type = "bf16";
  configs[2].optimizer.name = "schedule_free_adamw";
  configs[2].schedule.name = "constant";
  configs[3].run.name = "learned";
  configs[3].train.recompute = "block";
  configs[3].quant = recipe_from_name("w3a3_lsq_plus_hadamard");
  for (TrainConfig c : configs) {
    SCOPED_TRACE(c.run.name);
    const TrainOutcome without = train(c);
    c.run.folder = (folder_ / "diagnosed").string();
    c.diagnostics.every = 4;
    c.diagnostics.batch_size = 2;
    const TrainOutcome with = train(c);
    EXPECT_EQ(with.run.filename(), without.run.filename());
    EXPECT_EQ(weights(with), weights(without));
    EXPECT_EQ(with.summary["validation_loss"], without.summary["validation_loss"]);
    std::vector<nlohmann::ordered_json> lines = metrics(with.run);
    std::vector<int64_t> steps;
    std::erase_if(lines, [&](const nlohmann::ordered_json& line) {
      if (!line.contains("diagnostics")) return false;
      steps.push_back(line.at("step").get<int64_t>());
      EXPECT_EQ(line.at("tokens"), steps.back() * 64);
      EXPECT_EQ(line.at("diagnostics").at("layers").size(), 8u);
      return true;
    });
    EXPECT_EQ(steps, (std::vector<int64_t>{0, 4}));
    EXPECT_EQ(lines, metrics(without.run));
  }
}

TEST_F(TrainerTest, DiagnosticsWithoutValidationFileTakeTrainingText) {
  TrainConfig c = tiny("alone");
  fs::remove(folder_ / "validation.qtok");
  c.diagnostics.every = 6;
  const auto lines = metrics(train(c).run);
  EXPECT_TRUE(lines.front().contains("diagnostics"));
  EXPECT_TRUE(lines.back().contains("diagnostics"));
  EXPECT_EQ(lines.back()["step"], 6);
  EXPECT_EQ(lines.back()["diagnostics"]["masks_retained"][0]["since_step"], 0);
  SingleProcess group;
  EXPECT_NE(Trainer(c, group).plan().text().find("\ndiagnostics  2 times"), std::string::npos);
}

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

TEST_F(TrainerTest, ADamagedCheckpointIsLeftAside) {
  TrainConfig c = tiny("damaged");
  c.checkpoint.keep_best = false;
  const TrainOutcome straight = train(c);
  const fs::path checkpoints = straight.run / "checkpoints";
  fs::remove(straight.run / "summary.json");
  fs::resize_file(checkpoints / "step-00000006" / "optimizer.safetensors", 100);
  const TrainOutcome again = train(c);
  EXPECT_EQ(weights(again), weights(straight));
  EXPECT_EQ(metrics(again.run), metrics(straight.run));

  for (const char* name : {"step-00000004", "step-00000006"}) {
    std::ofstream(checkpoints / name / "state.json", std::ios::trunc) << "{";
  }
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kData, "no checkpoint in");
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
  write_tokens(folder_ / "train.qtok", 3000, 77);
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

TEST_F(TrainerTest, AccumulationDoesNotChangeTheMean) {
  TrainConfig c = tiny("whole");
  c.quant = recipe_from_name("bf16");
  const TrainOutcome whole = train(c);
  c.run.name = "parts";
  c.train.micro_batch_size = 1;
  const TrainOutcome parts = train(c);
  const auto a = metrics(whole.run), b = metrics(parts.run);
  ASSERT_EQ(a.size(), b.size());
  for (size_t k = 0; k < a.size(); ++k) {
    const char* key = a[k].contains("loss") ? "loss" : "validation_loss";
    EXPECT_NEAR(a[k][key].get<double>(), b[k][key].get<double>(), 1e-4) << k;
  }
}

TEST_F(TrainerTest, NotFiniteLossesAreSkippedUntilItIsEnough) {
  const TrainOutcome source = train(tiny("good"));
  const fs::path poisoned = folder_ / "poisoned";
  fs::copy(source.run / "final", poisoned);
  {
    nn::LlamaModel model(load_llama_config(poisoned / "config.json", nullptr),
                         recipe_from_name("w4a4"), nn::ComputeType::kFloat32);
    load_weights(model, poisoned);
    const at::NoGradGuard no_grad;
    for (auto& t : model.hf_tensors()) t.view.fill_(std::numeric_limits<float>::quiet_NaN());
    save_weights(model, poisoned / "model.safetensors", DType::kF32);
  }
  TrainConfig c = tiny("poisoned");
  c.run.init = poisoned.string();
  c.eval.every = 0;
  c.guards.max_skipped = 3;
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kNumeric, "3 steps in a row");
  const auto lines = metrics(folder_ / "runs" / "poisoned");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_TRUE(lines[0]["skipped"].get<bool>());
  EXPECT_TRUE(lines[0]["loss"].is_null());
  c.guards.nonfinite = "stop";
  EXPECT_QUEST_ERROR(train(c), ErrorKind::kNumeric, "guards.nonfinite is stop");
}

TEST_F(TrainerTest, PeakMemoryIsWithoutMappedFiles) {
  constexpr int64_t kMegabyte = 1 << 20;
  const int64_t before = anonymous_bytes();
  fs::resize_file(folder_.write("zeros", ""), 64 * kMegabyte);
  const FileBytes file(folder_ / "zeros");
  ASSERT_EQ(std::count(file.bytes().begin(), file.bytes().end(), std::byte{0}), 64 * kMegabyte);
  const TrainOutcome outcome = train(tiny("memory"));
  const auto own = outcome.summary["peak_memory_bytes"].get<int64_t>();
  EXPECT_GT(own, before / 2);
  EXPECT_LT(own, before + 48 * kMegabyte);
  EXPECT_GT(outcome.summary["peak_resident_bytes"].get<int64_t>(), own + 48 * kMegabyte);
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

// A file that may not grow is what a full disk looks like to the writer.
TEST_F(TrainerTest, AFullDiskIsAnErrorAndTheLastCheckpointStays) {
  const TrainConfig c = tiny("full");
  const TrainOutcome straight = train(c);
  TrainConfig limited = c;
  limited.run.folder = (folder_ / "limited").string();
  install_shutdown_handlers();
  std::raise(SIGTERM);
  const TrainOutcome first = train(limited);
  reset_shutdown_signal();
  ASSERT_TRUE(first.interrupted);

  std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit before = {};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  struct rlimit small = before;
  small.rlim_cur = 20000;  // below the size of the weights
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_QUEST_ERROR(train(limited), ErrorKind::kIo, "safetensors");
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, SIG_DFL);

  const CheckpointScan scan = find_checkpoints(first.run, true);
  ASSERT_EQ(scan.valid.size(), 1u);
  EXPECT_EQ(scan.valid[0].filename(), "step-00000001");
  EXPECT_TRUE(scan.broken.empty());
  const TrainOutcome outcome = train(limited);
  EXPECT_EQ(weights(outcome), weights(straight));
  EXPECT_EQ(metrics(outcome.run), metrics(straight.run));
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

TEST_F(TrainerTest, PlanCountsWhatWillBeDone) {
  TrainConfig c = tiny("plan");
  c.train.steps = 0;
  c.train.epochs = 2;
  SingleProcess group;
  const Trainer trainer(c, group);
  const RunPlan plan = trainer.plan();
  // floor(3000 / 16) - 1 windows at the least, 4 a step.
  EXPECT_NEAR(static_cast<double>(plan.steps), 2 * 186 / 4, 1);
  EXPECT_NEAR(plan.epochs, 2, 0.05);
  EXPECT_EQ(plan.memory.weight_bytes, 4 * plan.parameters);
  EXPECT_GT(plan.memory.program_bytes, 0);
  EXPECT_EQ(plan.memory.optimizer_bytes, 8 * plan.parameters);
  EXPECT_NEAR(plan.seconds_at(0.5) * 0.5 * 1e12,
              plan.flops_per_token * static_cast<double>(plan.steps) * 64, 1);
  EXPECT_NE(plan.text().find("without embedding"), std::string::npos);
  EXPECT_EQ(plan.text().find("diagnostics"), std::string::npos);
  EXPECT_FALSE(fs::exists(folder_ / "runs"));  // nothing was written
}

// Ranks as threads of this process.
class ThreadGroup : public ProcessGroup {
 public:
  struct Shared {
    explicit Shared(int64_t n) : size(n), barrier(n), numbers(static_cast<size_t>(n)) {}
    int64_t size;
    std::barrier<> barrier;
    std::vector<double> numbers;
    std::vector<at::Tensor> tensors = std::vector<at::Tensor>(8);
  };
  ThreadGroup(Shared& shared, int64_t rank) : shared_(shared), rank_(rank) {}
  int64_t rank() const override { return rank_; }
  int64_t size() const override { return shared_.size; }
  void barrier() override { shared_.barrier.arrive_and_wait(); }
  double all_reduce_sum(double value) override {
    return reduce(value, [](double a, double b) { return a + b; });
  }
  int64_t all_reduce_max(int64_t value) override {
    return static_cast<int64_t>(
        reduce(static_cast<double>(value), [](double a, double b) { return std::max(a, b); }));
  }
  void all_reduce_sum(at::Tensor& tensor) override {
    shared_.tensors[static_cast<size_t>(rank_)] = tensor;
    barrier();
    at::Tensor sum = shared_.tensors[0].clone();
    for (int64_t r = 1; r < size(); ++r) sum += shared_.tensors[static_cast<size_t>(r)];
    barrier();
    tensor.copy_(sum);
    barrier();
  }

 private:
  template <class F>
  double reduce(double value, F&& f) {
    shared_.numbers[static_cast<size_t>(rank_)] = value;
    barrier();
    double out = shared_.numbers[0];
    for (size_t r = 1; r < shared_.numbers.size(); ++r) out = f(out, shared_.numbers[r]);
    barrier();
    return out;
  }
  Shared& shared_;
  int64_t rank_;
};

class RanksTest : public TrainerTest {
 protected:
  void two_ranks_train_as_one(TrainConfig c) {
    const TrainOutcome one = train(c);
    c.run.folder = (folder_ / "two").string();
    ThreadGroup::Shared shared(2);
    std::vector<TrainOutcome> outcomes(2);
    const auto work = [&](int64_t rank) {
      ThreadGroup group(shared, rank);
      Trainer trainer(c, group);
      outcomes[static_cast<size_t>(rank)] = trainer.run();
    };
    std::thread other(work, 1);
    work(0);
    other.join();
    const auto a = metrics(one.run), b = metrics(outcomes[0].run);
    ASSERT_EQ(a.size(), b.size());  // one writer
    for (size_t k = 0; k < a.size(); ++k) {
      const char* key = a[k].contains("loss") ? "loss" : "validation_loss";
      EXPECT_NEAR(a[k][key].get<double>(), b[k][key].get<double>(), 1e-4) << k;
    }
    EXPECT_TRUE(outcomes[1].summary.empty());
  }
};

TEST_F(RanksTest, TrainAsOne) {
  for (const char* recipe : {"bf16", "w8a8_lsq"}) {
    SCOPED_TRACE(recipe);
    TrainConfig c = tiny(std::string("ranks_") + recipe);
    c.quant = recipe_from_name(recipe);
    c.train.micro_batch_size = 1;  // quantizers begin from the first one, whatever the ranks
    if (c.quant.is_quantized()) c.optimizer.lr = 1e-4;  // or codes flip at different steps
    two_ranks_train_as_one(c);
  }
}

}  // namespace
}  // namespace quest::train
