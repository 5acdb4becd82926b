// quest export: a checkpoint as a packed model, or as a dequantized Hugging Face folder.
#include <algorithm>
#include <memory>
#include <string>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/base/shutdown.h"
#include "quest/cli/commands.h"
#include "quest/convert/export_packed.h"
#include "quest/packed/packed_report.h"

namespace quest::cli {
namespace {

struct ExportArguments {
  std::string model, out;
  std::string format = "packed";
  std::string embedding = "bf16", head;
};

std::string percent(double error) { return fmt::format("{:.3f} %", 100 * error); }

void run_export_packed(const ExportArguments& arguments) {
  convert::ExportOptions options;
  options.embedding = table_format_from_name(arguments.embedding);
  if (!arguments.head.empty()) options.head = table_format_from_name(arguments.head);
  const convert::ExportReport report =
      convert::export_packed(arguments.model, arguments.out, options);
  const PackedModel model(arguments.out);
  fmt::print("{}\nembedding      error {} of its norm\nhead           error {} of its norm\n",
             packed_report(model), percent(report.embedding_error), percent(report.head_error));
}

void run_export_hf(const ExportArguments& arguments) {
  const convert::ExportReport report = convert::export_hf(arguments.model, arguments.out);
  fmt::print("{:<44} {:>16} {:>16}\n", "tensor", "to quantized", "to master");
  double largest = 0;
  for (const convert::TensorError& error : report.errors) {
    fmt::print("{:<44} {:>16} {:>16}\n", error.name, percent(error.of_rounding),
               percent(error.of_master));
    largest = std::max(largest, error.of_rounding);
  }
  fmt::print("{:<44} {:>16} {:>16}\n{:<44} {:>16} {:>16}\n\n", "embedding", "",
             percent(report.embedding_error), "head", "", percent(report.head_error));
  fmt::print(
      "wrote {}: {} of {}, rotated back and rounded to BF16, which costs at most {} of a matrix's "
      "norm.\n",
      arguments.out, report.recipe.name, report.source.string(), percent(largest));
  if (!report.warning.empty()) log::warn("{}", report.warning);
  if (report.recipe.activation.is_quantized()) {
    fmt::print("Other programs run it without quantizing activations ({}).\n",
               to_string(report.recipe.activation));
  }
}

void run_export(const ExportArguments& arguments) {
  install_shutdown_handlers();
  if (arguments.format == "packed") {
    run_export_packed(arguments);
  } else {
    run_export_hf(arguments);
  }
}

}  // namespace

void add_export_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "export", "write a model to run elsewhere: packed, or for Hugging Face transformers");
  auto arguments = std::make_shared<ExportArguments>();
  const auto table = CLI::IsMember({"bf16", "int8", "int4"});
  command->add_option("MODEL", arguments->model, "checkpoint, run or Hugging Face Llama folder")
      ->required();
  command->add_option("--out", arguments->out, "the folder to write")->required();
  command->add_option("--format", arguments->format, "packed (quest-run), or hf (transformers)")
      ->check(CLI::IsMember({"packed", "hf"}))
      ->capture_default_str();
  CLI::Option* embedding =
      command->add_option("--embedding", arguments->embedding, "embedding of a packed model")
          ->check(table)
          ->capture_default_str();
  CLI::Option* head =
      command
          ->add_option("--head", arguments->head,
                       "head of a packed model (default: int8; a tied one is the embedding)")
          ->check(table);
  command->callback([arguments, embedding, head] {
    const bool tables = embedding->count() + head->count() > 0;
    QUEST_CHECK(arguments->format == "packed" || !tables, ErrorKind::kUsage,
                "--embedding and --head are of packed models; --format hf writes BF16");
    run_export(*arguments);
  });
}

}  // namespace quest::cli
