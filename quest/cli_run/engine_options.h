// A packed model's folder to an engine, and the options that say how.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "quest/runtime/cpu_engine.h"
#include "quest/text/tokenizer.h"

namespace CLI {
class App;
}

namespace quest::cli {

struct EngineArguments {
  std::string model, tokenizer;
  std::string kv;  // "fp16", "int8", on a GPU also "bf16"; empty: the engine's usual one
  int64_t context = 0;
  int64_t chunk = 0;  // 0: the engine's usual one
  std::string load = "auto";
  std::string rope_type;  // --rope-scaling; empty: the model's own
  double rope_factor = 1;
};

// Makes an engine other than the CPU's, and fills in what `arguments` leaves to it; nullptr where
// the CPU is to compute.
using EngineMaker =
    std::function<std::unique_ptr<Engine>(PackedModel& model, EngineArguments& arguments)>;

// Of every command of quest-run, and of `quest run`, which has engines of its own.
struct RunOptions {
  int threads = 0;
  bool print_plans = false;
  EngineMaker make_engine;
};
void add_run_options(CLI::App& app, RunOptions& options);

// MODEL, --tokenizer, --load, --kv-cache, --chunk, --rope-scaling and, if wanted, --context.
void add_engine_options(CLI::App& command, EngineArguments& arguments, bool with_context = true);

// The packed model in a folder, proven. Throws kIo and says what MODEL is to be where there is
// none; warns if config.json is not the one that was exported, and if verify.json says "failed".
PackedModel open_packed_model(const std::string& folder, int threads = 0,
                              FileAccess access = FileAccess::kMap);
// Throws kIo unless the folder of a file to be written (empty: none) is there: before the work.
void check_result_file(const std::string& path);

struct LoadedEngine {
  std::unique_ptr<Engine> engine;
  std::unique_ptr<Tokenizer> tokenizer;
  std::string kv;  // format of the cache
  // Of the model.
  std::filesystem::path folder;
  std::string recipe, checksum;
};
// Proves the folder, loads its tokenizer (or the one that is named), prints the plans if asked.
LoadedEngine load_engine(const RunOptions& options, const EngineArguments& arguments);
// The same on the CPU, whatever options say.
std::unique_ptr<CpuEngine> load_cpu_engine(const RunOptions& options,
                                           const EngineArguments& arguments);

}  // namespace quest::cli
