#include "quest/model/llama_config.h"

#include <limits>

#include <gtest/gtest.h>

#include "quest/base/json_util.h"
#include "quest/base/testing.h"

namespace quest {
namespace {

using quest::testing::TemporaryFolder;

LlamaConfig small() {
  LlamaConfig config;
  config.vocab_size = 300;
  config.hidden_size = 96;
  config.intermediate_size = 256;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 24;
  return config;
}

TEST(LlamaConfig, PaperSizesGiveThePapersParameterCounts) {
  // Blocks, width, heads of the paper's table 3 and params_non_embedding of its runs.
  const struct {
    int64_t blocks, hidden, heads, parameters;
  } rows[] = {{6, 640, 5, 30482560},     {7, 768, 6, 49556736},     {8, 1024, 8, 102777856},
              {10, 1280, 10, 203188480}, {13, 1664, 13, 443068288}, {16, 2048, 16, 822151168}};
  for (const auto& row : rows) {
    LlamaConfig config;
    config.num_layers = row.blocks;
    config.hidden_size = row.hidden;
    config.num_heads = config.num_kv_heads = row.heads;
    config.intermediate_size = paper_intermediate_size(row.hidden);
    EXPECT_EQ(config.non_embedding_parameters(), row.parameters) << row.hidden;
    EXPECT_EQ(config.parameters(), row.parameters + 2 * 32000 * row.hidden);
  }
}

TEST(LlamaConfig, JsonRoundTrip) {
  TemporaryFolder folder;
  LlamaConfig config = small();
  config.rope_scaling = {"llama3", 8.0, 1.0, 4.0, 64};
  config.tie_word_embeddings = true;
  config.eos_token_id = 2;
  for (const char* name : {"bf16", "w4a4", "w1a1", "w4a16", "int4_4of8"}) {
    const QuantRecipe recipe = recipe_from_name(name);
    const auto path = folder.write("config.json", llama_config_json(config, recipe, "float32"));
    QuantRecipe read;
    EXPECT_EQ(load_llama_config(path, &read), config);
    EXPECT_EQ(read.weight, recipe.weight) << name;
    EXPECT_EQ(read.activation, recipe.activation) << name;
    const Json json = read_json(path);
    ASSERT_EQ(json.contains("quantization_config"), recipe.is_quantized());
    // With a quant_method unknown to it, transformers would run the model unquantized.
    if (recipe.is_quantized()) {
      EXPECT_EQ(json["quantization_config"]["format"], "quest");
      EXPECT_FALSE(json["quantization_config"].contains("quant_method"));
    }
  }
}

TEST(LlamaConfig, PackedModelsAreOnlyForReadersThatAskForThem) {
  TemporaryFolder folder;
  const PackedSettings settings{.version = 1, .embedding = "int8", .head = "int4"};
  for (const char* name : {"bf16", "w4a4"}) {
    const auto path = folder.write(
        "config.json", llama_config_json(small(), recipe_from_name(name), "bfloat16", settings));
    QuantRecipe recipe;
    std::optional<PackedSettings> read;
    EXPECT_EQ(load_llama_config(path, &recipe, &read), small());
    EXPECT_EQ(read, settings);
    EXPECT_EQ(recipe.weight, recipe_from_name(name).weight);
    EXPECT_QUEST_ERROR(load_llama_config(path, &recipe), ErrorKind::kData, "packed model");
    EXPECT_FALSE(read_json(path)["quantization_config"].contains("quant_method"));
  }
  const auto path =
      folder.write("config.json", llama_config_json(small(), recipe_from_name("w4a4"), "float32"));
  std::optional<PackedSettings> read = settings;
  load_llama_config(path, nullptr, &read);
  EXPECT_FALSE(read.has_value());
}

TEST(LlamaConfig, ReadsHuggingFaceVariants) {
  TemporaryFolder folder;
  const auto path = folder.write("config.json", R"({
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128,
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
    "num_attention_heads": 4, "eos_token_id": [7, 8], "hidden_act": "silu",
    "rope_parameters": {"rope_theta": 500000.0, "rope_type": "linear", "factor": 2.0}})");
  const LlamaConfig config = load_llama_config(path, nullptr);
  EXPECT_EQ(config.num_kv_heads, 4);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.eos_token_id, 7);
  EXPECT_EQ(config.rope_theta, 500000.0);
  EXPECT_EQ(config.rope_scaling.type, "linear");
  EXPECT_EQ(config.rope_scaling.factor, 2.0);
}

TEST(LlamaConfig, RefusesWhatItCannotRun) {
  TemporaryFolder folder;
  const std::string good = llama_config_json(small(), recipe_from_name("w4a4"), "float32");
  const auto with = [&](std::string_view key, const Json& value) {
    Json json = Json::parse(good);
    json[std::string(key)] = value;
    return folder.write("config.json", json.dump());
  };
  const auto refuses = [&](std::string_view key, const Json& value, std::string_view text) {
    const auto path = with(key, value);
    EXPECT_QUEST_ERROR(load_llama_config(path, nullptr), ErrorKind::kData, text);
  };
  refuses("model_type", "gpt2", "gpt2");
  refuses("attention_bias", true, "attention_bias");
  refuses("hidden_act", "gelu", "gelu");
  refuses("partial_rotary_factor", 0.5, "partial_rotary_factor is 0.5");
  refuses("rope_parameters", Json{{"rope_theta", 1e4}, {"partial_rotary_factor", 0.25}},
          "rope_parameters: partial_rotary_factor is 0.25");
  refuses("sliding_window", 16, "sliding_window is 16");
  for (const auto& [key, value] : {std::pair<const char*, Json>("partial_rotary_factor", 1),
                                   {"partial_rotary_factor", nullptr},
                                   {"sliding_window", nullptr},
                                   {"use_sliding_window", true}}) {
    EXPECT_NO_THROW(load_llama_config(with(key, value), nullptr)) << key;
  }
  Json unused = Json::parse(good);
  unused["sliding_window"] = 4096;
  unused["use_sliding_window"] = false;
  EXPECT_NO_THROW(load_llama_config(folder.write("config.json", unused.dump()), nullptr));
  refuses("hidden_size", -1, "hidden_size");
  refuses("hidden_size", 24, "K=24");
  refuses("num_key_value_heads", 3, "num_kv_heads");
  refuses("head_dim", 7, "head_dim");
  refuses("rope_scaling", Json{{"rope_type", "yarn"}, {"factor", 2.0}}, "yarn");
  refuses("quantization_config", Json{{"quant_method", "gptq"}}, "gptq");
  refuses("quantization_config", Json{{"format", "float-quantized"}}, "float-quantized");
  refuses("quantization_config", Json{{"recipe", "w4a4"}}, "format");
  refuses("quantization_config", "quest", "must be an object");
  refuses("quantization_config",
          Json{{"format", "quest"}, {"recipe", "x"}, {"weight", "int9"}, {"activation", "none"}},
          "int9");
  for (size_t length = 0; length + 2 < good.size(); length += 7) {
    const auto path = folder.write("config.json", good.substr(0, length));
    EXPECT_THROW(load_llama_config(path, nullptr), Error) << length;
  }
}

TEST(LlamaConfig, TheContextIsExtendedByRopeScaling) {
  LlamaConfig trained = small();
  trained.max_position_embeddings = 65;
  const auto extended = [&](const char* type, double factor) {
    LlamaConfig config = trained;
    EXPECT_EQ(extend_context(config, type, factor), static_cast<int64_t>(65 * factor)) << type;
    return config;
  };
  EXPECT_EQ(extended("linear", 2.5).max_position_embeddings, 162);
  EXPECT_EQ(extended("linear", 2.5).rope_scaling.factor, 2.5);
  EXPECT_EQ(extended("dynamic", 4).max_position_embeddings, 65);
  const RopeScaling want = {"llama3", 8, 1, 4, 65};
  EXPECT_EQ(extended("llama3", 8).rope_scaling, want);
  EXPECT_EQ(extended("llama3", 8).max_position_embeddings, 520);
  for (const double factor : {0.5, -1.0, 1e7, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_QUEST_ERROR(extended("linear", factor), ErrorKind::kUsage, "factor of rope scaling");
  }
  EXPECT_QUEST_ERROR(extended("none", 2), ErrorKind::kUsage, "'none'");
  LlamaConfig scaled = extended("linear", 2);
  const LlamaConfig before = scaled;
  EXPECT_QUEST_ERROR(extend_context(scaled, "linear", 2), ErrorKind::kUsage, "of its own (linear");
  EXPECT_EQ(scaled, before);
  trained.max_position_embeddings = int64_t{1} << 30;
  EXPECT_QUEST_ERROR(extended("linear", 4), ErrorKind::kUsage, "max_position_embeddings");
}

TEST(LlamaConfig, ValidatesShapesAgainstTheRecipe) {
  LlamaConfig config = small();
  config.intermediate_size = 250;
  EXPECT_NO_THROW(validate(config, recipe_from_name("bf16")));
  EXPECT_QUEST_ERROR(validate(config, recipe_from_name("w4a4")), ErrorKind::kUsage, "MLP down");
}

}  // namespace
}  // namespace quest
