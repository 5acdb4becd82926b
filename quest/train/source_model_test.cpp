#include "quest/train/source_model.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "quest/base/json_util.h"
#include "quest/base/log.h"
#include "quest/base/testing.h"

namespace quest::train {
namespace {

namespace fs = std::filesystem;

class SourceModel : public ::testing::Test {
 protected:
  void SetUp() override { log::set_level(log::Level::kInfo); }

  // The config.json of a model of 3 blocks that was trained with this recipe.
  void write_source(const QuantRecipe& recipe) {
    LlamaConfig model;
    model.num_layers = 3;
    folder_.write("source/config.json", llama_config_json(model, recipe, "float32"));
  }

  // As the command line reads it: settings as given, then checked, then the folder's.
  TrainConfig adopted(const std::string& toml) {
    TrainConfig config;
    apply_toml(config, parse_toml(toml, "x.toml"));
    config.train.steps = 1;
    config.run.init = (folder_ / "source").string();
    finish_config(config);
    ::testing::internal::CaptureStderr();
    try {
      adopt_source_model(config);
    } catch (...) {
      log_ = ::testing::internal::GetCapturedStderr();
      throw;
    }
    log_ = ::testing::internal::GetCapturedStderr();
    return config;
  }

  testing::TemporaryFolder folder_;
  std::string log_;
};

TEST_F(SourceModel, GivesShapeAndRecipe) {
  write_source(recipe_from_name("w1a1"));
  const TrainConfig config = adopted("");
  EXPECT_EQ(config.model.preset, "none");
  EXPECT_EQ(config.model.num_layers, 3);
  EXPECT_EQ(config.quant.name, "w1a1");
  EXPECT_EQ(config.quant.weight, recipe_from_name("w1a1").weight);
  EXPECT_EQ(config.quant.activation, recipe_from_name("w1a1").activation);
  EXPECT_NE(log_.find("quantization is w1a1, that of"), std::string::npos) << log_;
  EXPECT_TRUE(run_folder_name(config).starts_with("w1a1-"));
}

TEST_F(SourceModel, GivesARecipeThatHasNoName) {
  QuantRecipe recipe = recipe_from_name("w4a4");
  recipe.name = "custom";
  recipe.weight.trust_scale = 0.5f;
  write_source(recipe);
  const TrainConfig config = adopted("");
  EXPECT_EQ(config.quant.name, "custom");
  EXPECT_EQ(config.quant.weight, recipe.weight);
  EXPECT_NE(log_.find("int4.hadamard.trust_s0.5"), std::string::npos) << log_;
}

TEST_F(SourceModel, AGivenRecipeWinsAndTheDifferenceIsSaid) {
  write_source(recipe_from_name("w4a4"));
  for (const char* name : {"bf16", "w2a2"}) {
    const TrainConfig config = adopted(fmt::format("quant.recipe = \"{}\"", name));
    EXPECT_EQ(config.quant.name, name);
    EXPECT_EQ(config.model.num_layers, 3);
    EXPECT_NE(log_.find(fmt::format("quantization is {} as given", name)), std::string::npos);
    EXPECT_NE(log_.find("is w4a4"), std::string::npos) << log_;
  }
  const TrainConfig sides = adopted("quant.weight.grid = \"uniform\"\nquant.weight.bits = 3");
  EXPECT_EQ(sides.quant.weight.bits, 3);
  EXPECT_FALSE(sides.quant.activation.is_quantized());
  adopted("quant.recipe = \"w4a4\"");
  EXPECT_EQ(log_.find("quantization is"), std::string::npos) << log_;
}

TEST_F(SourceModel, UnquantizedWeightsLeaveTheChoice) {
  write_source(recipe_from_name("bf16"));
  EXPECT_EQ(adopted("").quant.name, "bf16");
  EXPECT_EQ(log_.find("quantization is"), std::string::npos) << log_;
  EXPECT_EQ(adopted("quant.recipe = \"w4a4\"").quant.name, "w4a4");
}

// A run's config.toml holds what was taken over: the folder may change or go.
TEST_F(SourceModel, WhatWasTakenOverIsGivenFromThenOn) {
  write_source(recipe_from_name("w4a4"));
  const std::string written = config_to_toml(adopted(""));
  const TrainConfig again = adopted(written);
  EXPECT_EQ(config_to_toml(again), written);
  fs::remove(folder_ / "source/config.json");
  EXPECT_EQ(config_to_toml(adopted(written)), written);
  EXPECT_QUEST_ERROR(adopted(""), ErrorKind::kIo, "source/config.json");
  // The shape alone does not say which run it is.
  EXPECT_QUEST_ERROR(adopted("model.preset = \"none\""), ErrorKind::kIo, "source/config.json");
}

TEST_F(SourceModel, ANameThatSaysSomethingElseIsNotTaken) {
  QuantRecipe recipe = recipe_from_name("w4a4");
  for (const char* name : {"w1a1", "../../elsewhere", "w9a9", ""}) {
    recipe.name = name;
    write_source(recipe);
    const TrainConfig config = adopted("");
    EXPECT_EQ(config.quant.name, "custom") << name;
    EXPECT_EQ(config.quant.weight, recipe.weight) << name;
  }
}

TEST_F(SourceModel, ADamagedRecipeIsNamed) {
  write_source(recipe_from_name("w4a4"));
  const fs::path file = folder_ / "source/config.json";
  Json json = read_json(file);
  json["quantization_config"]["weight"] = "int9.hadamard.trust";
  folder_.write("source/config.json", json.dump());
  EXPECT_QUEST_ERROR(adopted(""), ErrorKind::kData, "source/config.json: quantization_config");
  EXPECT_QUEST_ERROR(adopted("quant.recipe = \"w4a4\""), ErrorKind::kData, "quantization_config");
}

TEST_F(SourceModel, ARunStandsForWhatItFinishedWith) {
  const auto resolved = [&](const char* name) {
    return fs::path(resolve_source((folder_ / name).string())).lexically_normal();
  };
  const auto at = [&](const char* name) {
    return fs::proximate(fs::canonical(folder_ / name)).lexically_normal();
  };
  folder_.write("run-1/checkpoints/step-00000002/config.json", "{}");
  fs::create_directory_symlink("run-1", folder_ / "run");
  fs::create_directory_symlink("step-00000002", folder_ / "run-1/checkpoints/best");
  EXPECT_EQ(resolved("run"), at("run-1/checkpoints/step-00000002"));
  folder_.write("run-1/final/config.json", "{}");
  EXPECT_EQ(resolved("run"), at("run-1/final"));
  EXPECT_EQ(resolved("run"), resolved("run-1/final"));  // one run, whichever way it is named
  EXPECT_EQ(resolved("run-1/checkpoints/best"), at("run-1/checkpoints/step-00000002"));
  // Weights without config.json, or beside folders of these names, are taken as they are.
  folder_.write("weights/model.safetensors", "");
  folder_.write("weights/final/config.json", "{}");
  folder_.write("weights/checkpoints/latest/config.json", "{}");
  EXPECT_EQ(resolved("weights"), at("weights"));
  folder_.write("text/notes.txt", "");
  EXPECT_EQ(resolved("text"), at("text"));
  EXPECT_EQ(resolve_source("nothing/here"), "nothing/here");
  EXPECT_EQ(resolve_source(""), "");
  fs::create_directories(folder_ / "begun/checkpoints");
  EXPECT_QUEST_ERROR(resolved("begun"), ErrorKind::kIo, "no model here");
}

TEST(SourceModelless, NothingIsTakenWithoutAFolder) {
  TrainConfig config;
  const std::string before = config_to_toml(config);
  adopt_source_model(config);
  EXPECT_EQ(config_to_toml(config), before);
  config.run.init = "nothing/here";
  EXPECT_QUEST_ERROR(adopt_source_model(config), ErrorKind::kIo, "nothing/here is no folder");
}

}  // namespace
}  // namespace quest::train
