#include "quest/cli/bench_gpu.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/base/version.h"
#include "quest/cli/device_option.h"
#include "quest/ops/gpu.h"

namespace quest::cli {
namespace {

using Weights = LayerTime::Weights;
using Work = LayerTime::Work;

double tensor_bytes(const PackedTensor& t) {
  return static_cast<double>(t.codes.size_bytes() + t.pairs.size_bytes() + t.units.size_bytes() +
                             t.value_sums.size_bytes() + t.weight.size_bytes());
}

double table_bytes(const PackedTable& t) {
  return static_cast<double>(t.weight.size_bytes() + t.codes.size_bytes() +
                             t.row_units.size_bytes() + t.group_units.size_bytes());
}

// null where it was not measured.
OrderedJson seconds_of(const LayerRow& row, Weights weights, Work work) {
  for (const LayerTime& t : row.times) {
    if (t.weights == weights && t.work == work) return t.seconds;
  }
  return nullptr;
}

}  // namespace

double BenchGpu::operations_ceiling(const QuantRecipe& recipe) const {
  const bool int8 = recipe.weight.is_quantized() && recipe.activation.is_quantized();
  return int8 ? ceilings.int8_operations : ceilings.bf16_operations;
}

BenchGpu use_bench_gpu(const std::string& device) {
  QUEST_CHECK(device != "cpu", ErrorKind::kUsage,
              "quest bench is of the GPU; on the CPU `quest-run bench` measures reading and "
              "writing, build/bin/packed_gemm_bench the products");
  use_device(device);
  BenchGpu gpu{.facts = ops::gpu_facts(), .ceilings = {}};
  gpu.ceilings = gpu_ceilings(gpu.facts);
  return gpu;
}

OrderedJson gpu_json(const BenchGpu& gpu, const std::string& program) {
  return {{"program", program},
          {"gpu", gpu.facts.name},
          {"ceilings",
           {{"memory_bytes_per_second", gpu.ceilings.memory_bytes},
            {"bf16_operations_per_second", gpu.ceilings.bf16_operations},
            {"int8_operations_per_second", gpu.ceilings.int8_operations}}},
          {"version", version_text()}};
}

double prefill_operations(const LlamaConfig& config, int64_t sequences, int64_t tokens) {
  double matrices = 0;
  for (const LayerShape& layer : block_layers(config)) {
    matrices += static_cast<double>(layer.n) * static_cast<double>(layer.k);
  }
  const auto t = static_cast<double>(tokens), q = static_cast<double>(config.q_size());
  const double block = 2 * matrices * t + 2 * t * t * q;  // scores and values: 4 T^2 q / 2
  const double head =
      2 * static_cast<double>(config.vocab_size) * static_cast<double>(config.hidden_size);
  return static_cast<double>(sequences) * (static_cast<double>(config.num_layers) * block + head);
}

StepBytes step_bytes(const PackedModel& model, int64_t sequences, int64_t depth,
                     double element_bytes) {
  StepBytes bytes;
  for (int64_t i = 0; i < model.blocks(); ++i) {
    const PackedBlock& b = model.block(i);
    bytes.blocks +=
        tensor_bytes(b.qkv) + tensor_bytes(b.o) + tensor_bytes(b.gate_up) + tensor_bytes(b.down);
    bytes.blocks +=
        static_cast<double>(b.input_norm.size_bytes() + b.post_attention_norm.size_bytes());
  }
  const LlamaConfig& config = model.config();
  bytes.blocks += 2 * element_bytes *
                  static_cast<double>(config.num_layers * config.kv_size() * depth * sequences);
  bytes.head = table_bytes(model.head());
  return bytes;
}

std::vector<LayerShape> block_layers(const LlamaConfig& config) {
  const int64_t c = config.hidden_size, f = config.intermediate_size, q = config.q_size();
  return {{"Q, K, V", q + 2 * config.kv_size(), c},
          {"attention output", c, q},
          {"gate and up", 2 * f, c},
          {"down", c, f}};
}

void add_layer_figure(OrderedJson& json, const std::string& recipe,
                      const std::vector<LayerRow>& rows) {
  json["columns"] = {"batch_tokens", "bf16", recipe + "_nohadamard", recipe,
                     recipe + "_int8_weights"};
  OrderedJson& layers = json["layers"] = OrderedJson::object();
  for (const LayerRow& row : rows) {
    layers[fmt::format("{}x{}", row.layer.n, row.layer.k)].push_back(
        {row.rows, seconds_of(row, Weights::kBf16, Work::kProduct),
         seconds_of(row, Weights::kPacked, Work::kQuantize),
         seconds_of(row, Weights::kPacked, Work::kHadamardQuantize),
         seconds_of(row, Weights::kInt8, Work::kHadamardQuantize)});
  }
}

std::string format_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    if (row.size() < 2) continue;
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      line += row.size() < 2 ? row[i]
              : i == 0       ? fmt::format("{:<{}}", row[i], widths[i])
                             : fmt::format("  {:>{}}", row[i], widths[i]);
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

std::string significant(double value) {
  const int before = value >= 1 ? static_cast<int>(std::floor(std::log10(value))) + 1 : 1;
  return fmt::format("{:.{}f}", value, std::max(0, value >= 1 ? 3 - before : 4));
}

std::string percent(double share) {
  return share > 0 ? fmt::format("{:.0f} %", 100 * share) : std::string();
}

std::string ratio_text(double ratio) {
  return ratio > 0 ? fmt::format("{:.2f}", ratio) : std::string();
}

}  // namespace quest::cli
