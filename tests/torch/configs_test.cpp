// Every file in configs/ is a valid configuration, and the paper's models are the paper's.
#include <filesystem>
#include <map>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "quest/train/train_config.h"

namespace quest::train {
namespace {

namespace fs = std::filesystem;

TrainConfig load(const std::string& name) {
  TrainConfig config;
  apply_toml(config, parse_toml_file(fs::path(QUEST_SOURCE_DIR) / "configs" / (name + ".toml")));
  config.data.train = "data";
  finish_config(config);
  return config;
}

struct PaperModel {
  int64_t blocks, width, heads;
  double lr, tokens;
};
// arXiv 2502.05003, table 3; 1.6B continues its series.
const std::map<std::string, PaperModel> kPaperModels = {
    {"30M", {6, 640, 5, 1.2e-3, 3e9}},        {"50M", {7, 768, 6, 1.2e-3, 5e9}},
    {"100M", {8, 1024, 8, 6e-4, 10e9}},       {"200M", {10, 1280, 10, 3e-4, 20e9}},
    {"430M", {13, 1664, 13, 1.5e-4, 43e9}},   {"800M", {16, 2048, 16, 7.5e-5, 80e9}},
    {"1.6B", {20, 2560, 20, 3.75e-5, 160e9}},
};

TEST(Configs, ThePapersModelsAreThePapers) {
  for (const auto& [name, paper] : kPaperModels) {
    const TrainConfig config = load(name);
    const LlamaConfig model = resolve_model(config, 32000);
    EXPECT_EQ(model.num_layers, paper.blocks) << name;
    EXPECT_EQ(model.hidden_size, paper.width) << name;
    EXPECT_EQ(model.num_heads, paper.heads) << name;
    EXPECT_EQ(model.head_dim, 128) << name;
    EXPECT_FALSE(model.tie_word_embeddings) << name;
    EXPECT_DOUBLE_EQ(config.optimizer.lr, paper.lr) << name;
    EXPECT_EQ(config.train.tokens, static_cast<int64_t>(paper.tokens)) << name;
    EXPECT_EQ(config.train.batch_size * config.train.sequence_length, 512 * 512) << name;
    // 100 tokens per parameter, sizes as the names round them.
    const double ratio = paper.tokens / static_cast<double>(model.non_embedding_parameters());
    EXPECT_NEAR(ratio, 100, 6) << name;
    validate(model, config.quant);
  }
}

TEST(Configs, EveryFileIsKnownAndValid) {
  std::set<std::string> found;
  for (const auto& entry : fs::directory_iterator(fs::path(QUEST_SOURCE_DIR) / "configs")) {
    if (entry.path().extension() != ".toml") continue;
    const std::string name = entry.path().filename().replace_extension().string();
    found.insert(name);
    const TrainConfig config = load(name);
    EXPECT_GT(resolve_model(config, 2048).parameters(), 0) << name;
  }
  for (const auto& [name, paper] : kPaperModels) EXPECT_TRUE(found.count(name)) << name;
  EXPECT_TRUE(found.count("demo"));
}

TEST(Configs, DemoTakesAtMostTwoEpochsAndEveryRecipeFits) {
  const TrainConfig config = load("demo");
  EXPECT_LE(config.train.epochs, 2.0);
  EXPECT_GT(config.train.epochs, 0.0);
  for (const char* recipe : {"bf16", "w4a4", "w2a2", "w1a1"}) {
    validate(resolve_model(config, 2048), recipe_from_name(recipe));
  }
}

}  // namespace
}  // namespace quest::train
