// quest bench prefill, quest bench decode: how fast a packed model reads and writes on the GPU, and
// BF16 beside it through the same engine.
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/cli/bench_gpu.h"
#include "quest/cli/device_option.h"
#include "quest/cli/quantities.h"
#include "quest/cli_run/bench_model.h"
#include "quest/cli_run/engine_options.h"
#include "quest/cli_run/whole_numbers.h"
#include "quest/kernels/cuda/packed_gemm.h"
#include "quest/ops/gpu.h"
#include "quest/runtime/random_prompts.h"
#include "quest/runtime_gpu/cuda_engine.h"

namespace quest::cli {
namespace {

constexpr int64_t kTokens = 512;  // read, or there before those that are written
constexpr const char* kBaseline = "bf16";

struct EngineBenchArguments {
  std::string device = "cuda", model, compare, kv = "fp16", json;
  std::string models;  // folder of random models; empty: they are temporary
  RandomModelArguments random;
  std::vector<int64_t> batches;
  int64_t read = 0;       // tokens of a prompt, or the depth; 0: kTokens, or what the context holds
  int64_t written = 128;  // decode: by the host's clock; 0: not measured
  int64_t repeats = 5;
  bool unpacked = false;

  bool writes = false;  // decode

  // The longest that a sequence becomes: one step of decode is timed even if none is written.
  int64_t context() const { return read + (writes ? std::max<int64_t>(1, written) : 0); }
  bool compares() const { return !compare.empty(); }
  std::string name() const {
    if (!random.shape.empty()) return random.shape;
    const std::filesystem::path folder = std::filesystem::path(model).lexically_normal();
    return (folder.has_filename() ? folder : folder.parent_path()).filename().string();
  }
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> words;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return words;
}

// What is measured, the baseline first; "": the model of the folder as it is.
std::vector<std::string> recipes_of(const EngineBenchArguments& arguments) {
  std::vector<std::string> recipes = {""};
  if (!arguments.random.shape.empty()) {
    recipes = split(arguments.random.quant);
    for (const std::string& recipe : recipes) recipe_from_name(recipe);  // known ones only
  }
  if (arguments.compares()) {
    std::erase(recipes, kBaseline);
    recipes.insert(recipes.begin(), kBaseline);
  }
  return recipes;
}

std::unique_ptr<BenchModel> make_model(const EngineBenchArguments& arguments,
                                       const std::string& recipe) {
  if (!arguments.random.shape.empty()) {
    RandomModelArguments random = arguments.random;
    random.quant = recipe;
    const int64_t context = arguments.context();
    if (arguments.models.empty()) return std::make_unique<BenchModel>("", random, context);
    const std::filesystem::path kept =
        std::filesystem::path(arguments.models) /
        fmt::format("{}-{}-{}-{}", random.shape, recipe, random.embedding, random.head);
    if (std::filesystem::exists(kept)) {
      return std::make_unique<BenchModel>(kept.string(), random, context);
    }
    random.keep = kept.string();
    return std::make_unique<BenchModel>("", random, context);
  }
  if (recipe.empty()) return std::make_unique<BenchModel>(arguments.model, arguments.random, 0);
  const PackedModel model(arguments.model, /*check_values=*/false);
  return std::make_unique<BenchModel>(model.config(), recipe_from_name(recipe),
                                      TableFormats{model.embedding().format, model.head().format});
}

// An engine, its model's files, and what it took of the GPU's memory.
struct Loaded {
  std::unique_ptr<BenchModel> files;
  int64_t free_before = 0;
  std::unique_ptr<CudaEngine> engine;

  int64_t device_bytes() const { return free_before - ops::gpu_free_bytes(); }
};

Loaded load(const EngineBenchArguments& arguments, const std::string& recipe) {
  Loaded loaded{.files = make_model(arguments, recipe), .free_before = 0, .engine = nullptr};
  PackedModel model = open_packed_model(loaded.files->folder().string());
  loaded.free_before = ops::gpu_free_bytes();
  const CudaEngineOptions options{.context = arguments.context(),
                                  .kv = cuda_kv_format_from_name(arguments.kv),
                                  .unpacked_weights = arguments.unpacked};
  loaded.engine = std::make_unique<CudaEngine>(std::move(model), options);
  return loaded;
}

// Of one model with so many sequences.
struct Measured {
  std::string recipe;
  QuantRecipe specs;
  int64_t batch = 1;
  std::vector<double> seconds;       // prefill: of the batch; decode: of a step
  std::vector<double> head_seconds;  // decode: the head's part of it
  double written_per_second = 0;     // decode: by the host's clock
  double operations = 0;
  StepBytes bytes;  // decode
  int64_t weight_bytes = 0, cache_bytes = 0, scratch_bytes = 0, device_bytes = 0;

  double time() const { return median(seconds); }
  double head_time() const { return median(head_seconds); }
  double block_time() const { return time() - head_time(); }
};

void add_memory(Measured& m, const Loaded& loaded) {
  m.weight_bytes = loaded.engine->weight_bytes();
  m.cache_bytes = loaded.engine->cache_bytes();
  m.scratch_bytes = loaded.engine->scratch_bytes();
  m.device_bytes = loaded.device_bytes();
}

// So often that the GPU is timed for about this long.
int64_t times_for(double seconds, double one) {
  return std::clamp<int64_t>(static_cast<int64_t>(seconds / std::max(one, 1e-6)), 1, 200);
}

Measured measure_prefill(Loaded& loaded, const EngineBenchArguments& arguments, int64_t batch) {
  CudaEngine& engine = *loaded.engine;
  Measured m;
  m.batch = batch;
  m.operations = prefill_operations(engine.config(), batch, arguments.read);
  const int64_t times = times_for(0.05, engine.time_prefill(batch, arguments.read, 1));
  for (int64_t i = 0; i < arguments.repeats; ++i) {
    stop_if_asked();
    m.seconds.push_back(engine.time_prefill(batch, arguments.read, times));
  }
  add_memory(m, loaded);
  return m;
}

// Sequences of `depth` random tokens each.
std::vector<SequenceId> fill_sequences(CudaEngine& engine, int64_t count, int64_t depth) {
  const auto prompts = random_prompts(count, depth, engine.config().vocab_size);
  std::vector<SequenceId> sequences;
  for (int64_t i = 0; i < count; ++i) sequences.push_back(engine.add_sequence());
  if (depth > 0) engine.prefill_batch(sequences, views_of(prompts), {});
  return sequences;
}

// Tokens per second that a program gets, the most likely token taken each time.
double written_per_second(CudaEngine& engine, std::span<const SequenceId> sequences,
                          const EngineBenchArguments& arguments) {
  const std::vector<int32_t> first(sequences.size(), 1);
  std::vector<int32_t> out(sequences.size() * static_cast<size_t>(arguments.written));
  const auto write = [&] {
    for (const SequenceId s : sequences) engine.truncate(s, arguments.read);
    const auto start = std::chrono::steady_clock::now();
    engine.decode_greedy(sequences, first, arguments.written, out);
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  write();
  std::vector<double> seconds;
  for (int64_t i = 0; i < arguments.repeats; ++i) {
    stop_if_asked();
    seconds.push_back(write());
  }
  for (const SequenceId s : sequences) engine.truncate(s, arguments.read);
  return static_cast<double>(out.size()) / median(seconds);
}

Measured measure_decode(Loaded& loaded, const EngineBenchArguments& arguments, int64_t batch) {
  CudaEngine& engine = *loaded.engine;
  Measured m;
  m.batch = batch;
  const double element_bytes = arguments.kv == "int8" ? 1 : 2;
  m.bytes = step_bytes(engine.model(), batch, arguments.read, element_bytes);
  m.operations = 2.0 * static_cast<double>(batch * engine.config().non_embedding_parameters());
  const std::vector<SequenceId> sequences = fill_sequences(engine, batch, arguments.read);
  const CudaEngine::StepSeconds first = engine.time_decode(sequences, 10);
  const int64_t times = times_for(0.05, first.blocks + first.head);
  for (int64_t i = 0; i < arguments.repeats; ++i) {
    stop_if_asked();
    const CudaEngine::StepSeconds step = engine.time_decode(sequences, times);
    m.seconds.push_back(step.blocks + step.head);
    m.head_seconds.push_back(step.head);
  }
  if (arguments.written > 0) {
    m.written_per_second = written_per_second(engine, sequences, arguments);
  }
  add_memory(m, loaded);
  for (const SequenceId s : sequences) engine.remove_sequence(s);
  return m;
}

// The baseline's measurement with the same batch; null: not compared.
const Measured* baseline_of(const std::vector<Measured>& all, const Measured& m,
                            const EngineBenchArguments& arguments) {
  if (!arguments.compares()) return nullptr;
  for (const Measured& other : all) {
    if (other.recipe == kBaseline && other.batch == m.batch) return &other;
  }
  return nullptr;
}

using Table = std::vector<std::vector<std::string>>;

void print_memory(const std::vector<Measured>& all) {
  Table table = {{"memory", "sequences", "weights", "cache", "scratch", "taken in all"}};
  for (const Measured& m : all) {
    const auto text = [](int64_t bytes) { return bytes_text(static_cast<double>(bytes)); };
    table.push_back({m.recipe, std::to_string(m.batch), text(m.weight_bytes), text(m.cache_bytes),
                     text(m.scratch_bytes), text(m.device_bytes)});
  }
  fmt::print("\n{}", format_table(table));
}

void print_prefill(const std::vector<Measured>& all, const BenchGpu& gpu,
                   const EngineBenchArguments& arguments) {
  Table table = {{"prefill", "sequences", "ms", "least", "most", "tokens/s", "TFLOP/s",
                  "of the ceiling", "x BF16"}};
  for (const Measured& m : all) {
    const Measured* base = baseline_of(all, m, arguments);
    const double s = m.time(), ceiling = gpu.operations_ceiling(m.specs);
    const auto [least, most] = std::minmax_element(m.seconds.begin(), m.seconds.end());
    table.push_back(
        {m.recipe, std::to_string(m.batch), significant(1e3 * s), significant(1e3 * *least),
         significant(1e3 * *most),
         fmt::format("{:.0f}", static_cast<double>(m.batch * arguments.read) / s),
         significant(1e-12 * m.operations / s),
         percent(gpu.ceilings.share(static_cast<double>(m.weight_bytes), m.operations, ceiling, s)),
         ratio_text(base == nullptr ? 0 : base->time() / s)});
  }
  fmt::print("{}, {} tokens a sequence, last-token logits\n{}", arguments.name(), arguments.read,
             format_table(table));
  print_memory(all);
}

void print_decode(const std::vector<Measured>& all, const BenchGpu& gpu,
                  const EngineBenchArguments& arguments) {
  Table table = {{"decode", "sequences", "ms of blocks", "of head", "tokens/s", "with the host",
                  "GB/s in blocks", "of the ceiling", "x BF16 blocks", "x BF16 all"}};
  for (const Measured& m : all) {
    const Measured* base = baseline_of(all, m, arguments);
    const double blocks = m.block_time();
    table.push_back(
        {m.recipe, std::to_string(m.batch), significant(1e3 * blocks),
         significant(1e3 * m.head_time()),
         fmt::format("{:.0f}", static_cast<double>(m.batch) / m.time()),
         m.written_per_second > 0 ? fmt::format("{:.0f}", m.written_per_second) : std::string(),
         significant(1e-9 * m.bytes.blocks / blocks),
         percent(gpu.ceilings.share(m.bytes.blocks, m.operations, gpu.operations_ceiling(m.specs),
                                    blocks)),
         ratio_text(base == nullptr ? 0 : base->block_time() / blocks),
         ratio_text(base == nullptr ? 0 : base->time() / m.time())});
  }
  fmt::print("{}, after {} tokens, {} cache\n{}", arguments.name(), arguments.read, arguments.kv,
             format_table(table));
  print_memory(all);
}

OrderedJson memory_json(const Measured& m) {
  return {{"recipe", m.recipe},
          {"batch", m.batch},
          {"seconds", m.time()},
          {"repeats", m.seconds},
          {"operations", m.operations},
          {"weight_bytes", m.weight_bytes},
          {"cache_bytes", m.cache_bytes},
          {"scratch_bytes", m.scratch_bytes},
          {"device_bytes", m.device_bytes}};
}

OrderedJson base_json(const BenchGpu& gpu, const std::string& program,
                      const EngineBenchArguments& arguments) {
  OrderedJson json = gpu_json(gpu, program);
  json["shape"] = arguments.name();
  json["unpacked_weights"] = arguments.unpacked;
  json["kv_cache"] = arguments.kv;
  return json;
}

// With "columns", "batch_sizes" and "model_NAME" as `quest plot fig7` reads them.
OrderedJson prefill_json(const std::vector<Measured>& all, const BenchGpu& gpu,
                         const EngineBenchArguments& arguments) {
  OrderedJson json = base_json(gpu, "quest bench prefill", arguments);
  json["sequence_length"] = arguments.read;
  json["columns"] = OrderedJson::array();
  json["batch_sizes"] = arguments.batches;
  std::vector<std::vector<double>> rows(arguments.batches.size());
  for (size_t i = 0; i < all.size(); ++i) {
    const size_t batch = i % rows.size();
    if (batch == 0) json["columns"].push_back(all[i].recipe);
    rows[batch].push_back(all[i].time());
  }
  json["model_" + arguments.name()] = rows;
  for (const Measured& m : all) json["measurements"].push_back(memory_json(m));
  return json;
}

OrderedJson decode_json(const std::vector<Measured>& all, const BenchGpu& gpu,
                        const EngineBenchArguments& arguments) {
  OrderedJson json = base_json(gpu, "quest bench decode", arguments);
  json["depth"] = arguments.read;
  for (const Measured& m : all) {
    OrderedJson one = memory_json(m);
    one["block_seconds"] = m.block_time();
    one["head_seconds"] = m.head_time();
    one["block_bytes"] = m.bytes.blocks;
    one["head_bytes"] = m.bytes.head;
    one["written_per_second"] = m.written_per_second;
    json["measurements"].push_back(one);
  }
  return json;
}

// All models, each with all batches; one model at a time is on the GPU.
std::vector<Measured> measure_all(const EngineBenchArguments& arguments,
                                  Measured (*measure)(Loaded&, const EngineBenchArguments&,
                                                      int64_t)) {
  std::vector<Measured> all;
  for (const std::string& recipe : recipes_of(arguments)) {
    stop_if_asked();
    Loaded loaded = load(arguments, recipe);
    const QuantRecipe specs = loaded.engine->model().recipe();
    for (const int64_t batch : arguments.batches) {
      all.push_back(measure(loaded, arguments, batch));
      all.back().recipe = recipe.empty() ? specs.name : recipe;
      all.back().specs = specs;
    }
  }
  return all;
}

// Those that were not given: the usual ones, less where MODEL's context is short.
void choose_lengths(EngineBenchArguments& arguments) {
  if (arguments.model.empty()) {
    if (arguments.read == 0) arguments.read = kTokens;
    return;
  }
  const int64_t context = open_packed_model(arguments.model).config().max_position_embeddings;
  if (arguments.read == 0) {
    arguments.read = std::max<int64_t>(1, std::min(kTokens, context - arguments.context()));
  }
  QUEST_CHECK(arguments.context() <= context, ErrorKind::kUsage,
              "{} tokens and {} written ones do not fit into the context of {}: give fewer",
              arguments.read, arguments.context() - arguments.read, context);
}

BenchGpu prepare(EngineBenchArguments& arguments) {
  check_bench_model(arguments.model, arguments.random);
  QUEST_CHECK(arguments.models.empty() || arguments.model.empty(), ErrorKind::kUsage,
              "--models {} keeps the random models of --shape", arguments.models);
  if (!arguments.models.empty()) {
    std::error_code error;
    std::filesystem::create_directories(arguments.models, error);
    QUEST_CHECK(!error, ErrorKind::kIo, "cannot make the folder {}: {}", arguments.models,
                error.message());
  }
  for (const int64_t batch : arguments.batches) {
    QUEST_CHECK(!arguments.writes || batch <= kernels::cuda::kMaxPackedRows, ErrorKind::kUsage,
                "--batch {}: a step of decode that is timed has up to {} sequences", batch,
                kernels::cuda::kMaxPackedRows);
  }
  recipes_of(arguments);  // names that do not exist are found before the work
  check_result_file(arguments.json);
  const BenchGpu gpu = use_bench_gpu(arguments.device);
  choose_lengths(arguments);
  install_shutdown_handlers();
  fmt::print("{}; ceilings: {}\n", ops::gpu_description(), describe(gpu.ceilings));
  return gpu;
}

void write_json(const EngineBenchArguments& arguments, const OrderedJson& json) {
  if (!arguments.json.empty()) write_file_atomically(arguments.json, json.dump(2) + "\n");
}

void run_prefill(EngineBenchArguments arguments) {
  const BenchGpu gpu = prepare(arguments);
  const std::vector<Measured> all = measure_all(arguments, measure_prefill);
  print_prefill(all, gpu, arguments);
  write_json(arguments, prefill_json(all, gpu, arguments));
}

void run_decode(EngineBenchArguments arguments) {
  const BenchGpu gpu = prepare(arguments);
  const std::vector<Measured> all = measure_all(arguments, measure_decode);
  print_decode(all, gpu, arguments);
  write_json(arguments, decode_json(all, gpu, arguments));
}

void add_options(CLI::App* command, EngineBenchArguments& arguments) {
  command->add_option("MODEL", arguments.model, "a packed model's folder");
  add_random_model_options(*command, arguments.random, /*with_keep=*/false);
  command->get_option("--quant")->description("recipes of --shape, separated by commas");
  command->add_option("--models", arguments.models,
                      "keep the random models of --shape in this folder and take those that are "
                      "there (7B in w4a4 takes 3.5 GB)");
  command
      ->add_option(
          "--compare", arguments.compare,
          "measure this first, in random weights of the same shape, and print ratios to it")
      ->check(CLI::IsMember({kBaseline}));
  command->add_option("--batch", arguments.batches, "sequences at once, one or more numbers")
      ->delimiter(',')
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--kv-cache", arguments.kv, "format of keys and values")
      ->check(CLI::IsMember({"bf16", "fp16", "int8"}))
      ->capture_default_str();
  command->add_option("--repeats", arguments.repeats, "the median of so many is printed")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  add_device_option(*command, arguments.device);
}

}  // namespace

void add_bench_prefill_command(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand("prefill",
                                           "reading prompts, until the logits of their "
                                           "last tokens");
  auto arguments = std::make_shared<EngineBenchArguments>();
  arguments->batches = {1, 8, 32};
  add_options(command, *arguments);
  command
      ->add_option("--prompt-tokens", arguments->read,
                   "tokens of each sequence (default: 512, or what the context holds)")
      ->check(whole_number_from(1));
  command->add_flag("--unpacked-weights", arguments->unpacked,
                    "keep the weights as int8 too, so that they need not be unpacked");
  command->add_option("--json", arguments->json,
                      "also write the times to this file, which `quest plot fig7` draws where "
                      "--compare was given");
  command->callback([arguments] { run_prefill(*arguments); });
}

void add_bench_decode_command(CLI::App& bench) {
  CLI::App* command = bench.add_subcommand(
      "decode", "writing token by token: blocks and head on the GPU, and all with the host");
  auto arguments = std::make_shared<EngineBenchArguments>();
  arguments->batches = {1};
  arguments->writes = true;
  add_options(command, *arguments);
  command
      ->add_option("--depth", arguments->read,
                   "tokens before those written (default: 512, or what the context holds)")
      ->check(whole_number_from(1));
  command
      ->add_option("--tokens", arguments->written,
                   "tokens to write by the host's clock; 0: only the GPU is timed")
      ->check(whole_number_from(0))
      ->capture_default_str();
  command->add_option("--json", arguments->json, "also write the times to this file");
  command->callback([arguments] { run_decode(*arguments); });
}

}  // namespace quest::cli
