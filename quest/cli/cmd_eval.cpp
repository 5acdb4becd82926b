// quest eval: loss, perplexity and bits per byte of a trained model on text or on a token file, and
// multiple-choice tasks.
#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "quest/base/atomic_folder.h"
#include "quest/base/shutdown.h"
#include "quest/cli/commands.h"
#include "quest/cli/device_option.h"
#include "quest/cli/model_folder.h"
#include "quest/cli_run/evaluate.h"
#include "quest/train/model_scorer.h"

namespace quest::cli {
namespace {

struct EvalArguments {
  std::string model;
  LoadOptions load;
  int64_t batch = 8;
  EvaluateArguments evaluate;
};

void run_eval(const EvalArguments& arguments) {
  check(arguments.evaluate);
  install_shutdown_handlers();
  LoadedModel loaded = load_model(arguments.model, arguments.load);
  train::ModelScorer scorer(*loaded.model, arguments.batch);
  nlohmann::ordered_json json = evaluate(arguments.evaluate, *loaded.tokenizer, scorer);
  json["model"] = loaded.folder.string();
  json["recipe"] = loaded.model->recipe().name;
  json["trained_as"] = loaded.trained.name;
  json["compute_type"] = arguments.load.compute_type;
  json["device"] = arguments.load.device;
  if (!arguments.evaluate.json.empty()) {
    write_file_atomically(arguments.evaluate.json, json.dump(2) + "\n");
  }
}

}  // namespace

void add_eval_command(CLI::App& app) {
  CLI::App* command = app.add_subcommand("eval", "loss, perplexity and bits per byte of a model");
  auto arguments = std::make_shared<EvalArguments>();
  command->add_option("MODEL", arguments->model, "checkpoint, run or Hugging Face Llama folder")
      ->required();
  add_evaluate_options(*command, arguments->evaluate);
  command->add_option("--tokenizer", arguments->load.tokenizer,
                      "tokenizer folder or file, or 'bytes' (default: the model's)");
  command->add_option(
      "--quant", arguments->load.recipe,
      "compute with this recipe instead of the trained one: post-training rounding, "
      "with the Hadamard transform as QuaRot does (w4a4, w2a2_nohadamard, ...)");
  command->add_option("--batch", arguments->batch, "windows computed at once")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--compute", arguments->load.compute_type, "compute type")
      ->check(CLI::IsMember({"bf16", "fp32", "fp64"}))
      ->capture_default_str();
  add_device_option(*command, arguments->load.device);
  command->callback([arguments] { run_eval(*arguments); });
}

}  // namespace quest::cli
