// quest-run bench: how fast a packed model reads and writes on this machine.
#include <algorithm>
#include <chrono>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "quest/base/atomic_folder.h"
#include "quest/base/cpu_features.h"
#include "quest/base/error.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/base/speed_of_light.h"
#include "quest/base/version.h"
#include "quest/cli_run/bench_model.h"
#include "quest/cli_run/commands.h"
#include "quest/cli_run/machine_report.h"
#include "quest/cli_run/whole_numbers.h"
#include "quest/runtime/random_prompts.h"

namespace quest::cli {
namespace {

constexpr int64_t kPrompt = 512, kTokens = 128;

struct BenchArguments {
  EngineArguments engine;
  RandomModelArguments random;
  std::string json;
  int64_t prompt = 0, tokens = 0;  // 0: kPrompt and kTokens, or what the context holds
  int64_t batch = 1, repeats = 3;
  std::optional<int64_t> depth;  // tokens before those that are written; none: the prompt
  bool measure = false;

  int64_t written_after() const { return depth.value_or(prompt); }
};

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

int64_t peak_memory() {
  std::ifstream status("/proc/self/status");
  return parse_peak_memory({std::istreambuf_iterator<char>(status), {}});
}

struct Speeds {
  std::vector<double> prefill, decode;  // tokens per second
};

// A chunk at a time, as the engine would do it, to look for a signal in between.
void read_prompt(CpuEngine& engine, SequenceId sequence, std::span<const int32_t> prompt,
                 const BenchArguments& arguments, std::vector<float>& logits) {
  const auto vocabulary = static_cast<size_t>(engine.config().vocab_size);
  while (!prompt.empty()) {
    stop_if_asked();
    const auto part =
        prompt.first(std::min(prompt.size(), static_cast<size_t>(arguments.engine.chunk)));
    prompt = prompt.subspan(part.size());
    engine.prefill(sequence, part,
                   prompt.empty() ? std::span(logits).first(vocabulary) : std::span<float>());
  }
}

Speeds measure(CpuEngine& engine, const BenchArguments& arguments) {
  const int64_t vocabulary = engine.config().vocab_size;
  const std::vector<int32_t> prompt = random_prompts(1, arguments.prompt, vocabulary).front();
  const auto batch = static_cast<size_t>(arguments.batch);
  std::vector<SequenceId> sequences(batch);
  for (SequenceId& s : sequences) s = engine.add_sequence();
  std::vector<float> logits(batch * static_cast<size_t>(vocabulary));
  Speeds speeds;
  for (int64_t repeat = -1; repeat < arguments.repeats; ++repeat) {  // the first one warms up
    stop_if_asked();
    for (const SequenceId s : sequences) engine.truncate(s, 0);
    const double read = seconds_of([&] {
      for (const SequenceId s : sequences) read_prompt(engine, s, prompt, arguments, logits);
    });
    for (const SequenceId s : sequences) engine.truncate(s, arguments.written_after());
    std::vector<int32_t> next(batch, prompt.front());
    const int64_t steps = repeat < 0 ? std::min<int64_t>(arguments.tokens, 8) : arguments.tokens;
    const double write = seconds_of([&] {
      for (int64_t i = 0; i < steps; ++i) {
        stop_if_asked();
        engine.decode(sequences, next, logits);
        for (size_t b = 0; b < batch; ++b) {  // greedy, as a program would
          const auto row = logits.begin() + static_cast<std::ptrdiff_t>(b) * vocabulary;
          next[b] = static_cast<int32_t>(std::max_element(row, row + vocabulary) - row);
        }
      }
    });
    if (repeat < 0) continue;
    speeds.prefill.push_back(static_cast<double>(arguments.prompt * arguments.batch) / read);
    speeds.decode.push_back(static_cast<double>(steps * arguments.batch) / write);
  }
  return speeds;
}

// Bytes of weights that a step of writing reads: all but the embedding, of which it reads a row.
int64_t bytes_per_step(const PackedModel& model) {
  if (model.config().tie_word_embeddings) return model.file_bytes();
  const PackedTable& table = model.embedding();
  const size_t bytes = table.weight.size_bytes() + table.codes.size_bytes() +
                       table.row_units.size_bytes() + table.group_units.size_bytes();
  return model.file_bytes() - static_cast<int64_t>(bytes);
}

// Operations of the blocks' products for one token that is read; of the head only the last token's
// row is computed.
double operations_per_token(const LlamaConfig& config) {
  return 2.0 * static_cast<double>(config.non_embedding_parameters());
}

// How close to what this CPU can do; measured after the model, when its memory is warm.
struct Nearness {
  CpuCeilings ceilings;
  double memory = 0, integer = 0;  // shares of the ceilings
};
Nearness nearness_of(const CpuEngine& engine, const BenchArguments& arguments, double prefill,
                     double decode) {
  Nearness near{.ceilings = measure_cpu_ceilings(engine.threads(), 0.05, isa_level())};
  const double steps = decode / static_cast<double>(arguments.batch);
  near.memory = steps * static_cast<double>(bytes_per_step(engine.model())) /
                near.ceilings.memory_read_bytes_per_second;
  near.integer =
      prefill * operations_per_token(engine.config()) / near.ceilings.flops(ComputeType::kInt8);
  return near;
}

// Numbers that were not given: the usual ones, less where the context is short.
void choose_lengths(BenchArguments& arguments, int64_t context) {
  if (arguments.tokens == 0) {
    const int64_t most = arguments.prompt == 0 ? context / 4 : context - arguments.prompt;
    arguments.tokens = std::max<int64_t>(1, std::min(kTokens, most));
  }
  if (arguments.prompt == 0) {
    arguments.prompt = std::max<int64_t>(1, std::min(kPrompt, context - arguments.tokens));
  }
  QUEST_CHECK(arguments.prompt + arguments.tokens <= context, ErrorKind::kUsage,
              "{} prompt and {} written tokens do not fit into the context of {}: give smaller "
              "--prompt-tokens and --tokens",
              arguments.prompt, arguments.tokens, context);
}

// What was measured of an engine, and how near that is to the ceilings if they were asked for.
struct Report {
  Speeds speeds;
  double prefill = 0, decode = 0;  // medians, tokens/s
  int64_t peak_memory = 0;
  std::optional<Nearness> near;
};

void print_report(const CpuEngine& engine, const BenchArguments& arguments, const Report& report) {
  const auto range = [](const std::vector<double>& v) {
    return fmt::format("{:.1f} to {:.1f}", *std::min_element(v.begin(), v.end()),
                       *std::max_element(v.begin(), v.end()));
  };
  const auto megabytes = [](int64_t bytes) { return static_cast<double>(bytes) / 1e6; };
  fmt::print("model     {} {}, {:.1f} MB, {}\n",
             arguments.random.shape.empty() ? arguments.engine.model : arguments.random.shape,
             engine.model().recipe().name, megabytes(engine.model().file_bytes()),
             format_count(engine.threads(), "thread"));
  fmt::print("prefill   {:.1f} tokens/s ({}; {} tokens)\n", report.prefill,
             range(report.speeds.prefill), arguments.prompt);
  fmt::print("decode    {:.1f} tokens/s ({}; {} tokens after {}, batch {}), {:.1f} MB a step\n",
             report.decode, range(report.speeds.decode), arguments.tokens,
             arguments.written_after(), arguments.batch, megabytes(bytes_per_step(engine.model())));
  fmt::print("memory    {:.1f} MB cache, {:.1f} MB scratch; {:.1f} MB at most in all\n",
             megabytes(engine.cache_bytes()), megabytes(engine.scratch_bytes()),
             megabytes(report.peak_memory));
  if (!report.near) return;
  fmt::print("ceilings  {}\n", describe(report.near->ceilings));
  fmt::print("reached   prefill {:.0f} % of INT8, decode {:.0f} % of memory\n",
             100 * report.near->integer, 100 * report.near->memory);
}

nlohmann::ordered_json report_json(const CpuEngine& engine, const BenchArguments& arguments,
                                   const Report& report) {
  nlohmann::ordered_json json = {{"shape", arguments.random.shape},
                                 {"recipe", engine.model().recipe().name},
                                 {"file_bytes", engine.model().file_bytes()},
                                 {"threads", engine.threads()},
                                 {"prompt", arguments.prompt},
                                 {"tokens", arguments.tokens},
                                 {"batch", arguments.batch},
                                 {"prefill_tokens_per_second", report.prefill},
                                 {"decode_tokens_per_second", report.decode},
                                 {"prefill_repeats", report.speeds.prefill},
                                 {"decode_repeats", report.speeds.decode},
                                 {"depth", arguments.written_after()},
                                 {"bytes_per_step", bytes_per_step(engine.model())},
                                 {"operations_per_token", operations_per_token(engine.config())},
                                 {"cache_bytes", engine.cache_bytes()},
                                 {"scratch_bytes", engine.scratch_bytes()},
                                 {"peak_bytes", report.peak_memory},
                                 {"level", isa_level_name(isa_level())},
                                 {"version", version_text()}};
  if (report.near) {
    const CpuCeilings& ceilings = report.near->ceilings;
    json["memory_bytes_per_second"] = ceilings.memory_read_bytes_per_second;
    json["int8_operations_per_second"] = ceilings.flops(ComputeType::kInt8);
    json["int8_instructions"] = ceilings.instructions[static_cast<size_t>(ComputeType::kInt8)];
  }
  return json;
}

void run_bench(const RunOptions& options, BenchArguments& arguments) {
  check_bench_model(arguments.engine.model, arguments.random);
  check_result_file(arguments.json);
  install_shutdown_handlers();
  const auto wanted = [](int64_t given, int64_t usual) { return given == 0 ? usual : given; };
  const BenchModel model(arguments.engine.model, arguments.random,
                         wanted(arguments.prompt, kPrompt) + wanted(arguments.tokens, kTokens) + 1);
  arguments.engine.model = model.folder().string();
  if (arguments.engine.chunk == 0) arguments.engine.chunk = EngineOptions().chunk;
  const std::unique_ptr<CpuEngine> loaded = load_cpu_engine(options, arguments.engine);
  CpuEngine& engine = *loaded;
  choose_lengths(arguments, engine.context_length());
  QUEST_CHECK(arguments.written_after() <= arguments.prompt, ErrorKind::kUsage,
              "--depth {} is more than --prompt-tokens {}", arguments.written_after(),
              arguments.prompt);
  Report report;
  report.speeds = measure(engine, arguments);
  report.prefill = median(report.speeds.prefill);
  report.decode = median(report.speeds.decode);
  report.peak_memory = peak_memory();
  if (arguments.measure) {
    report.near = nearness_of(engine, arguments, report.prefill, report.decode);
  }
  print_report(engine, arguments, report);
  if (arguments.json.empty()) return;
  write_file_atomically(arguments.json, report_json(engine, arguments, report).dump(2) + "\n");
}

}  // namespace

void add_run_bench_command(CLI::App& app, SharedOptions options) {
  CLI::App* command =
      app.add_subcommand("bench", "tokens per second of a packed model or of a random one");
  auto arguments = std::make_shared<BenchArguments>();
  add_engine_options(*command, arguments->engine);
  command->get_option("MODEL")->required(false);
  add_random_model_options(*command, arguments->random);
  command
      ->add_option("--prompt-tokens", arguments->prompt,
                   "tokens to read (default: 512, or what the context holds)")
      ->check(whole_number_from(1));
  command
      ->add_option("--tokens", arguments->tokens,
                   "tokens to write (default: 128, or what the context holds)")
      ->check(whole_number_from(1));
  command
      ->add_option("--depth", arguments->depth,
                   "tokens of the prompt that those written follow (default: all)")
      ->check(whole_number_from(0));
  command->add_option("--batch", arguments->batch, "texts written at once")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command->add_option("--repeats", arguments->repeats, "the median of so many is printed")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  command->add_flag("--measure", arguments->measure,
                    "also measure the CPU's ceilings and print how close this came");
  command->add_option("--json", arguments->json, "also write the result to this file");
  command->callback([options, arguments] { run_bench(*options, *arguments); });
}

}  // namespace quest::cli
