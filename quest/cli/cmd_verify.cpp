// quest verify: proves that a packed model is the trained model, and writes verify.json into its
// folder.
#include <cmath>
#include <memory>
#include <string>

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
#include "quest/cli/model_folder.h"
#include "quest/cli_run/engine_scorer.h"
#include "quest/cli_run/whole_numbers.h"
#include "quest/convert/verify.h"
#include "quest/eval/perplexity.h"
#include "quest/runtime/cpu_engine.h"
#include "quest/train/model_scorer.h"

namespace quest::cli {
namespace {

struct VerifyArguments {
  std::string packed, checkpoint, text;
  int64_t prompt = 48, greedy = 16, max_tokens = 4096;
};

using OrderedJson = nlohmann::ordered_json;

// What the run is read from, if no text is given: bytes of a sentence, whatever the tokenizer makes
// of them.
constexpr const char* kSentence =
    "In the beginning was the word, and the word was written down with few bits; and the few bits "
    "were enough, for each of them was trained to be where it is.";

std::vector<int32_t> read_tokens(const VerifyArguments& arguments, const Tokenizer& tokenizer) {
  const std::string text = arguments.text.empty() ? kSentence : read_file(arguments.text);
  std::vector<int32_t> tokens = tokenizer.encode(text);
  QUEST_CHECK(tokens.size() >= 2, ErrorKind::kData,
              "{} holds less than two tokens: give a longer text", arguments.text);
  return tokens;
}

PerplexityResult perplexity_of(Scorer& scorer, std::span<const int32_t> tokens, int64_t context) {
  PerplexityOptions options;
  options.context_length = context;
  return perplexity(scorer, tokens, options);
}

// Perplexity of the packed model and of the training forward on the text.
OrderedJson compare_perplexity(const VerifyArguments& arguments,
                               const std::filesystem::path& source, std::vector<int32_t> tokens) {
  const auto most = static_cast<size_t>(arguments.max_tokens);
  if (tokens.size() > most) tokens.resize(most);
  CpuEngine engine{PackedModel(arguments.packed)};
  EngineScorer scorer(engine);
  const int64_t context = engine.context_length();
  const PerplexityResult packed = perplexity_of(scorer, tokens, context);
  OrderedJson json = {{"tokens", packed.tokens}, {"packed", packed.perplexity}};
  fmt::print("perplexity     packed {:.4f} on {} tokens\n", packed.perplexity, packed.tokens);
  for (const char* compute : {"bf16", "fp32"}) {
    const LoadedModel loaded = load_model(source, compute);
    train::ModelScorer training(*loaded.model, 1);
    const double value = perplexity_of(training, tokens, context).perplexity;
    fmt::print("               training in {} {:.4f}, difference {:+.4f} ({:+.4f} %)\n", compute,
               value, packed.perplexity - value, 100 * (packed.perplexity / value - 1));
    json[std::string("training_") + compute] = value;
  }
  return json;
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

void run_verify(const VerifyArguments& arguments) {
  install_shutdown_handlers();
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
  if (!arguments.text.empty()) {
    json["perplexity"] = compare_perplexity(arguments, source, tokens);
  }
  const std::filesystem::path file = folder / "verify.json";
  write_file_atomically(file, json.dump(2) + "\n");
  for (const std::string& difference : result.differences) log::error("{}", difference);
  QUEST_CHECK(result.passed(), ErrorKind::kData, "{} is not the model of {}: {} (written to {})",
              arguments.packed, source.string(),
              format_count(static_cast<int64_t>(result.differences.size()), "difference"),
              file.string());
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
  command->add_option("--text", arguments->text,
                      "a text: its beginning is run, and its perplexity compared with training's");
  command->add_option("--prompt-tokens", arguments->prompt, "tokens of the text that are run")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_option("--greedy-tokens", arguments->greedy, "tokens that are written behind them")
      ->check(whole_number_from(0))
      ->capture_default_str();
  command->add_option("--max-tokens", arguments->max_tokens, "tokens of the text for perplexity")
      ->check(CLI::Range(2, 1 << 30))
      ->capture_default_str();
  command->callback([arguments] { run_verify(*arguments); });
}

}  // namespace quest::cli
