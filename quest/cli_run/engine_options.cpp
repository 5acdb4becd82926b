#include "quest/cli_run/engine_options.h"

#include <chrono>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/base/progress.h"
#include "quest/cli_run/whole_numbers.h"

namespace quest::cli {

void add_run_options(CLI::App& app, RunOptions& options) {
  app.add_option("--threads", options.threads, "threads to compute with (0: all usable cores)")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_flag("--print-plans", options.print_plans, "print which code computes what");
}

void add_engine_options(CLI::App& command, EngineArguments& arguments, bool with_context) {
  command.add_option("MODEL", arguments.model, "folder of a packed model (quest export)")
      ->required();
  command.add_option("--tokenizer", arguments.tokenizer,
                     "tokenizer folder or file, or 'bytes' (default: the model's)");
  command
      .add_option(
          "--load", arguments.load,
          "read: weights into memory of this process, on huge pages; map: the file's pages, "
          "shared with others; auto: read where there are huge pages")
      ->check(CLI::IsMember({"auto", "read", "map"}))
      ->capture_default_str();
  command
      .add_option("--kv-cache", arguments.kv,
                  "numbers of the cache of keys and values; int8 takes half the memory")
      ->check(CLI::IsMember({"fp16", "int8"}))
      ->capture_default_str();
  command.add_option("--chunk", arguments.chunk, "prompt tokens computed at once")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  if (with_context) {
    command.add_option("--context", arguments.context, "most tokens of a text (0: the model's)")
        ->check(whole_number_from(0))
        ->capture_default_str();
  }
}

EngineOptions engine_options(const RunOptions& options, const EngineArguments& arguments) {
  EngineOptions result;
  result.threads = options.threads;
  result.context = arguments.context;
  result.chunk = arguments.chunk;
  result.kv = arguments.kv == "int8" ? KvFormat::kInt8 : KvFormat::kFp16;
  return result;
}

LoadedEngine load_engine(const RunOptions& options, const EngineArguments& arguments) {
  const auto start = std::chrono::steady_clock::now();
  const FileAccess access = arguments.load == "auto"   ? fastest_access()
                            : arguments.load == "read" ? FileAccess::kRead
                                                       : FileAccess::kMap;
  PackedModel model(arguments.model, /*check_values=*/true, options.threads, access);
  LoadedEngine loaded;
  loaded.tokenizer = load_tokenizer(
      arguments.tokenizer.empty() ? model.folder() : std::filesystem::path(arguments.tokenizer));
  QUEST_CHECK(loaded.tokenizer->vocab_size() <= model.config().vocab_size, ErrorKind::kData,
              "{}: the tokenizer has {} tokens, the model {}: it is another model's tokenizer",
              arguments.model, loaded.tokenizer->vocab_size(), model.config().vocab_size);
  const std::string what =
      fmt::format("{}: {}, {} parameters, {}", arguments.model, model.recipe().name,
                  format_quantity(static_cast<double>(model.config().parameters()), ""),
                  format_quantity(static_cast<double>(model.file_bytes()), "B"));
  loaded.engine = std::make_unique<CpuEngine>(std::move(model), engine_options(options, arguments));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  log::info("{}, {} and proven in {:.2f} s, {}", what,
            access == FileAccess::kRead ? "read" : "mapped", took.count(),
            format_count(loaded.engine->threads(), "thread"));
  if (options.print_plans) fmt::print(stderr, "{}", loaded.engine->plans());
  return loaded;
}

}  // namespace quest::cli
