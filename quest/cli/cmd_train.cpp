// quest train: a run from a configuration, resumed where it stopped.
#include <csignal>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/cli/commands.h"
#include "quest/train/allocator.h"
#include "quest/train/source_model.h"
#include "quest/train/trainer.h"

namespace quest::cli {

namespace fs = std::filesystem;
namespace {

using train::TrainConfig;

struct TrainArguments {
  std::vector<std::string> configs;
  std::string resume;     // run folder
  std::string continued;  // run folder or checkpoint
  bool dry_run = false;
  bool print_plans = false;
  bool print_config = false;
  std::unique_ptr<train::ConfigFlags> flags;
};

void apply_file(TrainConfig& config, const fs::path& path) {
  train::apply_toml(config, train::parse_toml_file(path));
}

// The checkpoint that --continue means: itself, or the newest whole one of a run.
fs::path parent_checkpoint(const fs::path& given) {
  if (fs::exists(given / "state.json")) return given;
  const train::CheckpointScan scan = train::find_checkpoints(given);
  for (const std::string& broken : scan.broken) log::warn("checkpoint left aside: {}", broken);
  QUEST_CHECK(!scan.valid.empty(), ErrorKind::kUsage,
              "--continue {}: there is no whole checkpoint in it", given.string());
  return scan.valid.front();
}

// Links (a run's name, `latest`) may point elsewhere tomorrow.
std::string without_links(const fs::path& folder) {
  return fs::proximate(fs::canonical(folder)).string();
}

// Later ones win: the old run's settings, files, flags.
TrainConfig read_config(const TrainArguments& arguments) {
  TrainConfig config;
  if (!arguments.continued.empty()) {
    const fs::path parent = parent_checkpoint(arguments.continued);
    apply_file(config, parent / "config.toml");
    config.run.parent = without_links(parent);
    config.run.init.clear();
  }
  if (!arguments.resume.empty()) apply_file(config, fs::path(arguments.resume) / "config.toml");
  for (const std::string& path : arguments.configs) apply_file(config, path);
  arguments.flags->apply(config);
  if (arguments.resume.empty()) config.run.init = train::resolve_source(config.run.init);
  train::finish_config(config);
  if (!arguments.resume.empty()) {
    const fs::path run = (fs::path(arguments.resume) / "").lexically_normal().parent_path();
    const std::string name = train::run_folder_name(config);
    QUEST_CHECK(fs::canonical(run).filename() == name, ErrorKind::kUsage,
                "--resume {}: with these settings the run would be {}, another one; --continue "
                "makes a run that goes on with changed settings",
                run.string(), name);
    config.run.folder = fs::canonical(run).parent_path().string();
  }
  return config;
}

void print_outcome(const train::TrainOutcome& outcome) {
  fmt::print("run {}\n", outcome.run.string());
  const auto& s = outcome.summary;
  const auto number = [&s](const char* key) {
    return s.contains(key) && s[key].is_number() ? s[key].get<double>() : 0.0;
  };
  if (s.is_object() && !s.empty()) {
    fmt::print("steps {}  tokens {}  train loss {:.4f}", outcome.step,
               static_cast<int64_t>(number("tokens")), number("train_loss"));
    if (s.contains("validation_loss")) {
      fmt::print("  validation loss {:.4f}  perplexity {:.2f}", number("validation_loss"),
                 number("perplexity"));
    }
    const auto bytes = [&](const char* key) {
      return number(key) > 0 ? format_quantity(number(key), "B") : std::string("unknown");
    };
    fmt::print("\n{}  in {}  peak memory {}, with mapped files {}\n",
               format_quantity(number("tokens_per_second"), "tokens/s"),
               format_duration(number("wall_seconds")), bytes("peak_memory_bytes"),
               bytes("peak_resident_bytes"));
    if (s.contains("peak_gpu_memory_bytes")) {
      fmt::print("peak GPU memory {} in tensors, {} reserved\n", bytes("peak_gpu_memory_bytes"),
                 bytes("peak_gpu_reserved_bytes"));
    }
  }
}

void run_train(const TrainArguments& arguments) {
  train::keep_freed_memory();
  // A file beyond the user's limit is then an error like a full disk, not the end of the process.
  std::signal(SIGXFSZ, SIG_IGN);
  TrainConfig config = read_config(arguments);
  if (arguments.print_config) {
    train::adopt_source_model(config);
    fmt::print("{}", train::config_to_toml(config));
    return;
  }
  train::SingleProcess group;
  train::Trainer trainer(std::move(config), group);
  if (arguments.dry_run || arguments.print_plans) {
    const train::RunPlan plan = trainer.plan();
    if (arguments.dry_run) fmt::print("{}", plan.text());
    if (arguments.print_plans) fmt::print("{}", plan.code);
    return;
  }
  install_shutdown_handlers();
  print_outcome(trainer.run(/*must_resume=*/!arguments.resume.empty()));
}

}  // namespace

void add_train_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("train", "train a model, or go on with a run that stopped");
  auto arguments = std::make_shared<TrainArguments>();
  command->add_option("--config,-c", arguments->configs,
                      "TOML file with any of the settings below; of several the later wins, flags "
                      "win over all");
  auto* resume = command->add_option(
      "--resume", arguments->resume,
      "run folder to go on with; the same command as at first does so without this");
  command
      ->add_option("--continue", arguments->continued,
                   "run or checkpoint to go on from with changed settings, in a new run: keeps "
                   "weights, optimizer and data position")
      ->excludes(resume);
  command->add_flag("--dry-run", arguments->dry_run,
                    "print parameters, memory and time, and train nothing");
  command->add_flag("--print-plans", arguments->print_plans,
                    "print which code computes what, and train nothing");
  command->add_flag("--print-config", arguments->print_config,
                    "print the whole configuration as TOML, and train nothing");
  arguments->flags = std::make_unique<train::ConfigFlags>(*command);
  command->callback([arguments] { run_train(*arguments); });
}

}  // namespace quest::cli
