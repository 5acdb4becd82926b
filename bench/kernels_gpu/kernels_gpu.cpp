// Every GPU kernel of the training step at the shapes of a model, beside the GPU's ceilings
// measured in the same run.
//
//   kernels_gpu                        # 800M, 32 x 512 tokens
//   kernels_gpu --model 30M --batch 64
//   kernels_gpu --decode               # instead: what lies between the products of a decode step
//   kernels_gpu --inputs               # instead: the inputs of linear layers, 4096 rows
//   kernels_gpu --tiles                # instead: the product of codes by each of its tiles
#include "bench/kernels_gpu/decode_kernels.h"
#include "bench/kernels_gpu/input_kernels.h"
#include "bench/kernels_gpu/table.h"
#include "bench/kernels_gpu/tile_products.h"
#include "bench/kernels_gpu/train_kernels.h"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/train/gpu_step.h"

int main(int argc, char** argv) {
  CLI::App app("GPU kernels of the training step beside the GPU's ceilings");
  std::string model = "800M";
  int64_t batch = 32, sequence = 512;
  app.add_option("--model", model, "model size: 30M, ... 1.6B");
  app.add_option("--batch", batch, "sequences")->check(CLI::PositiveNumber);
  app.add_option("--seq", sequence, "tokens of a sequence")->check(CLI::PositiveNumber);
  bool decode = false;
  app.add_flag("--decode", decode, "the kernels between the products of a decode step instead");
  bool inputs = false;
  int64_t rows = 4096;
  app.add_flag("--inputs", inputs, "the inputs of linear layers instead");
  app.add_option("--rows", rows, "of --inputs")->check(CLI::PositiveNumber);
  bool tiles = false;
  app.add_flag("--tiles", tiles, "the product of codes by each of its tiles instead");
  CLI11_PARSE(app, argc, argv);
  try {
    quest::train::prepare_gpu(false);
    if (tiles) {
      quest::bench::run_tile_products();
      return 0;
    }
    const quest::bench::Table table;
    if (inputs) {
      quest::bench::run_input_kernels(table.copy_rate(), rows);
    } else if (decode) {
      quest::bench::run_decode_kernels(table.copy_rate());
    } else {
      quest::bench::run_train_kernels(table, model, batch, sequence);
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "kernels_gpu: {}\n", error.what());
    return 1;
  }
  return 0;
}
