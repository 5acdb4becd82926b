// quest bench layer: how fast linear layers are on the GPU; prefill and decode of whole models are
// in cmd_bench_engine.cpp.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/shutdown.h"
#include "quest/cli/bench_gpu.h"
#include "quest/cli/commands.h"
#include "quest/cli/device_option.h"
#include "quest/cli_run/bench_shapes.h"
#include "quest/cli_run/engine_options.h"
#include "quest/cli_run/whole_numbers.h"
#include "quest/ops/gpu.h"

namespace quest::cli {
namespace {

using Weights = LayerTime::Weights;
using Work = LayerTime::Work;

struct LayerArguments {
  std::string device = "cuda", quant = "w4a4", json;
  std::vector<std::string> shapes;
  int64_t n = 0, k = 0, repeats = 15;
  std::vector<int64_t> rows = {1, 8, 16, 64, 512, 4096};
};

std::vector<LayerShape> layers_of(const LayerArguments& arguments) {
  const bool single = arguments.n > 0 || arguments.k > 0;
  QUEST_CHECK(single != !arguments.shapes.empty(), ErrorKind::kUsage,
              "name --shape of a model ({}) or --n and --k of a layer; {} given",
              bench_shape_names(), single ? "both were" : "none was");
  if (single) {
    QUEST_CHECK(arguments.n > 0 && arguments.k > 0, ErrorKind::kUsage,
                "--n {} and --k {}: a layer needs both", arguments.n, arguments.k);
    return {{"layer", arguments.n, arguments.k}};
  }
  std::vector<LayerShape> layers;
  for (const std::string& shape : arguments.shapes) {
    for (LayerShape& layer : block_layers(bench_shape(shape))) layers.push_back(std::move(layer));
  }
  return layers;
}

const char* weights_name(Weights weights) {
  return weights == Weights::kBf16 ? "bf16" : weights == Weights::kPacked ? "packed" : "int8";
}

const char* work_name(Work work) {
  return work == Work::kProduct    ? "product"
         : work == Work::kQuantize ? "quantize"
                                   : "hadamard_quantize";
}

std::string way_text(const LayerTime& t, const std::string& recipe) {
  if (t.weights == Weights::kBf16) return "BF16";
  const char* work = t.work == Work::kProduct    ? "product alone"
                     : t.work == Work::kQuantize ? "without Hadamard"
                                                 : "with Hadamard";
  return fmt::format("{}, {} weights, {}", recipe, weights_name(t.weights), work);
}

// Operations over seconds and bytes of weights over seconds; of the ceiling what takes longer,
// moving weights, inputs and outputs or multiplying.
std::vector<std::string> layer_cells(const LayerRow& row, const LayerTime& t, const BenchGpu& gpu,
                                     const std::string& recipe) {
  const auto m = static_cast<double>(row.rows), n = static_cast<double>(row.layer.n),
             k = static_cast<double>(row.layer.k);
  const double operations = 2 * m * n * k, bytes = static_cast<double>(t.weight_bytes);
  const double ceiling =
      t.weights == Weights::kBf16 ? gpu.ceilings.bf16_operations : gpu.ceilings.int8_operations;
  return {fmt::format("  {}", way_text(t, recipe)),
          significant(1e6 * t.seconds),
          significant(1e-12 * operations / t.seconds),
          significant(1e-9 * bytes / t.seconds),
          percent(gpu.ceilings.share(bytes + 2 * m * (n + k), operations, ceiling, t.seconds)),
          ratio_text(row.times.front().seconds / t.seconds),
          significant(1e-6 * bytes)};
}

void print_rows(const std::vector<LayerRow>& rows, const BenchGpu& gpu, const std::string& recipe) {
  std::vector<std::vector<std::string>> table = {
      {"", "us", "TFLOP/s", "GB/s of weights", "of the ceiling", "x BF16", "MB of weights"}};
  for (const LayerRow& row : rows) {
    table.push_back({fmt::format("{} {}x{}, {}", row.layer.name, row.layer.n, row.layer.k,
                                 row.rows == 1 ? "1 row" : fmt::format("{} rows", row.rows))});
    for (const LayerTime& t : row.times) table.push_back(layer_cells(row, t, gpu, recipe));
  }
  fmt::print("{}", format_table(table));
}

OrderedJson measurements(const std::vector<LayerRow>& rows) {
  OrderedJson list = OrderedJson::array();
  for (const LayerRow& row : rows) {
    for (const LayerTime& t : row.times) {
      list.push_back({{"layer", row.layer.name},
                      {"n", row.layer.n},
                      {"k", row.layer.k},
                      {"rows", row.rows},
                      {"weights", weights_name(t.weights)},
                      {"work", work_name(t.work)},
                      {"seconds", t.seconds},
                      {"weight_bytes", t.weight_bytes},
                      {"plan", t.plan}});
    }
  }
  return list;
}

void print_layer_plans(const std::vector<LayerRow>& rows) {
  std::vector<std::string> said;
  for (const LayerRow& row : rows) {
    for (const LayerTime& t : row.times) {
      const std::string line = fmt::format("{}: {}", weights_name(t.weights), t.plan);
      if (std::find(said.begin(), said.end(), line) != said.end()) continue;
      said.push_back(line);
      fmt::print("{}\n", line);
    }
  }
}

void run_layer(const LayerArguments& arguments) {
  const std::vector<LayerShape> layers = layers_of(arguments);
  const QuantRecipe recipe = recipe_from_name(arguments.quant);
  check_result_file(arguments.json);
  const BenchGpu gpu = use_bench_gpu(arguments.device);
  install_shutdown_handlers();
  fmt::print("{}; ceilings: {}\n", ops::gpu_description(), describe(gpu.ceilings));
  std::vector<LayerRow> rows;
  for (const LayerShape& layer : layers) {
    LayerBench bench(recipe, layer.n, layer.k, arguments.repeats);
    for (const int64_t m : arguments.rows) {
      stop_if_asked();
      rows.push_back({layer, m, bench.time(m)});
    }
  }
  print_rows(rows, gpu, recipe.name);
  print_layer_plans(rows);
  if (arguments.json.empty()) return;
  OrderedJson json = gpu_json(gpu, "quest bench layer");
  json["recipe"] = recipe.name;
  add_layer_figure(json, recipe.name, rows);
  json["measurements"] = measurements(rows);
  write_file_atomically(arguments.json, json.dump(2) + "\n");
}

}  // namespace

void add_bench_layer_command(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "layer", "linear layers: quantized products with and without Hadamard transform, and BF16");
  auto arguments = std::make_shared<LayerArguments>();
  command
      ->add_option("--shape", arguments->shapes,
                   "models whose layers are taken: " + bench_shape_names())
      ->delimiter(',');
  command->add_option("--n", arguments->n, "instead of --shape: outputs of one layer")
      ->check(whole_number_from(1));
  command->add_option("--k", arguments->k, "and its inputs")->check(whole_number_from(1));
  command->add_option("--quant", arguments->quant, "recipe whose grids are taken")
      ->capture_default_str();
  command->add_option("--rows", arguments->rows, "rows of the inputs (tokens), one or more")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--repeats", arguments->repeats, "the median of so many is printed")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_option("--json", arguments->json,
                      "also write the times to this file, which `quest plot fig6` draws");
  add_device_option(*command, arguments->device);
  command->callback([arguments] { run_layer(*arguments); });
}

void add_bench_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("bench",
                         "speed on a GPU: linear layers, reading, writing (on the CPU: "
                         "`quest-run bench`)");
  command->require_subcommand(1);
  add_bench_layer_command(*command);
  add_bench_prefill_command(*command);
  add_bench_decode_command(*command);
}

}  // namespace quest::cli
