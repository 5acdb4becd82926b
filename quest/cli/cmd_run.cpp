// quest run: packed models by the commands of quest-run, on a CPU or a GPU.
#include <memory>
#include <string>

#include <CLI/CLI.hpp>

#include "quest/base/error.h"
#include "quest/cli/commands.h"
#include "quest/cli/device_option.h"
#include "quest/cli_run/commands.h"
#include "quest/runtime_gpu/cuda_engine.h"

namespace quest::cli {
namespace {

struct PackedRunArguments {
  std::string device = "cpu", numerics;  // empty: exact on a CPU, fast on a GPU
  bool unpacked_weights = false;
};

std::unique_ptr<Engine> make_engine(const PackedRunArguments& arguments, PackedModel& model,
                                    EngineArguments& engine) {
  if (arguments.device == "cpu") {
    QUEST_CHECK(!arguments.unpacked_weights, ErrorKind::kUsage,
                "--unpacked-weights is for --device cuda");
    QUEST_CHECK(arguments.numerics != "fast", ErrorKind::kUsage,
                "--numerics fast is for --device cuda: the CPU's numerics are exact");
    return nullptr;
  }
  CudaEngineOptions options;
  options.context = engine.context;
  options.chunk = engine.chunk;
  options.unpacked_weights = arguments.unpacked_weights;
  if (arguments.numerics == "exact") options.numerics = CudaNumerics::kExact;
  if (engine.kv.empty()) engine.kv = "fp16";
  options.kv = cuda_kv_format_from_name(engine.kv);
  return std::make_unique<CudaEngine>(std::move(model), options);
}

}  // namespace

void add_run_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("run", "run packed models as quest-run does, on a CPU or a GPU");
  command->require_subcommand(1);
  command->fallthrough();
  auto arguments = std::make_shared<PackedRunArguments>();
  const auto options = std::make_shared<RunOptions>();
  add_run_options(*command, *options);
  add_device_option(*command, arguments->device);
  command
      ->add_option("--numerics", arguments->numerics,
                   "exact: the bits of the CPU's engine; fast (on a GPU the usual one): prompts in "
                   "BF16, sums of attention split")
      ->check(CLI::IsMember({"fast", "exact"}));
  command->add_flag("--unpacked-weights", arguments->unpacked_weights,
                    "on a GPU: keep int8 copies of the weights too, for faster prompts");
  options->make_engine = [arguments](PackedModel& model, EngineArguments& engine) {
    return make_engine(*arguments, model, engine);
  };
  add_run_generate_command(*command, options);
  add_run_chat_command(*command, options);
  add_run_eval_command(*command, options);
}

}  // namespace quest::cli
