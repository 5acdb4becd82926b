#include "quest/cli_run/engine_options.h"

#include <algorithm>
#include <charconv>
#include <chrono>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/checksum.h"
#include "quest/base/error.h"
#include "quest/base/json_util.h"
#include "quest/base/log.h"
#include "quest/base/progress.h"
#include "quest/cli_run/whole_numbers.h"
#include "quest/packed/packed_report.h"

namespace quest::cli {
namespace {

namespace fs = std::filesystem;

// The model's own checksum does not cover config.json, which may be edited (rope_scaling) or
// damaged.
void warn_of_other_config(const fs::path& folder) {
  const fs::path list = folder / "checksums.json";
  if (!fs::exists(list)) return;
  static const Json::json_pointer kPlace("/files/config.json/xxh3_128");
  try {
    const Json checksums = read_json(list);
    if (checksums.contains(kPlace) &&
        checksums.at(kPlace) == checksum128_hex(read_file(folder / "config.json"))) {
      return;
    }
    log::warn("{} is not the one that was exported (checksums.json): it was edited or is damaged",
              (folder / "config.json").string());
  } catch (const Error& error) {
    log::warn("cannot tell whether config.json is the one that was exported: {}", error.what());
  }
}

// It runs all the same: it may have been compared with another training's checkpoint.
void warn_of_failed_verify(const PackedModel& model) {
  if (verify_text(model) != "failed") return;
  log::warn(
      "{}: `quest verify` failed for this model (verify.json says where): verify it against "
      "the checkpoint that it was made from, or export it again",
      model.folder().string());
}

// "dynamic:4" to type and factor; which there are, extend_context knows.
void parse_rope_scaling(const std::string& text, EngineArguments& arguments) {
  const size_t colon = std::min(text.find(':'), text.size());
  const char* end = text.data() + text.size();
  const char* number = text.data() + std::min(colon + 1, text.size());
  const auto [rest, error] = std::from_chars(number, end, arguments.rope_factor);
  QUEST_CHECK(colon > 0 && error == std::errc() && rest == end, ErrorKind::kUsage,
              "--rope-scaling '{}' is not TYPE:FACTOR, as in dynamic:4 or linear:2", text);
  arguments.rope_type = text.substr(0, colon);
}

// --rope-scaling: of the model, and the longer context unless another is asked for.
void apply_rope_scaling(PackedModel& model, EngineArguments& arguments) {
  if (arguments.rope_type.empty()) return;
  const int64_t trained = model.config().max_position_embeddings;
  const int64_t longer = model.extend_context(arguments.rope_type, arguments.rope_factor);
  if (arguments.context == 0) arguments.context = longer;
  log::info("{}: a context of {} tokens by {} rope scaling; the model was trained for {}",
            arguments.model, arguments.context, arguments.rope_type, trained);
}

}  // namespace

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
          "shared with others; auto: read where there are huge pages and memory enough")
      ->check(CLI::IsMember({"auto", "read", "map"}))
      ->capture_default_str();
  command
      .add_option("--kv-cache", arguments.kv,
                  "numbers of the cache of keys and values: fp16 (the usual ones); int8, half "
                  "the memory; on a GPU also bf16")
      ->check(CLI::IsMember({"fp16", "int8", "bf16"}));
  command
      .add_option("--chunk", arguments.chunk,
                  "prompt tokens computed at once (0: the engine's usual number, 512 on a CPU)")
      ->check(CLI::Range(0, 65536))
      ->capture_default_str();
  command.add_option_function<std::string>(
      "--rope-scaling",
      [&arguments](const std::string& text) { parse_rope_scaling(text, arguments); },
      "TYPE:FACTOR, for texts FACTOR times as long as the model was trained for; linear, dynamic "
      "or llama3 (default: what config.json says)");
  if (with_context) {
    command.add_option("--context", arguments.context, "most tokens of a text (0: the model's)")
        ->check(whole_number_from(0))
        ->capture_default_str();
  }
}

PackedModel open_packed_model(const std::string& folder, int threads, FileAccess access) {
  const fs::path path(folder);
  std::error_code error;
  const char* wanted = "MODEL is the folder of a packed model, as `quest export` writes it";
  QUEST_CHECK(fs::exists(path, error), ErrorKind::kIo, "there is no folder {}: {}", folder, wanted);
  QUEST_CHECK(fs::is_directory(path, error), ErrorKind::kIo, "{} is a file: {}", folder, wanted);
  QUEST_CHECK(fs::exists(path / "config.json", error), ErrorKind::kIo,
              "{} holds no model, config.json is missing: {}", folder, wanted);
  warn_of_other_config(path);
  PackedModel model(path, /*check_values=*/true, threads, access);
  warn_of_failed_verify(model);
  return model;
}

void check_result_file(const std::string& path) {
  if (path.empty()) return;
  const fs::path folder = fs::absolute(path).parent_path();
  QUEST_CHECK(fs::is_directory(folder), ErrorKind::kIo, "cannot write {}: there is no folder {}",
              path, folder.string());
}

namespace {

EngineOptions cpu_options(const RunOptions& options, const EngineArguments& arguments) {
  QUEST_CHECK(arguments.kv != "bf16", ErrorKind::kUsage,
              "--kv-cache bf16 is for a GPU; on a CPU the cache is fp16 or int8");
  EngineOptions result;
  result.threads = options.threads;
  result.context = arguments.context;
  if (arguments.chunk > 0) result.chunk = arguments.chunk;
  result.kv = arguments.kv == "int8" ? KvFormat::kInt8 : KvFormat::kFp16;
  return result;
}

FileAccess access_of(const EngineArguments& arguments) {
  if (arguments.load == "auto") {
    return fastest_access(fs::path(arguments.model) / "model.safetensors");
  }
  return arguments.load == "read" ? FileAccess::kRead : FileAccess::kMap;
}

}  // namespace

std::unique_ptr<CpuEngine> load_cpu_engine(const RunOptions& options,
                                           const EngineArguments& arguments) {
  EngineOptions engine = cpu_options(options, arguments);
  PackedModel model = open_packed_model(arguments.model, options.threads, access_of(arguments));
  EngineArguments chosen = arguments;
  apply_rope_scaling(model, chosen);
  engine.context = chosen.context;
  return std::make_unique<CpuEngine>(std::move(model), engine);
}

LoadedEngine load_engine(const RunOptions& options, const EngineArguments& arguments) {
  const auto start = std::chrono::steady_clock::now();
  const FileAccess access = access_of(arguments);
  PackedModel model = open_packed_model(arguments.model, options.threads, access);
  LoadedEngine loaded;
  loaded.folder = model.folder();
  loaded.recipe = model.recipe().name;
  loaded.checksum = model.checksum();
  loaded.tokenizer = load_tokenizer(
      arguments.tokenizer.empty() ? model.folder() : std::filesystem::path(arguments.tokenizer));
  QUEST_CHECK(loaded.tokenizer->vocab_size() <= model.config().vocab_size, ErrorKind::kData,
              "{}: the tokenizer has {} tokens, the model {}: it is another model's tokenizer",
              arguments.model, loaded.tokenizer->vocab_size(), model.config().vocab_size);
  const std::string what =
      fmt::format("{}: {}, {} parameters, {}", arguments.model, model.recipe().name,
                  format_quantity(static_cast<double>(model.config().parameters()), ""),
                  format_quantity(static_cast<double>(model.file_bytes()), "B"));
  std::string where = "GPU";
  EngineArguments chosen = arguments;
  apply_rope_scaling(model, chosen);
  if (options.make_engine) loaded.engine = options.make_engine(model, chosen);
  if (loaded.engine == nullptr) {
    auto engine = std::make_unique<CpuEngine>(std::move(model), cpu_options(options, chosen));
    where = format_count(engine->threads(), "thread");
    loaded.engine = std::move(engine);
    if (chosen.kv.empty()) chosen.kv = "fp16";
  }
  loaded.kv = chosen.kv;
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  log::info("{}, {} and proven in {:.2f} s, {}", what,
            access == FileAccess::kRead ? "read" : "mapped", took.count(), where);
  if (options.print_plans) fmt::print(stderr, "{}", loaded.engine->plans());
  return loaded;
}

}  // namespace quest::cli
