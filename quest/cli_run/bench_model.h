// The model of a benchmark: a folder that the user names, or random weights of a shape.
//
//   add_random_model_options(*command, arguments->random);
//   check_bench_model(arguments->model, arguments->random);
//   const BenchModel model(arguments->model, arguments->random, /*context=*/1024);
//   const PackedModel packed = open_packed_model(model.folder().string());
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "quest/model/llama_config.h"
#include "quest/packed/packed_layout.h"

namespace CLI {
class App;
}

namespace quest::cli {

struct RandomModelArguments {
  std::string shape, quant = "w4a4", embedding = "int8", head = "int8", keep;

  TableFormats formats() const;
};
// --shape, --quant, --embedding, --head; --keep where a command writes one model.
void add_random_model_options(CLI::App& command, RandomModelArguments& arguments,
                              bool with_keep = true);
// Throws kUsage unless exactly one of MODEL and --shape is there, and for --keep without --shape.
void check_bench_model(const std::string& model, const RandomModelArguments& arguments);

// A new folder that goes with this object, in that of TMPDIR.
class TemporaryPlace {
 public:
  TemporaryPlace();
  ~TemporaryPlace();
  TemporaryPlace(const TemporaryPlace&) = delete;
  TemporaryPlace& operator=(const TemporaryPlace&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

class BenchModel {
 public:
  // `model`, or if it is empty a random one whose context is at least so long: in a temporary
  // folder that goes with this object, or in --keep. Throws kUsage for names that do not
  // exist, and what write_random_packed_model throws.
  BenchModel(const std::string& model, const RandomModelArguments& arguments, int64_t context);
  // A random one of this shape and recipe.
  BenchModel(const LlamaConfig& config, const QuantRecipe& recipe, const TableFormats& formats);

  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::optional<TemporaryPlace> place_;
  std::filesystem::path folder_;
};

double median(std::vector<double> values);  // of one or more

}  // namespace quest::cli
