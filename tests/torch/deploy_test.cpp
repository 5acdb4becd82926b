// What `quest` trained is what quest-run runs: tiny models of real text, trained by the real
// trainer in BF16, then exported, verified, spoiled and run by the programs.
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "quest/base/json_util.h"
#include "quest/base/shutdown.h"
#include "quest/base/testing_command.h"
#include "quest/data/build_token_file.h"
#include "quest/packed/packed_model.h"
#include "quest/text/train_sentencepiece.h"
#include "quest/train/trainer.h"

namespace quest {
namespace {

namespace fs = std::filesystem;
using testing::CommandResult;

CommandResult quest_program(const std::string& arguments) {
  return testing::run_command("\"" QUEST_PROGRAM "\" " + arguments);
}

CommandResult quest_run(const std::string& arguments) {
  return testing::run_command("\"" QUEST_RUN_PROGRAM "\" " + arguments);
}

bool has(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

class Deploy : public ::testing::Test {
 protected:
  void SetUp() override { reset_shutdown_signal(); }

  // Token files of this project's own text.
  void make_data(const Tokenizer& tokenizer) {
    fs::create_directories(folder_ / "data");
    TextSource source({QUEST_SOURCE_DIR "/ARCHITECTURE.md", QUEST_SOURCE_DIR "/LICENSE"}, {});
    BuildOptions options;
    options.show_progress = false;
    build_token_files(source, tokenizer, options, folder_ / "data/train.qtok",
                      folder_ / "data/validation.qtok");
    tokenizer.save(folder_ / "data");
  }

  // Grouped queries; widths that are no multiples of a tile's 32 columns.
  train::TrainConfig tiny(const std::string& recipe) const {
    train::TrainConfig c;
    c.run.name = "run";
    c.run.folder = (folder_ / "runs").string();
    c.run.threads = 1;
    c.model.preset = "none";
    c.model.hidden_size = 48;
    c.model.num_layers = 2;
    c.model.num_heads = 4;
    c.model.num_kv_heads = 2;
    c.model.head_dim = 16;
    c.model.intermediate_size = 80;
    c.quant = recipe_from_name(recipe);
    c.data.train = (folder_ / "data").string();
    c.train.steps = 40;
    c.train.batch_size = 4;
    c.train.sequence_length = 48;
    c.train.compute_type = "bf16";
    c.optimizer.lr = 1e-2;
    c.eval.tokens = 100;
    c.checkpoint.minutes = 0;
    c.log.tensorboard = false;
    c.log.peak_tflops = 1;
    return c;
  }

  void train(const train::TrainConfig& config) {
    fs::remove_all(folder_ / "runs");
    train::SingleProcess group;
    train::Trainer trainer(config, group);
    trainer.run();
  }

  std::string run() const { return (folder_ / "runs/run").string(); }
  std::string packed() const { return (folder_ / "packed").string(); }

  // Trains, exports, proves, writes.
  void expect_deployable(const train::TrainConfig& config, const std::string& tables = "") {
    train(config);
    fs::remove_all(packed());
    const CommandResult exported =
        quest_program(fmt::format("export {} --out {} {}", run(), packed(), tables));
    ASSERT_EQ(exported.code, 0) << exported.errors;
    const CommandResult verified = quest_program(verify_command() + " --max-tokens 8192 --tokens " +
                                                 (folder_ / "data/train.qtok").string());
    EXPECT_EQ(verified.code, 0) << verified.output << verified.errors;
    const Json json = read_json(folder_ / "packed/verify.json");
    EXPECT_EQ(json["result"], "passed");
    EXPECT_EQ(json["perplexity"]["compute_type"], config.train.compute_type);
    const CommandResult written =
        quest_run("generate " + packed() + " --prompt 'The method' --max-tokens 12 --ignore-end");
    EXPECT_EQ(written.code, 0) << written.errors;
    EXPECT_TRUE(written.output.starts_with("The method")) << written.output;
    EXPECT_GT(written.output.size(), 12u);
  }
  std::string verify_command() const {
    return fmt::format("verify {} --against {} --prompt-tokens 8 --greedy-tokens 4", packed(),
                       run());
  }

  // One bit of one byte of a layer's codes is another.
  void flip_a_code() {
    const fs::path file = fs::path(packed()) / "model.safetensors";
    size_t at = 0;
    {
      const PackedModel model(packed());
      std::string data = read_file(file);
      const auto codes = model.block(1).down.codes;
      at = data.find(std::string_view(reinterpret_cast<const char*>(codes.data()), codes.size()));
      ASSERT_NE(at, std::string::npos);
      data[at] = static_cast<char>(data[at] ^ 1);
      write_file_atomically(file, data);
    }
  }

  testing::TemporaryFolder folder_;
};

class DeployRecipe : public Deploy, public ::testing::WithParamInterface<const char*> {};

TEST_P(DeployRecipe, TrainedModelIsProvenAndASpoiledOneRefused) {
  make_data(*make_byte_tokenizer());
  expect_deployable(tiny(GetParam()));
  flip_a_code();
  for (const CommandResult& refused :
       {quest_run("generate " + packed() + " --prompt a --max-tokens 1"),
        quest_program(verify_command())}) {
    EXPECT_EQ(refused.code, 3) << refused.output << refused.errors;
    EXPECT_TRUE(has(refused.errors, "checksum")) << refused.errors;
    EXPECT_TRUE(has(refused.errors, "model.safetensors")) << refused.errors;
  }
}

INSTANTIATE_TEST_SUITE_P(Recipes, DeployRecipe,
                         ::testing::Values("w1a1", "w2a2", "w3a3", "w4a4", "w8a8", "w4a16", "fp4",
                                           "int4_4of8"),
                         [](const auto& test) { return std::string(test.param); });

// Tied tables, one key-value head, an INT8 cache with a head size that is no power of two.
TEST_F(Deploy, OtherShapesAndTablesOfEachFormat) {
  make_data(*make_byte_tokenizer());
  train::TrainConfig config = tiny("w4a4");
  config.model.hidden_size = 64;
  config.model.num_kv_heads = 1;
  config.model.head_dim = 48;
  config.model.tie_word_embeddings = true;
  for (const char* table : {"", "--embedding int8", "--embedding int4"}) {
    SCOPED_TRACE(table);
    expect_deployable(config, table);
    const CommandResult int8 =
        quest_run("generate " + packed() + " --prompt 'The method' --max-tokens 4 --kv-cache int8");
    EXPECT_EQ(int8.code, 0) << int8.errors;
  }
}

// A head size that the INT8 cache cannot rotate; a run in FP32.
TEST_F(Deploy, HeadSizesThatAreNoMultipleOf16) {
  make_data(*make_byte_tokenizer());
  train::TrainConfig config = tiny("w3a3");
  config.model.head_dim = 24;
  config.train.compute_type = "fp32";
  expect_deployable(config);
  const CommandResult int8 =
      quest_run("generate " + packed() + " --prompt a --max-tokens 4 --kv-cache int8");
  EXPECT_EQ(int8.code, 2) << int8.output;
  EXPECT_TRUE(has(int8.errors, "head size 24 is no multiple of 16")) << int8.errors;
}

TEST_F(Deploy, SentencePieceTokenizersTravelAlong) {
  SentencePieceOptions options;
  options.vocab_size = 384;
  bool is_given = false;
  make_data(*train_sentencepiece(options, [&](std::string& text) {
    text = read_file(QUEST_SOURCE_DIR "/LICENSE");
    return !std::exchange(is_given, true);
  }));
  expect_deployable(tiny("w2a2"));
}

}  // namespace
}  // namespace quest
