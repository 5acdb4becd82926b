// quest verify: proves that a packed model is the trained model, and writes verify.json into its
// folder.
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <nlohmann/json.hpp>

#include "quest/base/atomic_folder.h"
#include "quest/base/error.h"
#include "quest/base/log.h"
#include "quest/base/progress.h"
#include "quest/base/shutdown.h"
#include "quest/base/version.h"
#include "quest/cli/commands.h"
#include "quest/cli/device_option.h"
#include "quest/cli/verify_gpu.h"
#include "quest/cli/verify_perplexity.h"
#include "quest/cli_run/whole_numbers.h"
#include "quest/convert/verify.h"
#include "quest/data/token_file.h"
#include "quest/text/tokenizer.h"

namespace quest::cli {
namespace {

struct VerifyArguments {
  std::string packed, checkpoint, text, tokens, compute, device = "cpu";
  int64_t prompt = 48, greedy = 16, max_tokens = 65536, gpu_prompts = 100;
  double tolerance = -1;  // percent; below 0: none given
};

using OrderedJson = nlohmann::ordered_json;

// What the run is read from, if no text is given: bytes of a sentence, whatever the tokenizer makes
// of them.
constexpr const char* kSentence =
    "In the beginning was the word, and the word was written down with few bits; and the few bits "
    "were enough, for each of them was trained to be where it is.";

bool has_text(const VerifyArguments& arguments) {
  return !arguments.text.empty() || !arguments.tokens.empty();
}

std::vector<int32_t> read_token_file(const std::string& path, const Tokenizer& tokenizer) {
  const TokenFile file = TokenFile::open(path);
  QUEST_CHECK(file.info().tokenizer_fingerprint == tokenizer.fingerprint(), ErrorKind::kData,
              "{}: made with another tokenizer ({}) than the model's ({})", path,
              file.info().tokenizer_fingerprint, tokenizer.fingerprint());
  std::vector<int32_t> tokens(static_cast<size_t>(file.token_count()));
  file.read(0, tokens);
  return tokens;
}

std::vector<int32_t> read_tokens(const VerifyArguments& arguments, const Tokenizer& tokenizer) {
  const std::string& text = arguments.text;
  std::vector<int32_t> tokens = !arguments.tokens.empty()
                                    ? read_token_file(arguments.tokens, tokenizer)
                                    : tokenizer.encode(text.empty() ? kSentence : read_file(text));
  QUEST_CHECK(tokens.size() >= 2, ErrorKind::kData,
              "{} holds less than two tokens: give a longer text",
              text.empty() ? arguments.tokens : text);
  const auto most = static_cast<size_t>(arguments.max_tokens);
  if (most > 0 && tokens.size() > most) tokens.resize(most);
  return tokens;
}

void print_result(const convert::VerifyResult& result) {
  const char* ok = result.passed() ? "equal" : "compared";
  fmt::print("codes          {} tensors {}: codes, units, norms and tables\n", result.tensors, ok);
  if (result.accumulators > 0) {
    fmt::print("sums           {} int32 sums {} to the definition: {}\n", result.accumulators, ok,
               fmt::join(result.plans, "; "));
  }
  fmt::print("logits         {} {} to the definition (largest difference {})\n", result.logits, ok,
             result.largest_logit_difference);
  fmt::print("greedy         {} tokens {}\n", result.greedy_tokens, ok);
}

OrderedJson result_json(const convert::VerifyResult& result, const PackedModel& packed) {
  return {{"result", result.passed() ? "passed" : "failed"},
          {"checksum", packed.checksum()},
          {"source_hash", packed.source_hash()},
          {"program", version_text()},
          {"tensors", result.tensors},
          {"accumulators", result.accumulators},
          {"plans", result.plans},
          {"logits", result.logits},
          {"largest_logit_difference", result.largest_logit_difference},
          {"greedy_tokens", result.greedy_tokens},
          {"differences", result.differences}};
}

// Perplexities, and what of them is beyond the tolerance among the differences.
void add_perplexity(const VerifyArguments& arguments, const std::filesystem::path& source,
                    std::span<const int32_t> tokens, convert::VerifyResult& result,
                    OrderedJson& json) {
  PerplexityArguments perplexity{arguments.packed, source, arguments.compute, {}};
  if (arguments.tolerance >= 0) perplexity.tolerance = arguments.tolerance / 100;
  PerplexityReport report = verify_perplexity(perplexity, tokens);
  for (const std::string& warning : report.warnings) log::warn("{}", warning);
  for (std::string& difference : report.differences) {
    result.differences.push_back(std::move(difference));
  }
  json["result"] = result.passed() ? "passed" : "failed";
  json["differences"] = result.differences;
  json["perplexity"] = std::move(report.json);
}

void add_gpu(const VerifyArguments& arguments, std::span<const int32_t> tokens,
             convert::VerifyResult& result, OrderedJson& json) {
  GpuReport report = verify_gpu(arguments.packed, tokens, arguments.gpu_prompts);
  for (std::string& difference : report.differences) {
    result.differences.push_back(std::move(difference));
  }
  json["result"] = result.passed() ? "passed" : "failed";
  json["differences"] = result.differences;
  json["gpu"] = std::move(report.json);
}

void run_verify(const VerifyArguments& arguments) {
  install_shutdown_handlers();
  use_device(arguments.device);
  const std::filesystem::path folder = arguments.packed;
  if (std::filesystem::exists(folder / "checksums.json")) verify_folder(folder);
  const PackedModel packed(arguments.packed);
  const std::filesystem::path source = find_model_folder(arguments.checkpoint);
  const convert::CheckpointLayers checkpoint(source);
  const auto tokenizer = load_tokenizer(arguments.packed);
  const std::vector<int32_t> tokens = read_tokens(arguments, *tokenizer);
  convert::VerifyResult result;
  convert::verify_codes(packed, checkpoint, result);
  if (load_tokenizer(source)->fingerprint() != tokenizer->fingerprint()) {
    result.differences.push_back("the tokenizers are different ones");
  }
  const int64_t room = packed.config().max_position_embeddings;
  const int64_t greedy = std::min(arguments.greedy, room - 1);
  const auto prompt = static_cast<size_t>(std::min(arguments.prompt, room - greedy));
  convert::verify_run(arguments.packed, checkpoint,
                      std::span(tokens).first(std::min(prompt, tokens.size())), greedy, result);
  print_result(result);
  OrderedJson json = result_json(result, packed);
  if (has_text(arguments)) add_perplexity(arguments, source, tokens, result, json);
  if (arguments.device == "cuda") add_gpu(arguments, tokens, result, json);
  const std::filesystem::path file = folder / "verify.json";
  write_file_atomically(file, json.dump(2) + "\n");
  for (const std::string& difference : result.differences) log::error("{}", difference);
  QUEST_CHECK(result.passed(), ErrorKind::kData,
              "{} does not stand for {}: {} (written to {}), the first: {}", arguments.packed,
              source.string(),
              format_count(static_cast<int64_t>(result.differences.size()), "difference"),
              file.string(), result.differences.front());
  fmt::print("passed         {}\n", file.string());
}

}  // namespace

void add_verify_command(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("verify", "prove that a packed model is the checkpoint it was made from");
  auto arguments = std::make_shared<VerifyArguments>();
  command->add_option("PACKED", arguments->packed, "a packed model's folder")->required();
  command
      ->add_option("--against", arguments->checkpoint,
                   "the checkpoint, run or Hugging Face Llama folder that was exported")
      ->required();
  CLI::Option* text = command->add_option(
      "--text", arguments->text,
      "a text: its beginning is run, and its perplexity compared with training's");
  command
      ->add_option("--tokens", arguments->tokens,
                   "a token file (.qtok) instead: a run's validation text")
      ->excludes(text);
  command->add_option("--prompt-tokens", arguments->prompt, "tokens of the text that are run")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--greedy-tokens", arguments->greedy, "tokens that are written behind them")
      ->check(whole_number_from(0))
      ->capture_default_str();
  command
      ->add_option("--max-tokens", arguments->max_tokens,
                   "only the first tokens of the text (0: all)")
      ->check(whole_number_from(0))
      ->capture_default_str();
  command
      ->add_option("--tolerance", arguments->tolerance,
                   "percent that perplexity may differ by (default: 0.1 for tables as trained and "
                   "int8 heads, 1 for int8 embeddings, 2 for int4)")
      ->check(CLI::Range(0.0, 100.0));
  command
      ->add_option("--compute", arguments->compute,
                   "compute type of training (default: the run's; bf16 if it is not known)")
      ->check(CLI::IsMember({"bf16", "fp32", "fp64"}));
  add_device_option(*command, arguments->device);
  command
      ->add_option("--gpu-prompts", arguments->gpu_prompts,
                   "with --device cuda: prompts of the text, of up to 128 tokens, that the GPU's "
                   "engine reads next to the CPU's")
      ->check(whole_number_from(1))
      ->capture_default_str();
  command->callback([arguments] { run_verify(*arguments); });
}

}  // namespace quest::cli
