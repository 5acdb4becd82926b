// Export and verify on small checkpoints of every recipe.
#include <cmath>

#include <gtest/gtest.h>

#include "quest/base/json_util.h"
#include "quest/base/testing.h"
#include "quest/convert/export_packed.h"
#include "quest/convert/testing_checkpoint.h"
#include "quest/convert/verify.h"
#include "quest/packed/testing_packed.h"

namespace quest::convert {
namespace {

namespace fs = std::filesystem;
using quest::testing::forge_packed_model;
using quest::testing::small_llama;
using quest::testing::TemporaryFolder;
using quest::testing::write_checkpoint;

VerifyResult verify(const fs::path& packed, const fs::path& checkpoint) {
  const CheckpointLayers layers(checkpoint);
  VerifyResult result;
  verify_codes(PackedModel(packed), layers, result);
  const std::vector<int32_t> prompt = {65, 66, 32, 200, 7, 256, 65, 66, 32, 1, 2};
  verify_run(packed, layers, prompt, 5, result);
  return result;
}

std::string all(const std::vector<std::string>& texts) {
  return fmt::format("{}", fmt::join(texts, "\n"));
}

TEST(Convert, ExportedModelsVerifyForEveryRecipe) {
  for (const char* name : {"w1a1", "w2a2", "w3a3", "w4a4", "w8a8", "w4a8", "w4a16", "w16a4", "bf16",
                           "fp4", "ternary", "int4_4of8", "gauss3", "w4a4_nohadamard"}) {
    SCOPED_TRACE(name);
    TemporaryFolder folder;
    const QuantRecipe recipe = recipe_from_name(name);
    const auto source = write_checkpoint(folder / "c", small_llama(), recipe);
    const ExportReport report = export_packed(source, folder / "p", {});
    EXPECT_GT(report.embedding_error, 0);
    EXPECT_LT(report.head_error, 0.02);
    const VerifyResult result = verify(folder / "p", source);
    EXPECT_TRUE(result.passed()) << all(result.differences);
    EXPECT_GT(result.tensors, 10);
    EXPECT_EQ(result.logits, 16 * 261);
    EXPECT_EQ(result.greedy_tokens, 5);
    const bool integers = recipe.weight.is_quantized() && recipe.activation.is_quantized() &&
                          code_format(recipe.weight).is_integer;
    EXPECT_EQ(result.accumulators > 0, integers);
  }
}

TEST(Convert, TiedTablesOfEveryFormat) {
  for (const TableFormat format : {TableFormat::kBf16, TableFormat::kInt8, TableFormat::kInt4}) {
    TemporaryFolder folder;
    LlamaConfig config = small_llama(160);
    config.tie_word_embeddings = true;
    const auto source = write_checkpoint(folder / "c", config, recipe_from_name("w4a4"));
    export_packed(source, folder / "p", {.embedding = format});
    EXPECT_EQ(PackedModel(folder / "p").head().format, format);
    const VerifyResult result = verify(folder / "p", source);
    EXPECT_TRUE(result.passed()) << all(result.differences);
    const TableFormat other =
        format == TableFormat::kInt8 ? TableFormat::kBf16 : TableFormat::kInt8;
    EXPECT_QUEST_ERROR(export_packed(source, folder / "q", {.embedding = format, .head = other}),
                       ErrorKind::kUsage, "tied");
  }
}

TEST(Convert, OneChangedCodeOrUnitFailsAndIsNamed) {
  TemporaryFolder folder;
  const auto source = write_checkpoint(folder / "c", small_llama(), recipe_from_name("w4a8"));
  const auto fails = [&](const std::string& tensor, const std::function<void(char*)>& change,
                         const std::string& text) {
    fs::remove_all(folder / "p");
    export_packed(source, folder / "p", {});
    forge_packed_model(folder / "p", [&](nlohmann::ordered_json& header, std::string& data) {
      change(data.data() + header.at(tensor).at("data_offsets").at(0).get<size_t>());
    });
    const VerifyResult result = verify(folder / "p", source);
    EXPECT_FALSE(result.passed());
    EXPECT_NE(all(result.differences).find(text), std::string::npos) << all(result.differences);
  };
  const std::string layer = "model.layers.1.mlp.gate_up_proj";
  fails(
      layer + ".codes", [](char* p) { *p = static_cast<char>(*p ^ 1); },
      layer + ".codes: 1 of 59904 values differ, first row 0, column 0");
  fails(
      layer + ".codes", [](char* p) { *p = static_cast<char>(*p ^ 1); }, "the sum of row 0");
  fails(
      layer + ".units", [](char* p) { *p = static_cast<char>(*p ^ 1); },
      layer + ".units: 1 of 416 values differ");
  fails(
      layer + ".value_sums", [](char* p) { *p = static_cast<char>(*p ^ 1); },
      layer + ".value_sums: 1 of 416");
  fails(
      "model.norm.weight", [](char* p) { *p = static_cast<char>(*p ^ 1); }, "model.norm.weight");
  fails(
      "lm_head.codes", [](char* p) { *p = static_cast<char>(*p ^ 1); },
      "lm_head: 1 of 261 rows differ, first row 0");
  fails(
      "lm_head.units", [](char* p) { p[1] = static_cast<char>(p[1] ^ 64); }, "lm_head: 1 of 261");
}

TEST(Convert, AnotherCheckpointIsNotTheModel) {
  TemporaryFolder folder;
  const QuantRecipe recipe = recipe_from_name("w2a2");
  const auto source = write_checkpoint(folder / "c", small_llama(), recipe, 1);
  const auto other = write_checkpoint(folder / "d", small_llama(), recipe, 2);
  export_packed(source, folder / "p", {});
  const VerifyResult result = verify(folder / "p", other);
  EXPECT_FALSE(result.passed());
  EXPECT_NE(all(result.differences).find("was made from weights"), std::string::npos);
  const auto third = write_checkpoint(folder / "e", small_llama(), recipe_from_name("w4a4"));
  EXPECT_QUEST_ERROR(verify(folder / "p", third), ErrorKind::kUsage, "different shape");
}

TEST(Convert, HuggingFaceFoldersHoldTheQuantizedWeights) {
  for (const char* name : {"w4a4", "w1a1", "int4_4of8", "bf16", "w4a16_nohadamard"}) {
    SCOPED_TRACE(name);
    TemporaryFolder folder;
    const QuantRecipe recipe = recipe_from_name(name);
    const auto source = write_checkpoint(folder / "c", small_llama(), recipe);
    const ExportReport report = export_hf(source, folder / "h");
    ASSERT_EQ(report.errors.size(), 14u);
    for (const TensorError& error : report.errors) {
      EXPECT_LT(error.of_rounding, 0.003) << error.name;
      if (recipe.weight.is_quantized()) {
        EXPECT_GT(error.of_master, 0.05) << error.name;
      }
    }
    QuantRecipe read;
    EXPECT_EQ(load_llama_config(folder / "h" / "config.json", &read), small_llama());
    EXPECT_FALSE(read.is_quantized());
    const CheckpointFiles files(folder / "h");
    EXPECT_NO_THROW(check_llama_tensors(files, small_llama()));
    // One row against the scalar definition: quantized, rotated back, rounded.
    const std::string tensor = "model.layers.1.self_attn.k_proj.weight";
    const std::vector<float> master = CheckpointFiles(source).tensor(tensor).to_float();
    const std::vector<float> stored = files.tensor(tensor).to_float();
    std::vector<float> row(master.begin(), master.begin() + 144), values(144);
    if (recipe.weight.is_quantized()) {
      quantize_row<float>(recipe.weight, row, {.values = values});
      quantize_row_backward<float>(recipe.weight, {}, values, values);  // the transform
    } else {
      values = row;
    }
    for (size_t k = 0; k < row.size(); ++k) {
      EXPECT_EQ(stored[k], round_to_bfloat16(values[k])) << k;
    }
    export_hf(source, folder / "h");  // replaces what it made
  }
}

// What AutoTokenizer needs; scripts/check_hf_export.py tries it.
TEST(Convert, HuggingFaceFoldersOfBytesHoldATokenizerJson) {
  TemporaryFolder folder;
  const auto source = write_checkpoint(folder / "c", small_llama(), recipe_from_name("w4a4"));
  EXPECT_EQ(export_hf(source, folder / "h").warning, "");
  const Json json = read_json(folder / "h/tokenizer.json");
  EXPECT_EQ(json["model"]["byte_fallback"], true);
  EXPECT_EQ(json["model"]["vocab"].size(), 257u);
  EXPECT_EQ(json["model"]["vocab"]["<0xE4>"], 0xE4);
  EXPECT_EQ(json["added_tokens"][0]["content"], "</s>");
  EXPECT_EQ(json["added_tokens"][0]["id"], 256);
  EXPECT_EQ(read_json(folder / "h/tokenizer_config.json")["tokenizer_class"],
            "PreTrainedTokenizerFast");
  EXPECT_EQ(load_tokenizer(folder / "h")->kind(), "bytes");
}

TEST(Convert, NothingButItsOwnKindIsReplaced) {
  TemporaryFolder folder;
  const auto source = write_checkpoint(folder / "c", small_llama(), recipe_from_name("w4a4"));
  EXPECT_QUEST_ERROR(export_packed(source, source, {}), ErrorKind::kUsage, "not replaced");
  EXPECT_QUEST_ERROR(export_hf(source, source), ErrorKind::kUsage, "not replaced");
  export_packed(source, folder / "p", {});
  export_packed(source, folder / "p", {.embedding = TableFormat::kBf16});
  EXPECT_EQ(PackedModel(folder / "p").embedding().format, TableFormat::kBf16);
  EXPECT_QUEST_ERROR(export_hf(source, folder / "p"), ErrorKind::kUsage, "not replaced");
  EXPECT_QUEST_ERROR(export_packed(folder / "p", folder / "q", {}), ErrorKind::kData,
                     "packed model");
}

TEST(Convert, WeightsThatAreNotFiniteAreNamed) {
  TemporaryFolder folder;
  const auto source = write_checkpoint(folder / "c", small_llama(), recipe_from_name("w4a4"));
  forge_packed_model(source, [](nlohmann::ordered_json& header, std::string& data) {
    const float nan = std::nanf("");
    const auto at = header.at("model.layers.1.mlp.up_proj.weight").at("data_offsets").at(0);
    std::memcpy(data.data() + at.get<size_t>(), &nan, 4);
  });
  EXPECT_QUEST_ERROR(export_packed(source, folder / "p", {}), ErrorKind::kNumeric,
                     "row 208 of model.layers.1.mlp.gate_up_proj");
  EXPECT_FALSE(fs::exists(folder / "p"));
}

}  // namespace
}  // namespace quest::convert
