#include "quest/packed/packed_model.h"

#include <cmath>
#include <numeric>

#include <gtest/gtest.h>

#include "quest/base/philox.h"
#include "quest/base/testing.h"
#include "quest/packed/packed_layout.h"
#include "quest/packed/packed_report.h"
#include "quest/packed/packed_writer.h"
#include "quest/packed/table_codes.h"
#include "quest/packed/testing_packed.h"
#include "quest/text/tokenizer.h"

namespace quest {
namespace {

using quest::testing::forge_packed_model;
using quest::testing::small_llama;
using quest::testing::TemporaryFolder;
using quest::testing::write_small_packed_model;
using OrderedJson = nlohmann::ordered_json;

constexpr std::array kRecipes = {"w1a1",
                                 "w2a2",
                                 "w3a3",
                                 "w4a4",
                                 "w5a5",
                                 "w6a6",
                                 "w7a7",
                                 "w8a8",
                                 "w4a8",
                                 "w4a16",
                                 "w16a4",
                                 "ternary",
                                 "fp4",
                                 "bf16",
                                 "int4_4of8",
                                 "gauss3",
                                 "gauss2_converged"};

std::vector<float> random_floats(int64_t count, uint64_t seed) {
  const Philox random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(random.normal(i));
  return values;
}

// A model of known weights, quantized by the scalar definition.
struct KnownLayer {
  std::vector<int8_t> codes;
  std::vector<float> units;
  std::vector<bfloat16> weight;
};

KnownLayer quantize_layer(const QuantSpec& spec, const std::vector<float>& w, int64_t n,
                          int64_t k) {
  KnownLayer out;
  if (!spec.is_quantized()) {
    for (const float value : w) out.weight.emplace_back(value);
    return out;
  }
  out.codes.resize(w.size());
  for (int64_t r = 0; r < n; ++r) {
    const auto begin = static_cast<size_t>(r * k), width = static_cast<size_t>(k);
    out.units.push_back(quantize_row<float>(spec, std::span(w).subspan(begin, width),
                                            {.codes = std::span(out.codes).subspan(begin, width)}));
  }
  return out;
}

struct KnownModel {
  std::vector<KnownLayer> layers;
  std::vector<float> embedding, head, norm;
};

KnownModel write_known_model(const std::filesystem::path& folder, const LlamaConfig& config,
                             const QuantRecipe& recipe, TableFormats formats) {
  KnownModel known;
  known.embedding = random_floats(config.vocab_size * config.hidden_size, 100);
  known.head = random_floats(config.vocab_size * config.hidden_size, 101);
  known.norm = random_floats(config.hidden_size, 102);
  PackedWriter out(folder, {.config = config,
                            .recipe = recipe,
                            .formats = formats,
                            .source_hash = std::string(32, 'a')});
  const auto rows_of = [&](const std::vector<float>& values) {
    return [&values, &config](int64_t row, std::span<float> x) {
      std::copy_n(values.begin() + row * config.hidden_size, x.size(), x.begin());
    };
  };
  EXPECT_LT(out.write_table("model.embed_tokens", rows_of(known.embedding)), 0.11);
  for (int64_t i = 0; i < config.num_layers; ++i) {
    for (size_t j = 0; j < 4; ++j) {
      const PackedLayer layer = packed_layers(config)[j];
      const std::string block = fmt::format("model.layers.{}.", i);
      if (j == 0) out.write_norm(block + "input_layernorm.weight", known.norm);
      if (j == 2) out.write_norm(block + "post_attention_layernorm.weight", known.norm);
      known.layers.push_back(quantize_layer(
          recipe.weight, random_floats(layer.n * layer.k, known.layers.size()), layer.n, layer.k));
      const KnownLayer& values = known.layers.back();
      out.write_layer(packed_layer_name(i, layer), {values.codes, values.units, values.weight});
    }
  }
  out.write_norm("model.norm.weight", known.norm);
  if (!config.tie_word_embeddings) out.write_table("lm_head", rows_of(known.head));
  make_byte_tokenizer()->save(out.folder());
  out.publish();
  return known;
}

// Codes of a packed tensor in the form of the quantizer.
std::vector<int8_t> codes_of(const PackedTensor& tensor) {
  std::vector<int8_t> codes(static_cast<size_t>(tensor.n * tensor.k));
  if (tensor.spec.grid == Grid::kUniform4of8) {
    unpack_sparse_tiles(sparse_tiles(tensor.n, tensor.k), tensor.codes.data(), tensor.pairs.data(),
                        codes.data());
    return codes;
  }
  std::vector<uint8_t> stored(codes.size());
  unpack_code_tiles(tensor.tiles, tensor.codes.data(), stored.data());
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = code_of_stored(tensor.spec, stored[i]);
  return codes;
}

// sum_k of what the header promises, from the codes.
int64_t value_sum_of(const PackedTensor& tensor, const std::vector<int8_t>& codes, int64_t row) {
  int64_t sum = 0;
  for (int64_t k = 0; k < tensor.k; ++k) {
    const int8_t code = codes[static_cast<size_t>(row * tensor.k + k)];
    if (tensor.spec.grid == Grid::kUniform4of8 && code == 0) continue;
    sum += tensor.spec.grid == Grid::kFp4 ? code : stored_code(tensor.spec, code);
  }
  return sum;
}

TEST(PackedModel, ReadsBackWhatWasWrittenForEveryRecipe) {
  for (const char* name : kRecipes) {
    SCOPED_TRACE(name);
    TemporaryFolder folder;
    const LlamaConfig config = small_llama();
    const QuantRecipe recipe = recipe_from_name(name);
    const KnownModel known =
        write_known_model(folder / "m", config, recipe, {TableFormat::kInt8, TableFormat::kBf16});
    const PackedModel model(folder / "m");
    EXPECT_EQ(model.config(), config);
    EXPECT_EQ(model.recipe().weight, recipe.weight);
    EXPECT_EQ(model.recipe().activation, recipe.activation);
    EXPECT_EQ(model.source_hash(), std::string(32, 'a'));
    ASSERT_EQ(model.blocks(), 2);
    for (int64_t i = 0; i < 2; ++i) {
      const PackedBlock& block = model.block(i);
      EXPECT_TRUE(std::equal(known.norm.begin(), known.norm.end(), block.input_norm.begin()));
      const std::array<const PackedTensor*, 4> tensors = {&block.qkv, &block.o, &block.gate_up,
                                                          &block.down};
      for (size_t j = 0; j < 4; ++j) {
        const KnownLayer& layer = known.layers[static_cast<size_t>(i) * 4 + j];
        const PackedTensor& tensor = *tensors[j];
        EXPECT_EQ(tensor.n, packed_layers(config)[j].n);
        ASSERT_EQ(tensor.weight.size(), layer.weight.size());
        for (size_t v = 0; v < layer.weight.size(); ++v) {
          ASSERT_EQ(tensor.weight[v].bits, layer.weight[v].bits);
        }
        if (!recipe.weight.is_quantized()) continue;
        EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.codes.data()) % 64, 0u);
        const std::vector<int8_t> codes = codes_of(tensor);
        ASSERT_EQ(codes, layer.codes);
        ASSERT_EQ(std::vector<float>(tensor.units.begin(), tensor.units.end()), layer.units);
        ASSERT_EQ(!tensor.value_sums.empty(), has_value_sums(recipe));
        for (size_t r = 0; r < tensor.value_sums.size(); ++r) {
          ASSERT_EQ(tensor.value_sums[r], value_sum_of(tensor, codes, static_cast<int64_t>(r)));
        }
      }
    }
    EXPECT_NO_THROW(verify_folder(folder / "m"));
    EXPECT_EQ(load_tokenizer(folder / "m")->vocab_size(), 257);
  }
}

TEST(PackedModel, OnlyEightBitActivationsNeedSums) {
  EXPECT_TRUE(has_value_sums(recipe_from_name("w8a8")));
  EXPECT_TRUE(has_value_sums(recipe_from_name("w4a8")));
  for (const char* name : {"w4a4", "w8a4", "w8a16", "w16a8", "bf16", "gauss4"}) {
    EXPECT_FALSE(has_value_sums(recipe_from_name(name))) << name;
  }
}

TEST(PackedModel, TablesHoldTheirRowsToTheFormatsError) {
  const struct {
    TableFormat format;
    double least, most;
  } cases[] = {{TableFormat::kBf16, 1e-4, 2e-3},
               {TableFormat::kInt8, 1e-3, 1e-2},
               {TableFormat::kInt4, 2e-2, 0.11}};
  for (const auto& c : cases) {
    TemporaryFolder folder;
    const LlamaConfig config = small_llama(160);
    const KnownModel known = write_known_model(folder / "m", config, recipe_from_name("w4a4"),
                                               {c.format, TableFormat::kInt8});
    const PackedModel model(folder / "m");
    double error = 0, norm = 0;
    std::vector<float> row(160);
    for (int64_t r = 0; r < config.vocab_size; ++r) {
      dequantize_table_row(model.embedding(), r, row);
      for (size_t k = 0; k < row.size(); ++k) {
        const double x = known.embedding[static_cast<size_t>(r) * 160 + k];
        error += std::pow(x - static_cast<double>(row[k]), 2);
        norm += x * x;
      }
    }
    const double relative = std::sqrt(error / norm);
    EXPECT_GT(relative, c.least);
    EXPECT_LT(relative, c.most);
  }
}

TEST(TableCodes, RowsOfZerosAndTinyValues) {
  for (const float value : {0.0f, 1e-38f, -1e-40f}) {
    const std::vector<float> x(32, value);
    std::vector<uint8_t> values(32);
    EXPECT_EQ(quantize_int8_row(x, values.data()), 0.0f);
    EXPECT_EQ(values, std::vector<uint8_t>(32, 128));
    bfloat16 unit(1.0f);
    quantize_int4_row(x, values.data(), &unit);
    EXPECT_EQ(static_cast<float>(unit), 0.0f);
    EXPECT_EQ(values, std::vector<uint8_t>(32, 8));
  }
  std::vector<float> x(32, 1.0f);
  x[7] = std::numeric_limits<float>::infinity();
  std::vector<uint8_t> values(32);
  EXPECT_QUEST_ERROR(quantize_int8_row(x, values.data()), ErrorKind::kNumeric, "not finite");
}

TEST(PackedModel, TiedHeadIsTheEmbedding) {
  TemporaryFolder folder;
  LlamaConfig config = small_llama();
  config.tie_word_embeddings = true;
  write_random_packed_model(folder / "m", config, recipe_from_name("w2a2"));
  const PackedModel model(folder / "m");
  EXPECT_EQ(model.head().codes.data(), model.embedding().codes.data());
  EXPECT_EQ(packed_totals(model).parameters, config.parameters());
}

TEST(PackedModel, SizesAddUpToTheFile) {
  for (const char* name : kRecipes) {
    for (const TableFormat format : {TableFormat::kBf16, TableFormat::kInt4}) {
      TemporaryFolder folder;
      const auto path = write_small_packed_model(folder / "m", name, {{format, format}});
      const PackedModel model(path);
      int64_t bytes = 0, parameters = 0;
      for (const TensorSize& size : model.sizes()) {
        bytes += size.bytes;
        parameters += size.parameters;
      }
      EXPECT_EQ(bytes,
                static_cast<int64_t>(std::filesystem::file_size(path / "model.safetensors")));
      EXPECT_EQ(bytes, model.file_bytes());
      EXPECT_EQ(parameters, model.config().parameters());
      EXPECT_EQ(packed_totals(model).parameters, parameters);
    }
  }
}

TEST(PackedModel, BitsPerParameterAreThoseOfTheCodes) {
  TemporaryFolder folder;
  LlamaConfig config = small_llama();
  config.hidden_size = 1024;
  config.intermediate_size = 2048;
  write_random_packed_model(folder / "m", config, recipe_from_name("w3a3"));
  const PackedModel model(folder / "m");
  const PackedTotals totals = packed_totals(model);
  EXPECT_GT(totals.block_bits_per_parameter, 3.0);
  EXPECT_LT(totals.block_bits_per_parameter, 3.1);
  const std::string report = packed_report(model, true);
  EXPECT_NE(report.find(std::to_string(totals.model_bytes)), std::string::npos) << report;
  EXPECT_NE(report.find("model.layers.1.mlp.down_proj.codes"), std::string::npos);
}

TEST(PackedWriter, RefusesWhatIsNotTheNextTensor) {
  TemporaryFolder folder;
  const LlamaConfig config = small_llama();
  const PackedDescription description{.config = config,
                                      .recipe = recipe_from_name("w4a4"),
                                      .formats = {TableFormat::kBf16, TableFormat::kBf16},
                                      .source_hash = std::string(32, '0')};
  {
    PackedWriter out(folder / "m", description);
    const std::vector<float> norm(144);
    EXPECT_QUEST_ERROR(out.write_norm("model.norm.weight", norm), ErrorKind::kUsage,
                       "model.embed_tokens.weight");
    EXPECT_QUEST_ERROR(out.publish(), ErrorKind::kUsage, "not whole");
    const std::vector<bfloat16> rows(261 * 144 + 1);
    EXPECT_QUEST_ERROR(out.write<bfloat16>("model.embed_tokens.weight", rows), ErrorKind::kUsage,
                       "takes 75168 bytes");
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "m"));
  PackedDescription bad = description;
  bad.source_hash = "x";
  EXPECT_QUEST_ERROR(PackedWriter(folder / "m", bad), ErrorKind::kUsage, "hexadecimal");
  bad = description;
  bad.formats.head = TableFormat::kInt4;
  EXPECT_QUEST_ERROR(PackedWriter(folder / "m", bad), ErrorKind::kUsage, "multiple of 32");
  bad = description;
  bad.recipe.weight = spec_from_string("masked_4of8.hadamard");
  EXPECT_QUEST_ERROR(PackedWriter(folder / "m", bad), ErrorKind::kUsage, "no packed form");
}

TEST(RandomModel, SameSeedSameBytes) {
  TemporaryFolder folder;
  for (const char* name : {"w4a4", "w4a8", "int4_4of8"}) {
    const auto file = [&](uint64_t seed) {
      const auto path = folder / fmt::format("{}-{}", name, seed);
      write_small_packed_model(path, name, {.formats = {}, .seed = seed});
      return read_file(path / "model.safetensors");
    };
    EXPECT_EQ(file(1), file(1));
    EXPECT_NE(file(1), file(2));
  }
}

}  // namespace
}  // namespace quest
