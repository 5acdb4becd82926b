#include "quest/train/train_config.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include <CLI/CLI.hpp>
#include <gtest/gtest.h>

#include "quest/base/error.h"
#include "quest/base/testing.h"

namespace quest::train {
namespace {

TrainConfig minimal() {
  TrainConfig config;
  config.train.steps = 10;
  return config;
}

TrainConfig from_flags(std::vector<std::string> arguments) {
  CLI::App app;
  ConfigFlags flags(app);
  std::reverse(arguments.begin(), arguments.end());
  app.parse(arguments);
  TrainConfig config;
  flags.apply(config);
  return config;
}

std::vector<std::string> values(TrainConfig config) {
  std::vector<std::string> out;
  for (const Setting& s : list_settings(config)) out.push_back(s.key + "=" + toml_text(s.get()));
  return out;
}

TEST(TrainConfig, KeysAndFlagsAreUnique) {
  TrainConfig config;
  std::set<std::string> names;
  for (const Setting& s : list_settings(config)) {
    EXPECT_TRUE(names.insert(s.key).second) << s.key;
    if (!s.flags.empty()) {
      EXPECT_TRUE(names.insert(s.flags).second) << s.flags;
    }
    EXPECT_FALSE(s.help.empty()) << s.key;
  }
}

// Every setting is changed, written, read back and found equal: none is forgotten on the way.
TEST(TrainConfig, EverySettingComesBackExactly) {
  TrainConfig config;
  const TrainConfig defaults;
  const std::vector<std::string> before = values(defaults);
  const std::vector<Setting> settings = list_settings(config);
  for (size_t k = 0; k < settings.size(); ++k) {
    const Setting& s = settings[k];
    const TomlValue value = s.get();
    if (s.key == "train.steps" || s.key == "train.tokens") continue;  // epochs replaces them
    if (s.key == "quant.recipe") {
      s.set(std::string("w4a4_nohadamard"));
    } else if (const auto* flag = std::get_if<bool>(&value)) {
      s.set(!*flag);
    } else if (std::get_if<int64_t>(&value)) {
      s.set(int64_t{s.key.ends_with("bits") ? 3 : 13});
    } else if (std::get_if<double>(&value)) {
      s.set(s.key.starts_with("model.rope") ? 10.1 + 0.2 : 0.1 + 0.2);
    } else if (s.range.empty()) {
      s.set(std::string("a \"b\" # c, \\d"));
    } else {
      const std::string last = s.range.substr(s.range.rfind(", ") + 2);
      const bool is_default = before[k] == s.key + "=" + toml_text(last);
      s.set(is_default ? s.range.substr(0, s.range.find(", ")) : last);
    }
  }
  const std::vector<std::string> after = values(config);
  for (size_t k = 0; k < before.size(); ++k) {
    if (settings[k].key == "train.steps" || settings[k].key == "train.tokens") continue;
    EXPECT_NE(before[k], after[k]) << "the test did not change it";
  }
  TrainConfig again;
  apply_toml(again, parse_toml(config_to_toml(config), "config.toml"));
  EXPECT_EQ(values(again), after);
  EXPECT_EQ(config_to_toml(again), config_to_toml(config));
  EXPECT_EQ(config_hash(again), config_hash(config));
}

TEST(TrainConfig, RefusesUnknownKeysAndNamesTheNearest) {
  TrainConfig config;
  const auto apply = [&](const char* text) { apply_toml(config, parse_toml(text, "x.toml")); };
  EXPECT_QUEST_ERROR(apply("[optimizer]\nlearning = 1"), ErrorKind::kUsage, "x.toml:2: unknown");
  EXPECT_QUEST_ERROR(apply("[optimizer]\nbta1 = 1"), ErrorKind::kUsage, "'optimizer.beta1'");
  EXPECT_QUEST_ERROR(apply("lr = 1"), ErrorKind::kUsage, "'optimizer.lr'");
  EXPECT_QUEST_ERROR(apply("[model]\nlr = 1"), ErrorKind::kUsage, "'optimizer.lr'");
  EXPECT_QUEST_ERROR(apply("train.btach = 1"), ErrorKind::kUsage, "'train.batch_size'");
  EXPECT_QUEST_ERROR(apply("trian.btach_size = 1"), ErrorKind::kUsage, "'train.batch_size'");
  EXPECT_QUEST_ERROR(apply_setting(config, "train.step", "1"), ErrorKind::kUsage, "'train.steps'");
}

TEST(TrainConfig, RefusesWrongTypesAndRanges) {
  TrainConfig config;
  const auto apply = [&](const char* text) { apply_toml(config, parse_toml(text, "x.toml")); };
  EXPECT_QUEST_ERROR(apply("optimizer.lr = -1"), ErrorKind::kUsage, "optimizer.lr is -1");
  EXPECT_QUEST_ERROR(apply("optimizer.lr = nan"), ErrorKind::kUsage, "optimizer.lr is nan");
  EXPECT_QUEST_ERROR(apply("schedule.div_factor = inf"), ErrorKind::kUsage, "inf");
  EXPECT_QUEST_ERROR(apply("optimizer.lr = \"a\""), ErrorKind::kUsage, "a number is expected");
  EXPECT_QUEST_ERROR(apply("train.steps = 1.5"), ErrorKind::kUsage, "whole number");
  EXPECT_QUEST_ERROR(apply("train.steps = 1e300"), ErrorKind::kUsage, "whole number");
  EXPECT_QUEST_ERROR(apply("train.batch_size = 0"), ErrorKind::kUsage, "x.toml:1");
  EXPECT_QUEST_ERROR(apply("data.shuffle = 1"), ErrorKind::kUsage, "true or false");
  EXPECT_QUEST_ERROR(apply("run.name = 7"), ErrorKind::kUsage, "a string in quotes");
  EXPECT_QUEST_ERROR(apply("schedule.name = \"one\""), ErrorKind::kUsage, "onecycle, cos, linear");
  EXPECT_QUEST_ERROR(apply("quant.recipe = \"w9a9\""), ErrorKind::kUsage, "w9a9");
  EXPECT_QUEST_ERROR(apply("quant.weight.bits = 17"), ErrorKind::kUsage, "1 to 16");
  apply("train.tokens = 3e9");
  EXPECT_EQ(config.train.tokens, 3000000000);
}

TEST(TrainConfig, FlagsComeAfterFilesAndRecipesBeforeTheirSides) {
  TrainConfig config = from_flags({"--quant.weight.bits", "3", "--lr", "1e-4", "--quant", "w4a4",
                                   "--name", "x y", "--quant.activation.hadamard", "true"});
  EXPECT_EQ(config.quant.weight.bits, 3);
  EXPECT_EQ(config.quant.activation.bits, 4);
  EXPECT_EQ(config.optimizer.lr, 1e-4);
  EXPECT_EQ(config.run.name, "x y");
  EXPECT_EQ(from_flags({"--tokens=1_000"}).train.tokens, 1000);
  EXPECT_THROW(from_flags({"--no-such-flag", "1"}), CLI::ParseError);
  EXPECT_QUEST_ERROR(from_flags({"--steps", "many"}), ErrorKind::kUsage,
                     "train.steps is 'many', allowed: 0 or more");
  EXPECT_QUEST_ERROR(from_flags({"--data.shuffle", "maybe"}), ErrorKind::kUsage, "true, false");

  // A length given by a flag replaces the file's.
  TrainConfig length;
  apply_toml(length, parse_toml("train.epochs = 2.0\n", "x.toml"));
  apply_setting(length, "train.steps", "7");
  EXPECT_EQ(length.train.steps, 7);
  EXPECT_EQ(length.train.epochs, 0);
  apply_setting(length, "train.epochs", "0");
  EXPECT_NO_THROW(finish_config(length));

  // A recipe given by a flag replaces every side that a file spelled out.
  config.train.steps = 1;
  finish_config(config);
  EXPECT_EQ(config.quant.name, "custom");
  apply_setting(config, "quant.recipe", "w1a1");
  finish_config(config);
  EXPECT_EQ(config.quant.name, "w1a1");
  EXPECT_EQ(config.quant.weight, recipe_from_name("w1a1").weight);
}

// A quantizer has the same words in settings and in texts ("fp4.hadamard.trust_halfgap").
TEST(TrainConfig, QuantizersHaveTheWordsOfTheirTexts) {
  TrainConfig config;
  for (int k = 0; k <= static_cast<int>(GradientEstimator::kSte); ++k) {
    const auto estimator = static_cast<GradientEstimator>(k);
    apply_setting(config, "quant.weight.estimator", estimator_name(estimator));
    EXPECT_EQ(config.quant.weight.estimator, estimator);
  }
  for (int k = 0; k <= static_cast<int>(Grid::kMask4of8); ++k) {
    const auto grid = static_cast<Grid>(k);
    apply_setting(config, "quant.activation.grid", grid_name(grid));
    EXPECT_EQ(config.quant.activation.grid, grid);
    EXPECT_EQ(config.quant.activation.bits, fixed_bits(grid).value_or(4)) << grid_name(grid);
    config.quant.activation.bits = 4;
  }
  EXPECT_QUEST_ERROR(apply_setting(config, "quant.weight.grid", "octal"), ErrorKind::kUsage,
                     "none, uniform, ternary");
}

TEST(TrainConfig, RefusesImpossibleCombinations) {
  TrainConfig config;
  EXPECT_QUEST_ERROR(finish_config(config), ErrorKind::kUsage, "exactly one");
  config = minimal();
  config.train.tokens = 5;
  EXPECT_QUEST_ERROR(finish_config(config), ErrorKind::kUsage, "exactly one");
  const auto two = parse_toml("train.steps = 5\ntrain.tokens = 5\n", "x.toml");
  EXPECT_QUEST_ERROR(apply_toml(config, two), ErrorKind::kUsage, "exactly one");
  EXPECT_QUEST_ERROR(from_flags({"--steps", "5", "--epochs", "2"}), ErrorKind::kUsage,
                     "exactly one");
  EXPECT_EQ(from_flags({"--steps", "5", "--epochs", "0"}).train.steps, 5);
  EXPECT_EQ(from_flags({"--epochs", "0.0", "--steps", "5"}).train.steps, 5);
  config = minimal();
  config.train.micro_batch_size = 3;
  EXPECT_QUEST_ERROR(finish_config(config), ErrorKind::kUsage, "does not divide");
  config = minimal();
  config.run.name = "../x";
  EXPECT_QUEST_ERROR(finish_config(config), ErrorKind::kUsage, "run.name");
  config = minimal();
  config.schedule.name = "wsd";
  config.schedule.decay_shape = "exp";
  EXPECT_QUEST_ERROR(finish_config(config), ErrorKind::kUsage, "decay_final_factor");
  config = minimal();
  config.quant.weight.grid = Grid::kUniform;
  config.quant.weight.bits = 12;
  EXPECT_QUEST_ERROR(finish_config(config), ErrorKind::kUsage, "12");
}

TEST(TrainConfig, SettingsOfFp8BackwardNeedIt) {
  for (const auto& [key, value] : {std::pair{"train.gradient_format", "e5m2"},
                                   {"train.gradient_rounding", "stochastic"},
                                   {"train.gradient_hadamard", "true"}}) {
    TrainConfig config = minimal();
    config.train.device = "cuda";
    const std::string before = config_hash(config);
    apply_setting(config, key, value);
    // Named alone: the two that have their defaults were not given.
    EXPECT_QUEST_ERROR(finish_config(config), ErrorKind::kUsage,
                       fmt::format("take {} {}: set train.backward to fp8", key, value));
    EXPECT_NE(config_hash(config), before) << key;
    config.train.backward = "fp8";
    EXPECT_NO_THROW(finish_config(config)) << key;
    config.train.device = "cpu";
    EXPECT_QUEST_ERROR(finish_config(config), ErrorKind::kUsage, "set train.device to cuda");
  }
  TrainConfig config = minimal();
  apply_setting(config, "train.gradient_format", "e5m2");
  apply_setting(config, "train.gradient_hadamard", "true");
  EXPECT_QUEST_ERROR(finish_config(config), ErrorKind::kUsage,
                     "take train.gradient_format e5m2, train.gradient_hadamard true: set");
}

TEST(TrainConfig, TheConfigsOfThisProjectAreValid) {
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(QUEST_SOURCE_DIR "/configs")) {
    if (entry.path().extension() != ".toml") continue;
    SCOPED_TRACE(entry.path());
    TrainConfig config;
    apply_toml(config, parse_toml_file(entry.path()));
    EXPECT_NO_THROW(finish_config(config));
    EXPECT_NO_THROW(resolve_model(config, 0 < config.model.vocab_size ? 0 : 32000));
    ++count;
  }
  EXPECT_GE(count, 7);
}

TEST(TrainConfig, HashIsOfWhatChangesTheResult) {
  TrainConfig a = minimal();
  TrainConfig b = a;
  b.run.folder = "elsewhere";
  b.run.threads = 7;
  b.checkpoint.every = 3;
  b.log.every = 5;
  EXPECT_EQ(config_hash(a), config_hash(b));
  // Settings that came later are in the hash only where they are not at their default.
  TrainConfig on_gpu = a;
  on_gpu.train.device = "cuda";
  EXPECT_NE(config_hash(on_gpu), config_hash(a));
  for (const Setting& setting : list_settings(on_gpu)) {
    if (setting.key == "train.device") {
      EXPECT_TRUE(setting.is_new);
    }
  }
  EXPECT_EQ(config_hash(a).size(), 8u);
  TrainConfig original = a;
  std::set<std::string> hashes = {config_hash(a)};
  for (const char* change :
       {"optimizer.lr=1e-5", "train.steps=11", "run.seed=1", "quant.recipe=w4a4",
        "quant.recipe=w1a1", "data.train=x", "eval.every=7"}) {
    TrainConfig changed = original;
    const std::string_view text = change;
    apply_setting(changed, text.substr(0, text.find('=')), text.substr(text.find('=') + 1));
    EXPECT_TRUE(hashes.insert(config_hash(changed)).second) << change;
  }
  EXPECT_EQ(run_folder_name(a), "bf16-" + config_hash(a));
}

TEST(TrainConfig, PresetsGiveThePaperSizes) {
  TrainConfig config = minimal();
  const LlamaConfig m = resolve_model(config, 32000);
  EXPECT_EQ(m.hidden_size, 640);
  EXPECT_EQ(m.num_layers, 6);
  EXPECT_EQ(m.head_dim, 128);
  EXPECT_EQ(m.intermediate_size, 1792);
  EXPECT_EQ(m.vocab_size, 32000);
  for (const ModelPreset& preset : model_presets()) {
    apply_setting(config, "model.preset", preset.name);
    const LlamaConfig model = resolve_model(config, 32000);
    double millions = std::stod(preset.name);
    if (preset.name.ends_with("B")) millions *= 1000;
    EXPECT_NEAR(static_cast<double>(model.non_embedding_parameters()) / 1e6, millions,
                0.12 * millions)
        << preset.name;
  }
  config.model.vocab_size = 50304;
  EXPECT_EQ(resolve_model(config, 32000).vocab_size, 50304);
  config.model.vocab_size = 100;
  EXPECT_QUEST_ERROR(resolve_model(config, 32000), ErrorKind::kUsage, "model.vocab_size");
  config = minimal();
  config.model.preset = "none";
  EXPECT_QUEST_ERROR(resolve_model(config, 257), ErrorKind::kUsage, "model.hidden_size");
}

}  // namespace
}  // namespace quest::train
