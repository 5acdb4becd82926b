#include "quest/cli/bench_gpu.h"

#include <gtest/gtest.h>

#include "quest/base/testing.h"
#include "quest/cli_run/bench_shapes.h"
#include "quest/packed/random_model.h"
#include "quest/plot/paper_figures.h"

namespace quest::cli {
namespace {

using Weights = LayerTime::Weights;
using Work = LayerTime::Work;

TEST(BenchGpu, IsOfTheGpu) {
  EXPECT_QUEST_ERROR(use_bench_gpu("cpu"), ErrorKind::kUsage, "quest-run bench");
}

TEST(BenchGpu, ShapesAreThoseOfTheModels) {
  const LlamaConfig llama = bench_shape("7B");
  EXPECT_NEAR(static_cast<double>(llama.parameters()), 6.738e9, 1e6) << "Llama 2 7B";
  const std::vector<LayerShape> layers = block_layers(llama);
  ASSERT_EQ(layers.size(), 4u);
  EXPECT_EQ(layers[0].n, 12288);
  EXPECT_EQ(layers[2].n, 22016);
  EXPECT_EQ(layers[3].k, 11008);
  EXPECT_EQ(block_layers(bench_shape("8B"))[0].n, 4096 + 2 * 1024) << "fewer key-value heads";
  EXPECT_EQ(bench_shape("1.6B").intermediate_size, paper_intermediate_size(2560));
}

TEST(BenchGpu, PrefillCountsProductsAttentionAndOneHead) {
  LlamaConfig c;
  c.num_layers = 2;
  c.hidden_size = 4;
  c.intermediate_size = 8;
  c.num_heads = 2;
  c.num_kv_heads = 1;
  c.head_dim = 2;
  c.vocab_size = 10;
  const double matrices = 8 * 4 + 4 * 4 + 16 * 4 + 4 * 8;
  const double attention = 2 * 5 * 5 * 4;  // scores and values, half of the square
  EXPECT_EQ(prefill_operations(c, 3, 5), 3 * (2 * (2 * matrices * 5 + attention) + 2 * 10 * 4));
}

TEST(BenchGpu, AStepReadsBlocksCacheAndHead) {
  testing::TemporaryFolder folder;
  LlamaConfig c;
  c.num_layers = 2;
  c.hidden_size = 256;
  c.intermediate_size = 512;
  c.num_heads = c.num_kv_heads = 2;
  c.vocab_size = 300;
  const auto bytes_of = [&](const char* recipe) {
    write_random_packed_model(folder / recipe, c, recipe_from_name(recipe),
                              {.formats = {TableFormat::kBf16, TableFormat::kBf16}});
    return step_bytes(PackedModel(folder / recipe), 3, 7, 2);
  };
  const double cache = 2 * 2 * 2 * 256 * 7 * 3, norms = 2 * 2 * 256 * 4;
  const double matrices = 2 * (768 * 256 + 256 * 256 + 1024 * 256 + 256 * 512);
  const double rows = 2 * (768 + 256 + 1024 + 256);
  EXPECT_EQ(bytes_of("bf16").blocks, 2 * matrices + cache + norms);
  EXPECT_EQ(bytes_of("w2a2").blocks, matrices / 4 + 4 * rows + cache + norms);
  EXPECT_EQ(bytes_of("w4a4").head, 2 * 300 * 256);
}

TEST(BenchGpu, LayersBecomeFigure6) {
  const LayerShape layer{"Q, K, V", 12288, 4096};
  const auto time = [](Weights weights, Work work, double seconds) {
    return LayerTime{weights, work, seconds, 1, ""};
  };
  std::vector<LayerRow> rows = {
      {layer,
       1,
       {time(Weights::kBf16, Work::kProduct, 8), time(Weights::kPacked, Work::kProduct, 1),
        time(Weights::kPacked, Work::kQuantize, 2),
        time(Weights::kPacked, Work::kHadamardQuantize, 4)}}};
  rows.push_back(rows.front());
  rows.back().rows = 4096;
  rows.back().times.push_back(time(Weights::kInt8, Work::kHadamardQuantize, 5));
  OrderedJson json = {{"gpu", "NVIDIA H200"}};
  add_layer_figure(json, "w2a2", rows);
  testing::TemporaryFolder folder;
  folder.write("f.json", json.dump());
  const plot::FigureOptions own{.own = {(folder / "f.json").string()}, .own_only = true};
  const plot::Figure figure = plot::paper_figure("fig6", {}, own);
  const auto& series = std::get<plot::Chart>(figure.panels.at(0)).series;
  ASSERT_EQ(series.size(), 3u);
  EXPECT_EQ(series[0].name, "own, H200: W2A2 without Hadamard");
  EXPECT_EQ(series[0].points[0].y, 4);
  EXPECT_EQ(series[1].points[1].y, 2);
  ASSERT_EQ(series[2].points.size(), 1u) << "int8 weights of 4096 rows alone";
  EXPECT_EQ(series[2].points[0].x, 4096);
  EXPECT_EQ(series[2].points[0].y, 1.6);
}

TEST(BenchGpu, TablesStandInColumns) {
  EXPECT_EQ(format_table({{"", "ms", "x"}, {"w4a4", "1.25", ""}, {"title"}, {"a", "10", "2.00"}}),
            "        ms     x\n"
            "w4a4  1.25\n"
            "title\n"
            "a       10  2.00\n");
  EXPECT_EQ(significant(0.0123), "0.0123");
  EXPECT_EQ(significant(1.2345), "1.23");
  EXPECT_EQ(significant(45.67), "45.7");
  EXPECT_EQ(significant(1234.5), "1234");
  EXPECT_EQ(percent(0), "");
  EXPECT_EQ(percent(0.853), "85 %");
}

}  // namespace
}  // namespace quest::cli
