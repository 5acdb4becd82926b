#include "quest/cli_run/bench_model.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <system_error>

#include <CLI/CLI.hpp>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/cli_run/bench_shapes.h"
#include "quest/packed/random_model.h"

namespace quest::cli {

TableFormats RandomModelArguments::formats() const {
  return {table_format_from_name(embedding), table_format_from_name(head)};
}

void add_random_model_options(CLI::App& command, RandomModelArguments& arguments, bool with_keep) {
  const CLI::IsMember is_format({"bf16", "int8", "int4"});
  command.add_option("--shape", arguments.shape,
                     "instead of MODEL: random weights of this shape: " + bench_shape_names());
  command.add_option("--quant", arguments.quant, "recipe of --shape")->capture_default_str();
  command.add_option("--embedding", arguments.embedding, "embedding of --shape")
      ->check(is_format)
      ->capture_default_str();
  command.add_option("--head", arguments.head, "head of --shape")
      ->check(is_format)
      ->capture_default_str();
  if (!with_keep) return;
  command.add_option("--keep", arguments.keep,
                     "write the random model into this new folder and leave it there");
}

void check_bench_model(const std::string& model, const RandomModelArguments& arguments) {
  QUEST_CHECK(model.empty() != arguments.shape.empty(), ErrorKind::kUsage,
              "name a packed model's folder or --shape of a random one ({}); {} given",
              bench_shape_names(), model.empty() ? "none was" : "both were");
  QUEST_CHECK(arguments.keep.empty() || !arguments.shape.empty(), ErrorKind::kUsage,
              "--keep {} keeps the random model of --shape", arguments.keep);
}

TemporaryPlace::TemporaryPlace() {
  std::string pattern = (std::filesystem::temp_directory_path() / "quest-bench-XXXXXX").string();
  QUEST_CHECK(mkdtemp(pattern.data()) != nullptr, ErrorKind::kIo,
              "cannot create a temporary folder {}: {} (TMPDIR names another place)", pattern,
              errno_text(errno));
  path_ = pattern;
}

TemporaryPlace::~TemporaryPlace() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

BenchModel::BenchModel(const std::string& model, const RandomModelArguments& arguments,
                       int64_t context)
    : folder_(model) {
  if (!model.empty()) return;
  LlamaConfig config = bench_shape(arguments.shape);
  const QuantRecipe recipe = recipe_from_name(arguments.quant);
  config.max_position_embeddings = std::max(config.max_position_embeddings, context);
  if (arguments.keep.empty()) place_.emplace();
  folder_ = place_ ? place_->path() / "model" : std::filesystem::path(arguments.keep);
  write_random_packed_model(folder_, config, recipe, {.formats = arguments.formats()});
}

BenchModel::BenchModel(const LlamaConfig& config, const QuantRecipe& recipe,
                       const TableFormats& formats)
    : place_(std::in_place), folder_(place_->path() / "model") {
  write_random_packed_model(folder_, config, recipe, {.formats = formats});
}

double median(std::vector<double> values) {
  QUEST_ASSERT(!values.empty(), "median of nothing");
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace quest::cli
