// quest-run eval: loss, perplexity and bits per byte of a packed model, and multiple-choice tasks.
#include <memory>

#include <CLI/CLI.hpp>

#include "quest/base/atomic_folder.h"
#include "quest/base/shutdown.h"
#include "quest/cli_run/commands.h"
#include "quest/cli_run/engine_scorer.h"
#include "quest/cli_run/evaluate.h"

namespace quest::cli {
namespace {

struct EvalArguments {
  EngineArguments engine;
  EvaluateArguments evaluate;
};

void run_eval(const RunOptions& options, EvalArguments& arguments) {
  check(arguments.evaluate);
  check_result_file(arguments.evaluate.json);
  install_shutdown_handlers();
  LoadedEngine loaded = load_engine(options, arguments.engine);
  EngineScorer scorer(*loaded.engine);
  nlohmann::ordered_json json = evaluate(arguments.evaluate, *loaded.tokenizer, scorer);
  json["model"] = arguments.engine.model;
  json["recipe"] = loaded.recipe;
  json["checksum"] = loaded.checksum;
  json["kv_cache"] = loaded.kv;
  if (!arguments.evaluate.json.empty()) {
    write_file_atomically(arguments.evaluate.json, json.dump(2) + "\n");
  }
}

}  // namespace

void add_run_eval_command(CLI::App& app, SharedOptions options) {
  CLI::App* command =
      app.add_subcommand("eval", "loss, perplexity and bits per byte of a packed model");
  auto arguments = std::make_shared<EvalArguments>();
  add_engine_options(*command, arguments->engine, /*with_context=*/false);
  add_evaluate_options(*command, arguments->evaluate);
  command->callback([options, arguments] { run_eval(*options, *arguments); });
}

}  // namespace quest::cli
