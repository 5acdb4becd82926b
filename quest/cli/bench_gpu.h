// What the commands of `quest bench` share: costs to compare times with, tables, JSON.
//
// Thread rules: pure, but for use_bench_gpu.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "quest/base/gpu_ceilings.h"
#include "quest/model/llama_config.h"
#include "quest/packed/packed_model.h"
#include "quest/runtime_gpu/bench_layer.h"

namespace CLI {
class App;
}

namespace quest::cli {

using OrderedJson = nlohmann::ordered_json;

// The subcommands of `quest bench`.
void add_bench_layer_command(CLI::App& bench);
void add_bench_prefill_command(CLI::App& bench);
void add_bench_decode_command(CLI::App& bench);

struct BenchGpu {
  GpuFacts facts;
  GpuCeilings ceilings;

  // Of products with this recipe: INT8 where both sides are quantized, else BF16.
  double operations_ceiling(const QuantRecipe& recipe) const;
};
// Makes the GPU ready. Throws kEnvironment where there is none, and kUsage for --device cpu.
BenchGpu use_bench_gpu(const std::string& device);
// "gpu", "ceilings" and "version", for --json.
OrderedJson gpu_json(const BenchGpu& gpu, const std::string& program);

// The operations of reading `tokens` tokens of each of n sequences: products of the blocks,
// causal attention (half of the square), and the head for the last token.
double prefill_operations(const LlamaConfig& config, int64_t sequences, int64_t tokens);

// Bytes that a step of decode must read at least, for all sequences at this depth.
struct StepBytes {
  double blocks = 0;  // weights of the blocks, keys and values of element_bytes each
  double head = 0;
};
StepBytes step_bytes(const PackedModel& model, int64_t sequences, int64_t depth,
                     double element_bytes);

// A linear layer of a block.
struct LayerShape {
  std::string name;  // "Q, K, V"
  int64_t n = 0, k = 0;
};
std::vector<LayerShape> block_layers(const LlamaConfig& config);

// What was measured of a layer with so many rows.
struct LayerRow {
  LayerShape layer;
  int64_t rows = 0;
  std::vector<LayerTime> times;  // of LayerBench::time
};
// "columns" and "layers" as `quest plot fig6` reads them.
void add_layer_figure(OrderedJson& json, const std::string& recipe,
                      const std::vector<LayerRow>& rows);

// The first column to the left, the others to the right; a row of one cell is a title.
std::string format_table(const std::vector<std::vector<std::string>>& rows);
std::string significant(double value);  // three digits: "0.0123", "45.6", "1234"
std::string percent(double share);      // "85 %"; empty for 0, not known
std::string ratio_text(double ratio);   // "1.52"; empty for 0, not known

}  // namespace quest::cli
